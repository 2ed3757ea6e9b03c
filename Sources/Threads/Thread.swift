internal import CLinux
internal import Glibc

/// A named pthread that runs one body and can be joined once.
@safe package final class Thread: @unchecked Sendable {
    private final class Body: Sendable {
        let name: String
        let run: @Sendable () -> Void
        init(_ name: String, _ run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }
    private var handle = pthread_t()
    /// Of a scheduled thread: where to ask whether it has ended.
    private let end: Monitor<Bool>?

    /// `name` is shown by the system, 15 bytes at most. A scheduled thread starts scheduled ones.
    package convenience init(name: String, _ run: @escaping @Sendable () -> Void) {
        guard let scheduler = Scheduling.current else {
            self.init(name, nil, run)
            return
        }
        let end = Monitor(false), number = scheduler.announce(name)
        self.init(name, end) {
            Scheduling.run(number, of: scheduler) {
                run()
                end.withLock { $0 = true }
                end.notifyAll()
            }
        }
    }

    /// The first thread of a scheduler. Joined by a thread that is not scheduled.
    package convenience init(name: String, firstOf scheduler: any Scheduler, _ run: @escaping @Sendable () -> Void) {
        let number = scheduler.announce(name)
        self.init(name, nil) { Scheduling.run(number, of: scheduler, run) }
    }

    /// One that its maker can do without: nil when the system has no room for it. Not for a scheduler.
    package init?(ifPossible name: String, _ run: @escaping @Sendable () -> Void) {
        end = nil
        guard start(Body(name, run)) == 0 else { return nil }
    }

    private init(_ name: String, _ end: Monitor<Bool>?, _ run: @escaping @Sendable () -> Void) {
        self.end = end
        let result = start(Body(name, run))
        precondition(result == 0, "pthread_create: errno \(result)")
    }

    /// 0 or an errno.
    private func start(_ body: Body) -> CInt {
        let body = unsafe Unmanaged.passRetained(body)
        let result = unsafe pthread_create(&handle, nil, Self.entry, body.toOpaque())
        if result != 0 { unsafe body.release() }
        return result
    }

    /// Makes the system call that the thread waits in return EINTR, if `signal` has a handler without SA_RESTART.
    /// Not after the join.
    package func interrupt(signal: Int32) { pthread_kill(handle, signal) }

    package func join(file: StaticString = #fileID, line: UInt = #line) {
        end?.wait(file: file, line: line) { hasEnded -> Void? in hasEnded ? () : nil }
        pthread_join(handle, nil)
    }

    private static let entry: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { context in
        guard let context = unsafe context else { return nil }
        let body = unsafe Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
        unsafe jext4_name_thread(body.name)
        body.run()
        return nil
    }
}
