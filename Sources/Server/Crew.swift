internal import Ext4Format
internal import Glibc
internal import Synchronization
internal import Threads

/// The threads that serve a connection, and how they end: together, when one of them sees the end or is told to stop.
///
/// Each source of requests has threads of its own, started as requests come that find none of them idle.
final class Crew: Sendable {
    /// One source of requests and who waits for one.
    final class Post: Sendable {
        let source: RequestSource
        /// The most threads.
        let limit: Int
        fileprivate let idleCount = Atomic<Int>(0)
        fileprivate let count = Atomic<Int>(0)

        /// Started and not ended.
        fileprivate var threadCount: Int { count.load(ordering: .relaxed) }

        init(_ source: RequestSource, limit: Int) {
            self.source = source
            self.limit = max(1, limit)
        }
    }

    private struct State {
        var posts: [Post] = []
        var started: [Thread] = []
        var endedCount = 0
        var isStopping = false

        var hasEnded: Bool { isStopping && endedCount == started.count }
    }
    private let state = Monitor(State())

    /// Returns when every thread is done.
    func waitForAll() {
        let threads = state.wait { state -> [Thread]? in state.hasEnded ? state.started : nil }
        for thread in threads { thread.join() }
    }

    /// Why a thread has ended.
    enum End {
        /// The connection has ended, or the crew stops.
        case all
        /// It cannot work. The last at a post takes the mount down, for there requests would wait for ever.
        case alone
    }

    /// Starts a thread at the post if it may have one more, and the system has one. Without the first there is no
    /// server.
    func start(_ post: Post, _ work: @escaping @Sendable () -> End) {
        state.withLock { state in
            guard !state.isStopping, post.threadCount < post.limit else { return }
            if !state.posts.contains(where: { $0 === post }) { state.posts.append(post) }
            let isFirst = post.count.add(1, ordering: .relaxed).oldValue == 0
            let body: @Sendable () -> Void = { [self] in end(work(), at: post) }
            let name = "jext4-fuse"
            if let thread = isFirst ? Thread(name: name, body) : Thread(ifPossible: name, body) {
                state.started.append(thread)
            } else {
                post.count.subtract(1, ordering: .relaxed)
            }
        }
    }

    private func end(_ cause: End, at post: Post) {
        let isDeserted = post.count.subtract(1, ordering: .relaxed).newValue == 0
        state.withLock { state in
            // One thread saw the end of the connection: all will.
            if cause == .all { state.isStopping = true }
            state.endedCount += 1
        }
        state.notifyAll()
        if isDeserted && cause == .alone { kill(getpid(), SIGTERM) }
    }

    /// Waits for a request by `receive`. Then nobody else waits at the post: `isLast`.
    func wait(at post: Post, for receive: () -> Int) -> (count: Int, isLast: Bool) {
        post.idleCount.add(1, ordering: .releasing)
        let count = receive()
        return (count, post.idleCount.subtract(1, ordering: .relaxed).newValue == 0)
    }

    /// Whether no thread serves a request at such posts.
    func isAtRest(where isMeant: (RequestSource) -> Bool) -> Bool {
        state.withLock { state in
            state.posts.allSatisfy { post in
                !isMeant(post.source) || post.idleCount.load(ordering: .acquiring) == post.threadCount
            }
        }
    }

    var isStopping: Bool { state.withLock { $0.isStopping } }

    /// Makes every thread end after the request that it serves. Does not wait.
    func stop() {
        state.withLock { state in
            state.isStopping = true
            guard !state.hasEnded else { return }
            for thread in state.started { thread.interrupt(signal: SIGUSR1) }
        }
        state.notifyAll()
    }

    /// Whether the crew has ended within the time. A thread may miss the signal of `stop` just before it waits: it is
    /// given again.
    func waitForEnd(milliseconds: Int) -> Bool {
        state.wait(milliseconds: milliseconds) { $0.hasEnded ? true : nil } ?? false
    }

    /// Returns when no thread but the calling one serves a request.
    func waitForOthers() {
        let pollMicroseconds: UInt32 = 200
        while true {
            let busy = state.withLock { state in
                let idle = state.posts.reduce(0) { $0 + $1.idleCount.load(ordering: .acquiring) }
                return state.started.count - state.endedCount - idle
            }
            if busy <= 1 { return }
            usleep(pollMicroseconds)
        }
    }
}
