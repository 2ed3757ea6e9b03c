import BlockIO
import CrashLab
import Ext4Format
import Testing

/// What the exploration leaves out: disks that it has met before, and states that are too many.
@Suite struct ExplorationTests {
    /// Two disks have the same hash when they hold the same, in whatever epochs: else one would be judged by the other.
    @Test(arguments: 0..<4) func theHashIsThatOfTheContent(disk: Int) throws {
        for seed in UInt64(1)...60 {
            let events = CrashModelTests.trace(seed: seed)
            let base = MemoryDevice(byteCount: CrashModelTests.unitCount * 512)
            let model = try CrashModel(base: base, events: events, disk: CrashModelTests.disks[disk])
            var contentOf: [ImageHash: [UInt8]] = [:], hashOf: [[UInt8]: ImageHash] = [:]
            for epoch in model.epochs {
                var exploration = LazyExploration(EpochChoices(model, epoch))
                while try exploration.next({ device in
                    let content = try contents(device), hash = try device.imageHash()
                    let known = contentOf.updateValue(content, forKey: hash)
                    let before = hashOf.updateValue(hash, forKey: content)
                    #expect(known ?? content == content && before ?? hash == hash, "seed \(seed)")
                }) {}
            }
        }
    }

    /// An explorer that remembers what it found on the disks of other epochs says what one says that has seen none.
    @Test(arguments: [true, false]) func whatIsRememberedIsWhatWouldBeFound(honoursFUA: Bool) throws {
        let outcome = try CrashCampaign(seed: 909, volume: .small, profile: .mixed(12)).record()
        var disk = DiskModel()
        disk.honoursFUA = honoursFUA
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events, disk: disk)
        let judge = HistoryJudge(history: outcome.history, progress: WorkloadProgress(outcome.events))
        func explorer() -> EpochExplorer<HistoryJudge> {
            var explorer = EpochExplorer(model, judge: judge)
            explorer.pathLimit = 16
            explorer.sampleLimit = 4
            return explorer
        }
        let remembering = explorer()
        var known = 0, failures = 0
        for epoch in model.epochs {
            let result = remembering.explore(epoch), fresh = explorer().explore(epoch)
            #expect(result.failures.map(\.picks) == fresh.failures.map(\.picks), "epoch \(epoch.index)")
            #expect(result.failures.map(\.problems) == fresh.failures.map(\.problems), "epoch \(epoch.index)")
            #expect(result.imageCount == fresh.imageCount && result.pathCount == fresh.pathCount)
            known += result.knownImageCount
            failures += result.failures.count
        }
        #expect(known > 0 && (failures == 0) == honoursFUA, "\(known) known, \(failures) failures")
    }

    /// Finds fault with a disk on which one write is missing and others are not, and reads all of it.
    private struct EagerJudge: CrashJudge {
        func recover(_ disk: any BlockDevice) throws(Ext4Error) { _ = try read(disk) }

        func examine(_ disk: any BlockDevice) -> [UInt8] { (try? read(disk)) ?? [] }

        private func read(_ disk: any BlockDevice) throws(Ext4Error) -> [UInt8] {
            let buffer = AlignedBuffer(byteCount: Int(disk.byteCount))
            try disk.read(into: buffer, at: 0)
            return buffer.withBytes { bytes in
                stride(from: 0, to: bytes.byteCount, by: 512).map { bytes.array($0..<$0 + 1)[0] }
            }
        }

        func problems(of finding: [UInt8], in epoch: CrashModel.Epoch) -> [String] {
            finding[0] == 0 && !finding[1...].contains(0) ? ["the first is missing"] : []
        }

        func unread(of base: any BlockDevice) -> [Range<UInt64>] { [] }
    }

    private static func writes(_ count: Int) throws -> CrashModel {
        let trace = Trace()
        for unit in 0..<UInt64(count) {
            let bytes = [UInt8](repeating: UInt8(unit + 1), count: 512)
            trace.completed(
                trace.submitted(.write(offset: unit * 512, bytes: bytes, mode: .cached)), succeeded: true)
        }
        return try CrashModel(base: MemoryDevice(byteCount: count * 512), events: trace.events)
    }

    /// Where lazy choice would take 2^64 runs, it says what it has covered and draws a sample, and that finds what is
    /// far from the first runs.
    @Test func tooManyStatesAreSampled() throws {
        let model = try Self.writes(64)
        var explorer = EpochExplorer(model, judge: EagerJudge())
        explorer.pathLimit = 100
        explorer.sampleLimit = 1000
        let result = explorer.explore(try #require(model.epochs.last))
        #expect(!result.isComplete && result.log2StateCount == 64 && result.pathCount == 100)
        #expect(result.share < 1e-15 && result.sampleCount == 1000)
        let failure = try #require(result.failures.first)
        #expect(result.failures.count == 1 && failure.problems == ["the first is missing"])
        #expect(failure.picks == .chosen([0] + [Int](repeating: 1, count: 63)))
        explorer.seed = 2
        let other = explorer.explore(try #require(model.epochs.last))
        #expect(other.failures.map(\.picks) == [failure.picks])
    }

    /// What can be seen in full is not sampled.
    @Test func fewStatesAreAllSeen() throws {
        let model = try Self.writes(6)
        let result = EpochExplorer(model, judge: EagerJudge()).explore(try #require(model.epochs.last))
        #expect(result.isComplete && result.sampleCount == 0 && result.pathCount == 64 && result.imageCount == 64)
        #expect(abs(result.share - 1) < 1e-12 && result.failures.count == 1)
    }
}
