internal import Glibc

/// Many readers or one writer; writers are preferred, so that a stream of lookups cannot starve a create.
/// Not recursive in either mode.
@safe package final class ReaderWriterLock: @unchecked Sendable {
    private let lock: UnsafeMutablePointer<pthread_rwlock_t>
    /// In its place where a scheduler decides.
    private let scheduled = ScheduledLock.ofThisThread()

    package init() {
        unsafe lock = .allocate(capacity: 1)
        var attributes = pthread_rwlockattr_t()
        unsafe pthread_rwlockattr_init(&attributes)
        unsafe pthread_rwlockattr_setkind_np(&attributes, CInt(PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP))
        unsafe pthread_rwlock_init(lock, &attributes)
        unsafe pthread_rwlockattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_rwlock_destroy(lock)
        unsafe lock.deallocate()
    }

    package func withReadLock<R: ~Copyable, E: Error>(
        file: StaticString = #fileID, line: UInt = #line, _ body: () throws(E) -> R
    ) throws(E) -> R {
        if let scheduled {
            scheduled.scheduler.yield()
            scheduled.acquire(exclusive: false, at: CodePlace(file, line))
        } else {
            unsafe pthread_rwlock_rdlock(lock)
        }
        defer { release() }
        return try body()
    }

    package func withWriteLock<R: ~Copyable, E: Error>(
        file: StaticString = #fileID, line: UInt = #line, _ body: () throws(E) -> R
    ) throws(E) -> R {
        if let scheduled {
            scheduled.scheduler.yield()
            scheduled.acquire(exclusive: true, at: CodePlace(file, line))
        } else {
            unsafe pthread_rwlock_wrlock(lock)
        }
        defer { release() }
        return try body()
    }

    private func release() {
        if let scheduled { return scheduled.release() }
        unsafe pthread_rwlock_unlock(lock)
    }
}
