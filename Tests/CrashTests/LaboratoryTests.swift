import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// Whole volumes in every state of every epoch, by lazy choice: what `scripts/mutants.py --laboratory` has to find each
/// mutant with. Each part prints what it explored.
@Suite struct LaboratoryTests {
    /// P1 and P2 with names and data: whatever was acknowledged is in every state, and nothing is there in part.
    @Test func everyStateHoldsWhatWasAcknowledged() throws {
        var result = Exploration("names and data")
        try result.explore(CrashCampaign(seed: 909, volume: .small, profile: .mixed(40)).record())
        let isClean = result.isClean()
        #expect(isClean)
    }

    /// Neither flushes nor FUA may be left out: both times the exploration must find a state that is wrong.
    @Test(arguments: [true, false]) func aDiskThatBreaksItsPromiseIsCaught(flush: Bool) throws {
        var disk = DiskModel()
        disk.honoursFlush = !flush
        disk.honoursFUA = flush
        var result = Exploration("\(flush ? "flushes" : "FUA") ignored")
        try result.explore(CrashCampaign(seed: 909, volume: .small, profile: .mixed(40)).record(), disk)
        let isCaught = result.isCaught()
        #expect(isCaught)
    }

    /// P3 on a full volume, where what one file gives up the next one takes: the first is whole as long as its removal
    /// may be undone.
    @Test func everyStateOfAFullVolumeShowsNoOtherFile() throws {
        var work = WorkloadBuilder(ModelTree(blockByteCount: 1024))
        work.create("room")
        work.write("room", at: 0, count: 40 << 10)
        work.create("filler")
        // As much as there is: what does not fit does not happen.
        for (count, size) in [(24, 256 << 10), (16, 16 << 10), (16, 1 << 10)] {
            for piece in 0..<count { work.allocate("filler", at: piece * size, count: size, keepsSize: true) }
        }
        work.unlink("room")
        work.syncAll()
        for round in 0..<3 {
            work.create("old\(round)")
            work.write("old\(round)", at: 0, count: 24 << 10)
            work.syncAll()
            work.unlink("old\(round)")
            work.create("new\(round)")
            work.write("new\(round)", at: 0, count: 24 << 10)
            work.syncAll()
            work.unlink("new\(round)")
        }
        var result = Exploration("a full volume")
        let volume = TestVolume("full", block: 1024, mebibytes: 6, journal: 1, "-m", "0", "-N", "64")
        let outcome = try CrashCampaign(seed: 1, volume: volume, operations: work.operations).record()
        // Behind the filling there are eight operations a round, and the unmount.
        let filled = "end \(outcome.history.steps.count - 26)"
        let begin = try #require(outcome.events.firstIndex { if case .mark(filled) = $0 { true } else { false } })
        try result.explore(outcome, from: begin)
        let isClean = result.isClean()
        #expect(isClean)
    }

    /// P5: the n-th write or flush of the journal fails once. What was acknowledged before is there, what was asked for
    /// afterwards was refused, and the volume tells of the error.
    @Test func everyStateOfAnAbortedVolumeHoldsWhatWasAcknowledged() throws {
        var result = Exploration("errors of the device"), abortCount = 0
        for (operation, ordinal) in [(FaultyDevice.Operation.write, 1), (.write, 4), (.flush, 1), (.flush, 2)] {
            let (outcome, failed, isAborted) = try Self.aborted(operation, ordinal)
            try result.explore(outcome, from: failed, limit: 32)
            guard !result.isDamaged else { break }
            // Where the data of a file failed the volume goes on.
            guard isAborted else { continue }
            abortCount += 1
            for disk in try Self.disksWithAnError(outcome, from: failed) {
                let trace = Trace()
                let device = RecordingDevice(OverlayDevice(over: MemoryDevice(disk.image)), recorder: trace)
                let system = try FileSystem.mount(on: device, options: .deterministic())
                let mounted = disk.hasRecord ? trace.events.count : Int.max
                try system.unmount()
                let next = CrashCampaign.Outcome(history: outcome.history, events: trace.events, base: disk.image)
                try result.explore(next, ErrorJudge(mounted: mounted), limit: 32)
            }
        }
        let isClean = result.isClean()
        #expect(isClean && abortCount > 1)
    }

