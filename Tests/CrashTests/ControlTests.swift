import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// An oracle that cannot fail proves nothing: each of these breaks something on purpose and must be caught.
@Suite struct ControlTests {
    private static let campaign = CrashCampaign(
        seed: 707, volume: .small, profile: .mixed(100), prefixes: 10, inFlight: 0, subsets: 60)

    /// A device that promises to flush and does not loses committed operations.
    @Test func aDeviceThatIgnoresFlushesIsCaught() throws {
        let outcome = try Self.campaign.record()
        var disk = DiskModel()
        disk.honoursFlush = false
        let failures = try Self.campaign.check(outcome, disk, stopAfter: 3).failures
        #expect(failures.count == 3)
    }

    private static func isSync(_ operation: Operation) -> Bool {
        switch operation {
        case .sync, .syncAll: true
        default: false
        }
    }

    /// The write that a sync waited for never reaches the medium.
    @Test func aLostCommitBlockIsCaught() throws {
        var outcome = try Self.campaign.record()
        // The sync that made the most operations durable, and the commit block that it waited for: its last FUA write.
        let steps = outcome.history.steps
        let step = try #require(
            (1..<steps.count).filter { Self.isSync(steps[$0].operation) }.max {
                steps[$0].floor - steps[$0 - 1].floor < steps[$1].floor - steps[$1 - 1].floor
            })
        let synced = try #require(
            outcome.events.firstIndex { if case .mark("end \(step)") = $0 { true } else { false } })
        let commit = try #require(
            outcome.events[..<synced].lastIndex { event in
                if case .submitted(_, .write(_, _, .throughToMedia)) = event { return true }
                return false
            })
        guard case .submitted(let ticket, .write(let at, let bytes, let mode)) = outcome.events[commit] else { return }
        outcome.events[commit] = .submitted(
            ticket: ticket, .write(offset: at, bytes: [UInt8](repeating: 0, count: bytes.count), mode: mode))
        outcome.events = Array(outcome.events[...synced])
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        let end = CrashState(EpochChoices(model, try #require(model.epochs.last)), .required)
        let checker = try StateChecker(
            history: outcome.history, progress: WorkloadProgress(outcome.events), base: outcome.base)
        var failures = 0
        model.forEach([end]) { state, disk in
            if !checker.problems(state, disk, deep: false).isEmpty { failures += 1 }
        }
        #expect(failures == 1)
    }

    /// Data that reaches the medium only after its extent is published shows stale bytes.
    @Test func dataThatFollowsItsCommitIsCaught() throws {
        var outcome = try Self.campaign.record()
        // Writes of file data are those that the model can recognise: they carry the pattern of an append.
        let appended = outcome.history.steps.compactMap { step -> [UInt8]? in
            guard case .write(_, let offset, let count, let stamp) = step.operation, count >= 4096 else { return nil }
            let first = (offset + 1023) / 1024 * 1024
            return Operation.pattern(stamp: stamp, at: first, count: 1024)
        }
        var spoiled = 0
        for (index, event) in outcome.events.enumerated() {
            guard case .submitted(let ticket, .write(let offset, var bytes, let mode)) = event else { continue }
            for start in stride(from: 0, to: bytes.count, by: 1024)
            where appended.contains(Array(bytes[start..<min(start + 1024, bytes.count)])) {
                bytes.replaceSubrange(start..<start + 1024, with: [UInt8](repeating: 0xDB, count: 1024))
                spoiled += 1
            }
            outcome.events[index] = .submitted(ticket: ticket, .write(offset: offset, bytes: bytes, mode: mode))
        }
        #expect(spoiled > 0)
        let failures = try Self.campaign.check(outcome, stopAfter: 3).failures
        #expect(!failures.isEmpty)
    }
}
