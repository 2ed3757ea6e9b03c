public import BlockIO
public import Ext4Format
internal import Synchronization

/// One metadata block in memory.
///
/// The content has no lock of its own: the inode, mapping and group locks above order readers and writers of the same
/// bytes, and `Handle.modify` is the only way to change them. What transactions know of the block lies behind its lock.
@usableFromInline package final class CachedBlock: Sendable {
    package let number: FSBlock
    @usableFromInline let buffer: AlignedBuffer

    enum Phase {
        static var loading: UInt8 { 0 }
        static var ready: UInt8 { 1 }
        static var failed: UInt8 { 2 }
    }
    let phase: Atomic<UInt8>
    private let isVerified: Atomic<Bool>
    /// The serial of the transaction that has joined the block last, so that the next change in it needs no lock.
    /// Zero after a revoke.
    let joined = Atomic<UInt64>(0)
    let membership = Mutex(Membership())

    /// `isReady` is false while the content is on its way from the device.
    init(number: FSBlock, byteCount: Int, isReady: Bool) {
        self.number = number
        buffer = AlignedBuffer(byteCount: byteCount)
        phase = Atomic(isReady ? Phase.ready : Phase.loading)
        isVerified = Atomic(isReady)
    }

    /// A block that belongs to no place of the device and no transaction, verified: what a reader can take for one.
    package init(detachedOf byteCount: Int, _ fill: (inout MutableRawSpan) throws(Ext4Error) -> Void) throws(Ext4Error)
    {
        number = Self.detachedNumber
        buffer = AlignedBuffer(byteCount: byteCount)
        phase = Atomic(Phase.ready)
        isVerified = Atomic(true)
        try buffer.withMutableBytes(fill)
    }
    package static var detachedNumber: FSBlock { FSBlock(.max) }

    @inlinable package func withBytes<R: ~Copyable>(_ body: (RawSpan) throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        try buffer.withBytes(body)
    }

    /// Runs `check` the first time only (checksum, header sanity) and remembers success. Two threads that come first
    /// together may both run it.
    package func verifyOnce(_ check: (RawSpan) throws(Ext4Error) -> Void) throws(Ext4Error) {
        if isVerified.load(ordering: .acquiring) { return }
        try buffer.withBytes(check)
        markVerified()
    }

    func markVerified() { isVerified.store(true, ordering: .releasing) }
}

/// Which transactions hold a block. Transactions are named by serial, which never repeats; 0 is none.
///
/// At most two hold it at once: the content belongs to `newest`, which is the running transaction or the committing
/// one. When the running one takes a block of the committing one, the latter moves to `older`, with a frozen copy
/// unless its commit has copied the block out already.
struct Membership {
    var newest: UInt64 = 0
    var older: UInt64 = 0
    /// The version of `older` that its commit has still to log.
    var frozen: AlignedBuffer?
    /// The commit of `newest` has copied the content out.
    var isCopied = false
    /// Freed in `newest`: it logs no copy, and when it is durable nothing may write the block home any more.
    var isForgotten = false
    var isOlderForgotten = false
    /// Created in `newest`, and no older copy can be in the log: freeing it again needs no revoke record.
    var isFresh = false
    /// The last committed transaction whose version has not been written home.
    var home: UInt64 = 0
    /// A checkpoint has copied the content and its write is under way.
    var isWritingHome = false

    /// Makes `transaction` the newest holder. `content` is the block as the previous holder left it.
    mutating func join(_ transaction: UInt64, content: AlignedBuffer) {
        precondition(newest != transaction)
        if newest != 0 {
            precondition(older == 0, "three transactions hold one block")
            older = newest
            isOlderForgotten = isForgotten
            if !isForgotten && !isCopied { frozen = AlignedBuffer(copying: content) }
        }
        newest = transaction
        isCopied = false
        isForgotten = false
        isFresh = false
    }

    /// `transaction` is durable: its version, if it has one, waits to be written home.
    mutating func settle(_ transaction: UInt64) {
        if newest == transaction {
            home = isForgotten ? 0 : transaction
            newest = 0
            isForgotten = false
            isFresh = false
        } else if older == transaction {
            home = isOlderForgotten ? 0 : transaction
            older = 0
            isOlderForgotten = false
            frozen = nil
        }
    }
}
