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
    func start(name: String, intervalMilliseconds: Int?, _ work: @escaping @Sendable () -> Void) {
        let body = Thread(name: name) { [state] in
            while Self.waitForWork(state, intervalMilliseconds) { work() }
        }
        thread.withLock { $0 = body }
    }

    /// False when the thread is to end.
    private static func waitForWork(_ state: Monitor<State>, _ intervalMilliseconds: Int?) -> Bool {
        func ready(_ state: inout State) -> Bool? {
            if state.isStopped { return false }
            guard state.isWanted else { return nil }
            state.isWanted = false
            return true
        }
        guard let intervalMilliseconds else { return state.wait(until: ready) }
        return state.wait(milliseconds: intervalMilliseconds, until: ready) ?? true
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
