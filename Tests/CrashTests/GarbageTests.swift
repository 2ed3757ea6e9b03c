import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// A disk that leaves garbage in a sector that it was writing when power failed: which promises hold on it.
@Suite struct GarbageTests {
    private static let disk: DiskModel = {
        var disk = DiskModel()
        disk.leavesGarbage = true
        return disk
    }()

    private static func outcome(_ volume: TestVolume) throws -> CrashCampaign.Outcome {
        try CrashCampaign(seed: 1010, volume: volume, profile: .mixed(24)).record()
    }

    /// P1 and P2: what is being written to the log ends it, what is being written home is in the log. Only bytes that a
    /// write in place was about to replace, and that no sync covers, may be gone. With checksums and without. The
    /// journal is found even where the inode table or the group descriptors that lead to it were on their way home.
    @Test(arguments: [TestVolume.small, .noChecksums])
    func whatWasAcknowledgedSurvivesGarbage(volume: TestVolume) throws {
        let outcome = try Self.outcome(volume)
        let base = MemoryDevice(outcome.base)
        let spared = StructureJudge.soleCopies(on: base)
        #expect(spared.count == 2)
        let model = try CrashModel(base: base, events: outcome.events, disk: Self.disk, sparing: spared)
        let judge = HistoryJudge(
            history: outcome.history, progress: WorkloadProgress(outcome.events), admitsGarbage: true)
        var explorer = EpochExplorer(model, judge: judge)
        explorer.pathLimit = 32
        explorer.failureLimit = 1
        let kept = KeptTrace(outcome)
        var paths = 0
        for epoch in model.epochs {
            let result = explorer.explore(epoch)
            for failure in result.failures { Issue.record("\(volume.name), \(kept.report(failure, model.disk))") }
            paths += result.pathCount
        }
        #expect(paths > model.epochs.count)
    }

    /// Garbage in one of the two blocks of which there is but one is refused by name: nobody takes it for a volume.
    @Test func garbageInASoleCopyIsRefused() throws {
        let outcome = try Self.outcome(.small)
        let base = MemoryDevice(outcome.base)
        let model = try CrashModel(base: base, events: outcome.events, disk: Self.disk)
        let spared = StructureJudge.soleCopies(on: base)
        var refused: Set<String> = []
        for epoch in model.epochs {
            let choices = EpochChoices(model, epoch)
            for (name, range) in zip(["super block", "journal super block"], spared) {
                // The first sector of each has the magic number.
                guard let index = choices.variables.firstIndex(of: range.lowerBound / 512) else { continue }
                var values = [Int](repeating: 0, count: choices.variables.count)
                values[index] = choices.count(of: choices.variables[index]) - 1
                let disk = LazyDevice(choices, picks: .chosen(values))
                #expect(throws: Ext4Error.self) { try StructureJudge().recover(disk) }
                refused.insert(name)
            }
        }
        #expect(refused.count == 2)
    }

    /// A control: data that was acknowledged is garbage on a disk that forgets flushes, and the judge says so even when
    /// it admits some.
    @Test func garbageInAcknowledgedDataIsCaught() throws {
        let outcome = try Self.outcome(.small)
        var disk = Self.disk
        disk.honoursFlush = false
        let base = MemoryDevice(outcome.base)
        let spared = StructureJudge.soleCopies(on: base)
        let model = try CrashModel(base: base, events: outcome.events, disk: disk, sparing: spared)
        let judge = HistoryJudge(
            history: outcome.history, progress: WorkloadProgress(outcome.events), admitsGarbage: true)
        var explorer = EpochExplorer(model, judge: judge)
        explorer.pathLimit = 32
        explorer.failureLimit = 1
        #expect(model.epochs.contains { !explorer.explore($0).failures.isEmpty })
    }
}
