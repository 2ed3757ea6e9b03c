import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// P7: with -o outofplace a power cut leaves each overwritten range old or new, per write, and never mixed. The model
/// allows nothing in place there, so that the oracles of P1 and P2 are those of P7.
@Suite struct OutOfPlaceTests {
    private static func campaign(_ seed: UInt64, _ volume: TestVolume, _ count: Int) -> CrashCampaign {
        var campaign = CrashCampaign(seed: seed, volume: volume, profile: .overwrites(count))
        campaign.placement = .outOfPlace
        return campaign
    }

    /// A sample of states, asked everything and by e2fsck too.
    @Test(arguments: TestVolume.all.filter { !$0.hasClusters })
    func anOverwriteIsThereWholeOrNotAtAll(volume: TestVolume) throws {
        try Self.campaign(707, volume, 120).run()
    }

    /// Every state of every epoch.
    @Test(arguments: [TestVolume.small, .large]) func noStateMixesOldAndNew(volume: TestVolume) throws {
        let outcome = try Self.campaign(708, volume, 60).record()
        let found = try outcome.explored()
        for failure in found.failures { Issue.record("\(KeptTrace(outcome).report(failure, DiskModel()))") }
        #expect(found.runCount > 60)
        print("out of place: \(volume.name), \(found.runCount) runs, up to 2^\(Int(found.log2States)) states an epoch")
    }

    /// In place the same workload must show mixed ranges to who does not allow them: else the judge is blind.
    @Test func overwritesInPlaceAreFoundMixed() throws {
        var campaign = Self.campaign(708, .small, 60)
        campaign.placement = .inPlace
        var outcome = try campaign.record()
        var strict = ModelHistory(ModelTree(blockByteCount: 1024, placement: .outOfPlace))
        for step in outcome.history.steps.dropFirst() { strict.append(step.operation) }
        outcome.history = strict
        let found = try outcome.explored()
        #expect(!found.failures.isEmpty)
    }

    /// What is unwritten may be written where it is; what several writes of a batch stage is one change, wherever the
    /// batch is dropped. A volume that is always nearly full commits to get its blocks back.
    @Test func batchesAreOneChangeOnInPlaceVolumesToo() throws {
        var campaign = CrashCampaign(seed: 709, volume: .narrow, profile: .overwrites(120))
        campaign.placement = .inPlace
        try campaign.run()
    }
}

extension CrashCampaign {
    /// Every state of every epoch, which takes more than `least` runs. Then few by all oracles, e2fsck among them.
    func runThroughAllStates(moreThan least: Int) throws {
        let outcome = try record()
        let found = try outcome.explored()
        for failure in found.failures { Issue.record("\(KeptTrace(outcome).report(failure, DiskModel()))") }
        #expect(found.runCount > least)
        var sampled = self
        sampled.boundaries = 4
        try sampled.run()
    }
}

extension CrashCampaign.Outcome {
    /// Every state of every epoch, up to the first that fails.
    func explored() throws -> (failures: [EpochResult.Failure], runCount: Int, log2States: Double) {
        let model = try CrashModel(base: MemoryDevice(base), events: events)
        let judge = HistoryJudge(history: history, progress: WorkloadProgress(events))
        var explorer = EpochExplorer(model, judge: judge)
        explorer.failureLimit = 1
        var result: (failures: [EpochResult.Failure], runCount: Int, log2States: Double) = ([], 0, 0)
        for epoch in model.epochs where result.failures.isEmpty {
            let found = explorer.explore(epoch)
            result.failures += found.failures
            result.runCount += found.pathCount
            result.log2States = max(result.log2States, found.log2StateCount)
        }
        return result
    }
}
