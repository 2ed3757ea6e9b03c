internal import CLinux

/// Decides which of its threads runs, where that is not left to the system: one at a time, each until it lets others go
/// on. A test that drives threads by a seed gets the same interleaving again.
///
/// What a scheduled thread makes is scheduled too: the threads that it starts, and its monitors and locks, which no
/// other threads may use. A `Mutex` is not: no scheduled thread may wait, or yield, while it holds one.
package protocol Scheduler: AnyObject, Sendable {
    /// The calling thread starts another one. The number names it in `begin`.
    func announce(_ name: String) -> Int
    /// The first call of a new thread: returns when it is its turn.
    func begin(_ number: Int)
    /// The last call of a thread.
    func end()
    /// Any thread may go on before this one does.
    func yield()
    /// Returns when `wake` was called with the same object, and it is this thread's turn. False: `isTimed` is set, and
    /// the time has passed. `place` says who waits.
    func wait(for object: AnyObject, isTimed: Bool, at place: CodePlace) -> Bool
    func wake(_ object: AnyObject)
}

/// Where in the source a thread waits.
@usableFromInline package struct CodePlace: Sendable, CustomStringConvertible {
    @usableFromInline let file: StaticString
    @usableFromInline let line: UInt

    @inlinable package init(_ file: StaticString, _ line: UInt) {
        self.file = file
        self.line = line
    }

    @usableFromInline package var description: String { "\(file):\(line)" }
}

/// The scheduler of a thread, for as long as it runs.
final class Scheduling {
    let scheduler: any Scheduler
    private init(_ scheduler: any Scheduler) { self.scheduler = scheduler }

    /// nil: the system schedules this thread.
    static var current: (any Scheduler)? {
        guard let pointer = unsafe jext4_thread_value() else { return nil }
        return unsafe Unmanaged<Scheduling>.fromOpaque(pointer).takeUnretainedValue().scheduler
    }

    /// Runs `body` as the thread with this number.
    static func run(_ number: Int, of scheduler: any Scheduler, _ body: () -> Void) {
        let scheduling = unsafe Unmanaged.passRetained(Scheduling(scheduler))
        unsafe jext4_set_thread_value(scheduling.toOpaque())
        scheduler.begin(number)
        body()
        jext4_set_thread_value(nil)
        unsafe scheduling.release()
        scheduler.end()
    }
}

/// What a lock is where a scheduler decides: its threads run one at a time, so plain variables do. Writers go first.
final class ScheduledLock {
    let scheduler: any Scheduler
    private var readerCount = 0, waitingWriterCount = 0
    private var isWritten = false

    private init(_ scheduler: any Scheduler) { self.scheduler = scheduler }

    /// nil: the system schedules the calling thread.
    static func ofThisThread() -> ScheduledLock? { Scheduling.current.map(ScheduledLock.init) }

    func acquire(exclusive: Bool, at place: CodePlace) {
        if exclusive { waitingWriterCount += 1 }
        while isWritten || (exclusive ? readerCount : waitingWriterCount) > 0 {
            _ = scheduler.wait(for: self, isTimed: false, at: place)
        }
        if exclusive {
            waitingWriterCount -= 1
            isWritten = true
        } else {
            readerCount += 1
        }
    }

    func release() {
        if isWritten { isWritten = false } else { readerCount -= 1 }
        scheduler.wake(self)
    }
}
