import BlockIO
import CrashLab
import Foundation

/// Keeps what it takes to see a failing state again without the test, when there is one: the log, the disk before it
/// and the history, in a folder of JEXT4_FAILURES (jext4-failures in TMPDIR) that bears the digest of the trace.
final class KeptTrace: Sendable {
    private let outcome: CrashCampaign.Outcome
    private let digest: String

    init(_ outcome: CrashCampaign.Outcome) {
        self.outcome = outcome
        digest = CrashModel.digest(outcome.events)
    }

    /// The name of the state, and the command that makes and judges it again.
    func note(_ disk: DiskModel, epoch: Int, _ picks: Picks) -> String {
        let state = CrashStateName(digest: digest, disk: disk, epoch: epoch, picks: picks)
        do {
            let folder = try folder()
            return "  state \(state)\n  jext4-replay crash repro \(state) \(folder)/run.log --base \(folder)/base.img "
                + "--history \(folder)/history"
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
        writer.keep(outcome.events)
        try writer.close()
        try Data(outcome.base).write(to: URL(fileURLWithPath: "\(folder)/base.img"))
        try Data(outcome.history.text.utf8).write(to: URL(fileURLWithPath: "\(folder)/history"))
        return folder
    }
}
