package import Threads

/// Why the threads of a scheduler did not come to an end.
package enum SchedulerFailure: Error, CustomStringConvertible {
    /// Nobody can go on. A line for each thread: where it waits, and for what.
    case deadlock([String])
    /// A thread holds the others up: it has not come back to the scheduler for a long time.
    case stuck([String])

    package var description: String {
        switch self {
        case .deadlock(let threads): "deadlock:\n" + threads.map { "  \($0)" }.joined(separator: "\n")
        case .stuck(let threads): "a thread does not yield:\n" + threads.map { "  \($0)" }.joined(separator: "\n")
        }
    }
}

/// Runs threads one at a time, and chance decides at each place where a thread may wait which goes on: the same seed
/// gives the same interleaving.
///
/// Time does not pass by itself: who waits with a limit waits until chance says that it is over, or until nobody else
/// can go on.
package final class SeededScheduler: Scheduler {
    private enum Standing {
        case ready
        case waiting(AnyObject, isTimed: Bool, at: CodePlace)
        case ended
    }
    private struct Member {
        let name: String
        var standing = Standing.ready
        /// Its wait was ended by time.
        var isTimedOut = false
        /// What it is doing, for reports.
        var work = ""
        /// True when it is its turn: where the thread really waits.
        let turn = Monitor(false, isSystem: true)

        init(name: String) { self.name = name }
    }
    private struct State {
        var random: SeededRandom
        var members: [Member] = []
        var running = 0
        /// Choices so far: a thread that blocks the others makes none.
        var choices: UInt64 = 0
        /// How often in a row time had to pass because nobody else could go on.
        var quietTimeouts = 0
    }
    private enum Outcome {
        case finished
        case deadlock
    }
    private let state: Monitor<State>
    private let outcome = Monitor<Outcome?>(nil, isSystem: true)
    /// A thread that may go on is interrupted once in so many times, and a wait with a limit comes to its end.
    private let switchRate: Int, timeRate = 400
    /// So many in a row, and nothing will ever happen.
    private static let quietLimit = 20
    private static let patienceMilliseconds = 60_000

    /// `switchRate`: of so many places where another thread could go on, one does; at least 1.
    package init(seed: UInt64, switchRate: Int) {
        state = Monitor(State(random: SeededRandom(seed: seed)), isSystem: true)
        self.switchRate = switchRate
    }

    /// Runs `body` and what it starts, and returns when `body` has ended: it joins the others. After a failure the
    /// threads stay where they are for good.
    package func run(_ body: @escaping @Sendable () -> Void) throws(SchedulerFailure) {
        let first = Thread(name: "first", firstOf: self) { body() }
        state.withLock { $0.members[0].turn }.pass()
        var seen: UInt64 = .max
        while true {
            let found = outcome.wait(milliseconds: Self.patienceMilliseconds) { $0 }
            switch found {
            case .finished: return first.join()
            case .deadlock: throw .deadlock(report)
            case nil:
                let choices = state.withLock { $0.choices }
                if choices == seen { throw .stuck(report) }
                seen = choices
            }
        }
    }

    /// Says what the calling thread does from now on: the report of a deadlock shows it.
    package func note(_ work: String) {
        state.withLock { $0.members[$0.running].work = work }
    }

    private var report: [String] {
        state.withLock { state in
            state.members.indices.compactMap { number in
                let member = state.members[number]
                let name = member.work.isEmpty ? member.name : "\(member.name), \(member.work)"
                switch member.standing {
                case .ended: return nil
                case .ready: return "\(name): \(number == state.running ? "runs" : "ready")"
                case .waiting(let object, _, let place): return "\(name): waits at \(place) for \(type(of: object))"
                }
            }
        }
    }

    // MARK: - What threads call

    package func announce(_ name: String) -> Int {
        state.withLock { state in
            state.members.append(Member(name: name))
            return state.members.count - 1
        }
    }

    package func begin(_ number: Int) { state.withLock { $0.members[number].turn }.await() }

    package func end() {
        let isFirst = state.withLock { state in
            state.members[state.running].standing = .ended
            return state.running == 0
        }
        // Whoever is left then has nobody to join it.
        if isFirst { return finish(.finished) }
        guard let next = choose()?.next else { return finish(.deadlock) }
        next.pass()
    }

    package func yield() { handOver() }

    package func wait(for object: AnyObject, isTimed: Bool, at place: CodePlace) -> Bool {
        state.withLock { state in
            state.members[state.running].isTimedOut = false
            state.members[state.running].standing = .waiting(object, isTimed: isTimed, at: place)
        }
        handOver()
        return state.withLock { !$0.members[$0.running].isTimedOut }
    }

    package func wake(_ object: AnyObject) {
        state.withLock { state in
            for number in state.members.indices {
                guard case .waiting(let wanted, _, _) = state.members[number].standing, wanted === object else {
                    continue
                }
                state.members[number].standing = .ready
            }
        }
    }

    // MARK: - Choices

    /// Lets the chosen thread go on, and returns when that is this one.
    private func handOver() {
        guard let (own, next) = choose() else {
            finish(.deadlock)
            // For good.
            return Monitor(false, isSystem: true).await()
        }
        if own === next { return }
        next.pass()
        own.await()
    }

    private func finish(_ result: Outcome) {
        outcome.withLock { $0 = result }
        outcome.notifyAll()
    }

    /// Chooses who runs from now on; nil: nobody can.
    private func choose() -> (own: Monitor<Bool>, next: Monitor<Bool>)? {
        state.withLock { state in
            state.choices += 1
            let own = state.running
            guard let next = Self.next(&state, switchRate, timeRate) else { return nil }
            state.running = next
            return (state.members[own].turn, state.members[next].turn)
        }
    }

    private static func next(_ state: inout State, _ switchRate: Int, _ timeRate: Int) -> Int? {
        var ready: [Int] = [], timed: [Int] = []
        for (number, member) in state.members.enumerated() {
            switch member.standing {
            case .ready: ready.append(number)
            case .waiting(_, true, _): timed.append(number)
            default: continue
            }
        }
        var next: Int?
        if case .ready = state.members[state.running].standing, !state.random.once(in: switchRate) {
            next = state.running
        } else if timed.isEmpty || !state.random.once(in: timeRate) {
            next = ready.randomElement(using: &state.random)
        }
        if let next {
            if !state.members[next].isTimedOut { state.quietTimeouts = 0 }
            return next
        }
        state.quietTimeouts += 1
        let late = state.quietTimeouts <= quietLimit ? timed.randomElement(using: &state.random) : nil
        guard let late else { return nil }
        state.members[late].standing = .ready
        state.members[late].isTimedOut = true
        return late
    }
}

extension Monitor<Bool> {
    fileprivate func pass() {
        withLock { $0 = true }
        notifyAll()
    }

    fileprivate func await() {
        wait { isMine -> Void? in
            guard isMine else { return nil }
            isMine = false
            return ()
        }
    }
}
