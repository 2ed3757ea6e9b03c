internal import Synchronization
internal import Threads

/// A thread that runs one piece of work when it is woken, or when an interval has passed.
final class Worker: Sendable {
    private struct State {
        var isWanted = false
        var isStopped = false
    }
    private let state = Monitor(State())
    private let thread = Mutex<Thread?>(nil)

    /// `intervalMilliseconds` nil: only when woken.
    func start(name: String, intervalMilliseconds: Int?, _ work: @escaping @Sendable (_ wasWoken: Bool) -> Void) {
        let body = Thread(name: name) { [state] in
            while true {
                switch Self.waitForWork(state, intervalMilliseconds) {
                case .woken: work(true)
                case .interval: work(false)
                case .stop: return
                }
            }
        }
        thread.withLock { $0 = body }
    }

    private enum Call {
        case woken
        case interval
        case stop
    }

    private static func waitForWork(_ state: Monitor<State>, _ intervalMilliseconds: Int?) -> Call {
        func ready(_ state: inout State) -> Call? {
            if state.isStopped { return .stop }
            guard state.isWanted else { return nil }
            state.isWanted = false
            return .woken
        }
        guard let intervalMilliseconds else { return state.wait(until: ready) }
        return state.wait(milliseconds: intervalMilliseconds, until: ready) ?? .interval
    }

    /// Work that is already under way is followed by another round.
    func wake() {
        state.withLock { $0.isWanted = true }
        state.notifyAll()
    }

    /// Lets the round under way finish and joins the thread. Not from the thread itself; a second call does nothing.
    func stop() {
        state.withLock { $0.isStopped = true }
        state.notifyAll()
        let thread = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        thread?.join()
    }
}
