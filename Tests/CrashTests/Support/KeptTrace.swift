import BlockIO
import CrashLab
import Foundation

/// Keeps what it takes to see a failing state again without the test, when there is one: the log, the disk before it
/// and the history, if a command can read it, in a folder of JEXT4_FAILURES (jext4-failures in TMPDIR) that bears the
/// digest of the trace.
final class KeptTrace: Sendable {
    private let events: [Trace.Event]
    private let base: [UInt8]
    private let history: String?
    private let digest: String

    convenience init(_ outcome: CrashCampaign.Outcome) {
        self.init(outcome.events, base: outcome.base, history: outcome.history.text)
    }

    /// `base` is the disk before the first event. `history` nil: that of threads, which no command reads.
    init(_ events: [Trace.Event], base: [UInt8], history: String?) {
        self.events = events
        self.base = base
        self.history = history
        digest = CrashModel.digest(events)
    }

    /// The name of the state, and the command that makes and judges it again.
    func note(_ disk: DiskModel, epoch: Int, _ picks: Picks) -> String {
        let state = CrashStateName(digest: digest, disk: disk, epoch: epoch, picks: picks)
        do {
            let folder = try folder()
            return "  state \(state)\n  jext4-replay crash repro \(state) \(folder)/run.log --base \(folder)/base.img"
                + (history == nil ? "" : " --history \(folder)/history")
        } catch { return "  state \(state), which could not be kept: \(error)" }
    }

    func note(_ state: CrashState) -> String { note(state.choices.model.disk, epoch: state.epoch.index, state.picks) }

    /// `failure` and its note.
    func report(_ failure: EpochResult.Failure, _ disk: DiskModel) -> String {
        (failure.problems + [note(disk, epoch: failure.epoch, failure.picks)]).joined(separator: "\n")
    }

    /// The same files each time, so it does not matter how often, and who comes first.
    private func folder() throws -> String {
        let named = ProcessInfo.processInfo.environment["JEXT4_FAILURES"]
        let folder = "\(named ?? NSTemporaryDirectory() + "/jext4-failures")/\(digest)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let writer = try WriteLogWriter(path: "\(folder)/run.log", sectorByteCount: 512)
        writer.keep(events)
        try writer.close()
        try Data(base).write(to: URL(fileURLWithPath: "\(folder)/base.img"))
        if let history { try Data(history.utf8).write(to: URL(fileURLWithPath: "\(folder)/history")) }
        return folder
    }
}
