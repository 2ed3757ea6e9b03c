internal import Glibc

/// Time that only goes forward, from an arbitrary start.
package func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// A value behind a mutex, with one condition to wait on: what `Synchronization.Mutex` lacks.
///
/// `body` must not call back into the same monitor. Waiting releases the lock; `body` re-checks in a loop.
@safe @usableFromInline package final class Monitor<State>: @unchecked Sendable {
    private let lock: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    /// In place of both where a scheduler decides.
    private let scheduled: ScheduledLock?
    /// Memory of its own: the lock keeps accesses apart, and a stored property would have that checked once more.
    @usableFromInline let state: UnsafeMutablePointer<State>

    /// `isSystem`: what a scheduler is itself made of.
    package init(_ state: State, isSystem: Bool = false) {
        scheduled = isSystem ? nil : ScheduledLock.ofThisThread()
        unsafe lock = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        unsafe self.state = .allocate(capacity: 1)
        unsafe self.state.initialize(to: state)
        unsafe pthread_mutex_init(lock, nil)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(lock)
        unsafe condition.deallocate()
        unsafe lock.deallocate()
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
    }

    @inlinable package func withLock<R: ~Copyable, E: Error>(
        file: StaticString = #fileID, line: UInt = #line, _ body: (inout State) throws(E) -> R
    ) throws(E) -> R {
        acquire(at: CodePlace(file, line))
        defer { release() }
        return unsafe try body(&state.pointee)
    }

    /// Waits until `ready` gives a value. It is asked under the lock, first at once and then after each `notifyAll`.
    package func wait<R: ~Copyable, E: Error>(
        file: StaticString = #fileID, line: UInt = #line, until ready: (inout State) throws(E) -> R?
    ) throws(E) -> R {
        let place = CodePlace(file, line)
        scheduled?.scheduler.yield()
        acquire(at: place)
        defer { release() }
        while true {
            if let result = unsafe try ready(&state.pointee) { return result }
            waitForNotice(at: place)
        }
    }

    /// As `wait(until:)`, but gives nil when `milliseconds` have passed.
    package func wait<R: ~Copyable, E: Error>(
        milliseconds: Int, file: StaticString = #fileID, line: UInt = #line,
        until ready: (inout State) throws(E) -> R?
    ) throws(E) -> R? {
        try wait(nanoseconds: milliseconds * 1_000_000, file: file, line: line, until: ready)
    }

    /// As `wait(until:)`, but gives nil when `nanoseconds` have passed.
    package func wait<R: ~Copyable, E: Error>(
        nanoseconds: Int, file: StaticString = #fileID, line: UInt = #line,
        until ready: (inout State) throws(E) -> R?
    ) throws(E) -> R? {
        var deadline = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &deadline)
        deadline.tv_sec += nanoseconds / 1_000_000_000
        deadline.tv_nsec += nanoseconds % 1_000_000_000
        if deadline.tv_nsec >= 1_000_000_000 {
            deadline.tv_sec += 1
            deadline.tv_nsec -= 1_000_000_000
        }
        let place = CodePlace(file, line)
        scheduled?.scheduler.yield()
        acquire(at: place)
        defer { release() }
        while true {
            if let result = unsafe try ready(&state.pointee) { return result }
            if !waitForNotice(until: deadline, at: place) { return unsafe try ready(&state.pointee) }
        }
    }

    /// Wakes every waiter to look again. May be called with or without the lock of another monitor held.
    package func notifyAll() {
        if let scheduled { return scheduled.scheduler.wake(self) }
        unsafe pthread_cond_broadcast(condition)
    }

    // MARK: - The lock and the condition

    @usableFromInline func acquire(at place: CodePlace) {
        if let scheduled { return scheduled.acquire(exclusive: true, at: place) }
        unsafe pthread_mutex_lock(lock)
    }

    @usableFromInline func release() {
        if let scheduled { return scheduled.release() }
        unsafe pthread_mutex_unlock(lock)
    }

    /// Gives the lock away until somebody notifies. False when the deadline came first.
    @discardableResult private func waitForNotice(until deadline: timespec? = nil, at place: CodePlace) -> Bool {
        if let scheduled {
            scheduled.release()
            let isNotified = scheduled.scheduler.wait(for: self, isTimed: deadline != nil, at: place)
            scheduled.acquire(exclusive: true, at: place)
            return isNotified
        }
        guard var deadline else {
            unsafe pthread_cond_wait(condition, lock)
            return true
        }
        return unsafe pthread_cond_timedwait(condition, lock, &deadline) != ETIMEDOUT
    }
}
