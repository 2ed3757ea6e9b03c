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
@safe package final class Monitor<State>: @unchecked Sendable {
    private let lock: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var state: State

    package init(_ state: State) {
        unsafe lock = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        self.state = state
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
    }

    package func withLock<R: ~Copyable, E: Error>(_ body: (inout State) throws(E) -> R) throws(E) -> R {
        unsafe pthread_mutex_lock(lock)
        defer { unsafe pthread_mutex_unlock(lock) }
        return try body(&state)
    }

    /// Waits until `ready` gives a value. It is asked under the lock, first at once and then after each `notifyAll`.
    package func wait<R: ~Copyable, E: Error>(until ready: (inout State) throws(E) -> R?) throws(E) -> R {
        unsafe pthread_mutex_lock(lock)
        defer { unsafe pthread_mutex_unlock(lock) }
        while true {
            if let result = try ready(&state) { return result }
            unsafe pthread_cond_wait(condition, lock)
        }
    }

    /// As `wait(until:)`, but gives nil when `milliseconds` have passed.
    package func wait<R: ~Copyable, E: Error>(
        milliseconds: Int, until ready: (inout State) throws(E) -> R?
    ) throws(E) -> R? {
        var deadline = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &deadline)
        deadline.tv_sec += milliseconds / 1000
        deadline.tv_nsec += milliseconds % 1000 * 1_000_000
        if deadline.tv_nsec >= 1_000_000_000 {
            deadline.tv_sec += 1
            deadline.tv_nsec -= 1_000_000_000
        }
        unsafe pthread_mutex_lock(lock)
        defer { unsafe pthread_mutex_unlock(lock) }
        while true {
            if let result = try ready(&state) { return result }
            if unsafe pthread_cond_timedwait(condition, lock, &deadline) == ETIMEDOUT { return try ready(&state) }
        }
    }

    /// Wakes every waiter to look again. May be called with or without the lock of another monitor held.
    package func notifyAll() { unsafe pthread_cond_broadcast(condition) }
}
