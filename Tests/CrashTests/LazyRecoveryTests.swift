import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// Lazy choice over our own recovery: every state of a workload, in as many runs as recovery can tell apart.
@Suite struct LazyRecoveryTests {
    private static let volumes: [TestVolume] = [.small, .narrow, .checkedIndirect]

    /// P2 without sampling: after a power cut at any moment, whatever of the cache was lost, the volume is whole. The
    /// runs stand for all states, and e2fsck agrees about one state of each of them and about another of the same.
    @Test(arguments: volumes) func everyStateOfAWorkloadIsWholeAfterRecovery(volume: TestVolume) throws {
        let outcome = try CrashCampaign(seed: 808, volume: volume, profile: .mixed(60)).record()
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        let judge = StructureJudge(), kept = KeptTrace(outcome)
        var random = SeededRandom(seed: 808)
        var (paths, widest, external) = (0, 0.0, 0)
        for epoch in model.epochs {
            var members: [Picks] = []
            let choices = EpochChoices(model, epoch)
            let result = EpochExplorer(model, judge: judge).explore(epoch) { device in
                members += [device.firstMember(), device.member(&random)]
            }
            #expect(result.isComplete && abs(result.share - 1) < 1e-9, "epoch \(epoch.index): \(result.share)")
            for failure in result.failures { Issue.record("\(volume.name), \(kept.report(failure, model.disk))") }
            paths += result.pathCount
            widest = max(widest, result.log2StateCount)
            for picks in random.sample(members, count: 2) {
                let disk = LazyDevice(choices, picks: picks)
                try judge.recover(disk)
                #expect(judge.problems(of: disk, in: epoch) == [])
                let image = TemporaryFile("member", contents: try contents(disk))
                let check = Tools.run("e2fsck", "-fn", image.path)
                #expect(check.status == 0, "\(volume.name), epoch \(epoch.index), \(picks): \(check.output)")
                external += 1
            }
        }
        // An exploration that finds nothing to explore would be right about nothing.
        #expect(paths > model.epochs.count && widest > 40)
        print(
            "lazy recovery: \(volume.name), \(model.epochs.count) epochs, up to 2^\(Int(widest)) states in one, "
                + "\(paths) paths, \(external) checked by e2fsck")
    }
}