    /// What the end of an aborted volume leaves; and a power cut when only the log knew of the error.
    private static func disksWithAnError(
        _ outcome: CrashCampaign.Outcome, from failed: Int
    ) throws -> [(image: [UInt8], hasRecord: Bool)] {
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        let end = EpochChoices(model, try #require(model.epochs.last))
        let left = LazyDevice(end, picks: end.landed(at: end.epoch.event))
        let early = model.epochs.lazy.filter { $0.event >= failed }
            .map { LazyDevice(EpochChoices(model, $0), picks: .required) }
            .first { disk in
                guard let volume = try? OfflineVolume(on: OverlayDevice(over: disk)), let journal = volume.journal
                else { return false }
                return journal.superBlock.errorNumber != 0 && !volume.superBlock.state.contains(.hasErrors)
            }
        return [(try contents(left), true), (try contents(try #require(early)), false)]
    }

    /// The recovered volume bears the mark of an error, and remembers which once a mount has returned. (A power cut
    /// while that mount replays may cost what is remembered, and not the mark.)
    private struct ErrorJudge: CrashJudge {
        let mounted: Int

        func recover(_ disk: any BlockDevice) throws(Ext4Error) { try StructureJudge().recover(disk) }

        struct Finding {
            var problems: [String]
            var hasRecord = true
        }

        func examine(_ disk: any BlockDevice) -> Finding {
            do throws(Ext4Error) {
                let volume = try OfflineVolume(on: disk)
                var finding = Finding(problems: StructureJudge().examine(disk))
                if !volume.superBlock.state.contains(.hasErrors) { finding.problems.append("s_state bears no error") }
                finding.hasRecord = volume.superBlock.errors.count > 0
                return finding
            } catch { return Finding(problems: ["\(error)"]) }
        }

        func problems(of finding: Finding, in epoch: CrashModel.Epoch) -> [String] {
            finding.problems + (epoch.event >= mounted && !finding.hasRecord ? ["no error is recorded"] : [])
        }
    }

    /// A workload that meets an error and goes on, as far as it is let; and where it met it.
    private static func aborted(
        _ operation: FaultyDevice.Operation, _ ordinal: Int
    ) throws -> (CrashCampaign.Outcome, failed: Int, isAborted: Bool) {
        let base = try TestVolume.small.make()
        let trace = Trace()
        let faulty = FaultyDevice(OverlayDevice(over: MemoryDevice(base)))
        let run = try WorkloadRun(
            on: RecordingDevice(faulty, recorder: trace), tree: ModelTree(blockByteCount: 1024),
            options: .deterministic())
        var work = WorkloadBuilder(ModelTree(blockByteCount: 1024))
        for name in ["a", "b", "c", "d"] {
            work.create(name)
            work.write(name, at: 0, count: 3000)
            work.sync(name)
        }
        var failed = 0
        for (index, step) in work.operations.enumerated() {
            if index == 6 {
                failed = trace.events.count
                faulty.arm(.init(operation, ordinal: ordinal))
            }
            _ = try? run.perform(step)
        }
        let isAborted = run.system.abortCause != nil
        try? run.system.unmount()
        // Stands for the last call, which had begun and was refused.
        var history = run.history
        history.append(.syncAll)
        return (CrashCampaign.Outcome(history: history, events: trace.events, base: base), failed, isAborted)
    }

    /// P2 for fast commits that Linux wrote: whatever cuts their replay short, the next one ends as it would have.
    @Test(arguments: FastCommitTests.checkedFixtures) func everyCutOfAReplayOfFastCommitsIsMended(
        fixture: FastCommitTests.Fixture
    ) throws {
        let base = try fixture.load()
        let trace = Trace()
        let tree = try StateChecker.recover(RecordingDevice(OverlayDevice(over: base), recorder: trace))
        let outcome = CrashCampaign.Outcome(
            history: ModelHistory(ModelTree(blockByteCount: 1024)), events: trace.events, base: base.bytes)
        var result = Exploration("replay of \(fixture.name)")
        let judge = TreeJudge(trees: [tree], progress: WorkloadProgress(trace.events))
        try result.explore(outcome, judge, limit: 128)
        let isClean = result.isClean()
        #expect(isClean)
    }

    /// P1 and P2 for fast commits as Linux makes them, one after the other, where those of the transaction before lie:
    /// each counts whole or not at all, and from its flush on.
    @Test func everyStateOfFastCommitsHoldsWhatWasAcknowledged() throws {
        let image = try FastCommitTests.fixtures[0].load(), area = try FastCommitArea(on: image)
        let blocks = try area.blocks(of: image)
        let empty = [UInt8](repeating: 0, count: blocks[0].bytes.count)
        func disk(_ contents: [[UInt8]]) -> [UInt8] {
            zip(blocks, contents).reduce(into: image.bytes) { bytes, block in
                bytes.replaceSubrange(block.0.offset..<block.0.offset + empty.count, with: block.1)
            }
        }
        let trees = try (0...blocks.count).map { count in
            let contents = blocks.indices.map { $0 < count ? blocks[$0].bytes : empty }
            return try StateChecker.recover(OverlayDevice(over: MemoryDevice(disk(contents))))
        }
        try #require(zip(trees, trees.dropFirst()).allSatisfy { $0 != $1 })
        let old = blocks.map { area.aged($0.bytes) }
        let trace = Trace(), base = disk(old)
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(base)), recorder: trace)
        for (index, block) in blocks.enumerated() {
            device.mark("begin \(index + 1)")
            // A sector that stays as it is makes no other state.
            for start in stride(from: 0, to: empty.count, by: 512) {
                let sector = Array(block.bytes[start..<start + 512])
                guard sector != Array(old[index][start..<start + 512]) else { continue }
                try device.write(sector.span.bytes, at: UInt64(block.offset + start), mode: .cached)
            }
            try device.flush()
            device.mark("end \(index + 1)")
        }
        let outcome = CrashCampaign.Outcome(
            history: ModelHistory(ModelTree(blockByteCount: empty.count)), events: trace.events, base: base)
        var result = Exploration("fast commits")
        try result.explore(outcome, TreeJudge(trees: trees, progress: WorkloadProgress(trace.events)))
        let isClean = result.isClean()
        #expect(isClean)
    }

    /// The recovered volume is whole and holds one of these trees: at least that of what had returned, at most that of
    /// what had begun.
    private struct TreeJudge: CrashJudge {
        let trees: [CapturedTree]
        let progress: WorkloadProgress

        func recover(_ disk: any BlockDevice) throws(Ext4Error) { try StructureJudge().recover(disk) }

        struct Finding {
            var problems: [String]
            var tree: CapturedTree?
        }

        func examine(_ disk: any BlockDevice) -> Finding {
            var finding = Finding(problems: StructureJudge().examine(disk))
            guard finding.problems.isEmpty else { return finding }
            do throws(Ext4Error) {
                var options = MountOptions.deterministic()
                options.readOnly = true
                finding.tree = try CapturedTree(reading: FileSystem.mount(on: disk, options: options))
            } catch { finding.problems.append("\(error)") }
            return finding
        }

        func problems(of finding: Finding, in epoch: CrashModel.Epoch) -> [String] {
            guard let tree = finding.tree else { return finding.problems }
            let (begun, returned) = progress.at(epoch.event)
            return trees[returned...begun].contains(tree) ? [] : ["no tree from \(returned) to \(begun)"]
        }
    }
}
