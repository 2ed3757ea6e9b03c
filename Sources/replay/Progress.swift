internal import Glibc
internal import Journal
internal import Synchronization

/// Tells on standard error how far a recovery has come: on a terminal in one line that is written over, and only once
/// it has taken a while; elsewhere, if wanted, in a line for every tenth.
final class Progress: Sendable {
    private struct State {
        var phase: String?
        var tenth = -1
        var shown: ContinuousClock.Instant?
    }
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let isForced: Bool
    private let start = ContinuousClock.now
    private let state = Mutex(State())
    private static let patience = Duration.milliseconds(500)
    private static let interval = Duration.milliseconds(100)

    private init(isForced: Bool) { self.isForced = isForced }

    /// Nil when nobody would read it.
    static func wanted(isForced: Bool) -> Progress? {
        let progress = Progress(isForced: isForced)
        return isForced || progress.isTerminal ? progress : nil
    }

    var handler: RecoveryProgress.Handler { { self.show($0) } }

    private func show(_ progress: RecoveryProgress) {
        show("\(progress.phase)", done: progress.done, total: progress.total, Self.text(progress))
    }

    /// `phase` is what is being done, and to what: "checking, entry".
    func show(_ phase: String, done: Int, total: Int, withEstimate: Bool = false) {
        let estimate = withEstimate ? estimate(done, total) : ""
        show(phase, done: done, total: total, "jext4-replay: \(phase) \(done) of \(total)\(estimate)")
    }

    /// As if the rest took as long as what has been done.
    private func estimate(_ done: Int, _ total: Int) -> String {
        guard done > 0 else { return "" }
        let left = (ContinuousClock.now - start) * (total - done) / done
        return ", about \(left / .seconds(1) < 1 ? 1 : Int(left / .seconds(1))) s left"
    }

    private func show(_ phase: String, done: Int, total: Int, _ text: @autoclosure () -> String) {
        let now = ContinuousClock.now
        let isDue = state.withLock { state in
            let isNew = state.phase != phase
            if isTerminal {
                guard isForced || now - start >= Self.patience else { return false }
                guard isNew || state.shown.map({ now - $0 >= Self.interval }) ?? true else { return false }
            } else {
                let tenth = total > 0 ? done * 10 / total : 10
                guard isNew || tenth > state.tenth else { return false }
                state.tenth = tenth
            }
            state.phase = phase
            state.shown = now
            return true
        }
        if isDue {
            Output.write(isTerminal ? "\r\u{1B}[K\(text())" : text() + "\n", toErrors: true)
        }
    }

    /// Takes the line away.
    func end() {
        if isTerminal && state.withLock({ $0.shown != nil }) { Output.write("\r\u{1B}[K", toErrors: true) }
    }

    private static func text(_ progress: RecoveryProgress) -> String {
        switch progress.phase {
        case .scanning: "jext4-replay: verifying the log, block \(progress.done) of at most \(progress.total)"
        case .writing: "jext4-replay: writing, block \(progress.done) of \(progress.total)"
        case .flushing: "jext4-replay: waiting for the device"
        }
    }
}
