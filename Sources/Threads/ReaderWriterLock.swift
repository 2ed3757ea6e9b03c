internal import Glibc

/// Many readers or one writer; writers are preferred, so that a stream of lookups cannot starve a create.
/// Not recursive in either mode.
@safe @usableFromInline package final class ReaderWriterLock: @unchecked Sendable {
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

    @inlinable package func withReadLock<R: ~Copyable, E: Error>(
        file: StaticString = #fileID, line: UInt = #line, _ body: () throws(E) -> R
    ) throws(E) -> R {
        acquireToRead(at: CodePlace(file, line))
        defer { release() }
        return try body()
    }

    @inlinable package func withWriteLock<R: ~Copyable, E: Error>(
        file: StaticString = #fileID, line: UInt = #line, _ body: () throws(E) -> R
    ) throws(E) -> R {
        acquireToWrite(at: CodePlace(file, line))
        defer { release() }
        return try body()
    }

    @usableFromInline func acquireToRead(at place: CodePlace) {
        guard let scheduled else {
            unsafe pthread_rwlock_rdlock(lock)
            return
        }
        scheduled.scheduler.yield()
        scheduled.acquire(exclusive: false, at: place)
    }

    @usableFromInline func acquireToWrite(at place: CodePlace) {
        guard let scheduled else {
            unsafe pthread_rwlock_wrlock(lock)
            return
        }
        scheduled.scheduler.yield()
        scheduled.acquire(exclusive: true, at: place)
    }

    @usableFromInline func release() {
        if let scheduled { return scheduled.release() }
        unsafe pthread_rwlock_unlock(lock)
    }
}
