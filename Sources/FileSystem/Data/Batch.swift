internal import Allocator
package import Ext4Format
internal import Threads

/// What has been written to a file since a batch began (F2FS_IOC_START_ATOMIC_WRITE): blocks that only memory names.
/// Committed, they become the file's in one transaction; dropped, they are free again.
///
/// Reads of the file meet it. It changes with the range lock of the whole file held, and has a leaf lock of its own.
final class Batch: Sendable {
    let inode: Inode
    let owner: BatchOwner

    private struct State {
        var write: StagedWrite?
        /// Bytes; what the file's size is to those who read now.
        var size: UInt64
    }
    private let state: Monitor<State>

    init(of inode: Inode, owner: BatchOwner) {
        self.inode = inode
        self.owner = owner
        state = Monitor(State(size: inode.size))
    }

    var size: UInt64 { state.withLock { $0.size } }

    /// The mappings of the file with what the batch has in their place.
    func covering(_ mappings: [MappingCore.Mapping]) -> [MappingCore.Mapping] {
        state.withLock { state in state.write.map { $0.covering(mappings) } ?? mappings }
    }

    /// EFBIG when one transaction could not publish the write as well. Asked before any byte of it is written: that may
    /// go to blocks that the batch has already.
    func checkRoom(for write: StagedWrite, _ volume: Volume) throws(Ext4Error) {
        let hasRoom = state.withLock { state in
            state.write?.fitsOneHandle(with: write, of: volume) ?? write.fitsOneHandle(of: volume)
        }
        if !hasRoom { throw .posix(Errno.fileTooBig) }
    }

    /// Takes over what a write has staged and filled, which reaches to byte `end`.
    func absorb(_ write: StagedWrite, endOfData end: UInt64) {
        state.withLock { state in
            if let whole = state.write { whole.absorb(write) } else { state.write = write }
            state.size = max(state.size, end)
        }
    }

    /// Publishes it all in one handle. The caller holds the range lock of the whole file.
    func publish(_ volume: Volume) throws(Ext4Error) {
        let (write, end) = state.withLock { state in
            defer { state.write = nil }
            return (state.write, state.size)
        }
        if let write { try MappingCore(volume: volume, inode: inode).ioend(write, endOfData: end) }
    }
}

/// Who began a batch.
package struct BatchOwner: Sendable {
    package var process: Int32
    /// The open file.
    package var handle: UInt64

    package init(process: Int32, handle: UInt64) {
        self.process = process
        self.handle = handle
    }
}

extension FileSystem {
    /// Whether any is open.
    package var hasBatches: Bool { batches.withLock { !$0.isEmpty } }

    /// Begins a batch: until `commitBatch` what is written to the file is seen by who reads it, and not by a power cut.
    /// One at a time: EBUSY while another process has one; the same process may ask twice. EACCES for who does not own
    /// the file, EOPNOTSUPP on a volume with clusters: see OutOfPlace.swift.
    package func startBatch(_ number: InodeNumber, owner: BatchOwner, by caller: Caller) throws(Ext4Error) {
        try requireWritable()
        guard !volume.superBlock.hasClusters else { throw .posix(Errno.notSupported) }
        try moveOutInlineData(of: try inode(number))
        try withBatch(of: number, by: caller) { inode, batch throws(Ext4Error) in
            if let batch {
                guard batch.owner.process == owner.process else { throw .posix(Errno.busy) }
                return
            }
            try inode.checkChangeable()
            let batch = Batch(of: inode, owner: owner)
            batches.withLock { $0[number.rawValue] = batch }
            inode.batch = batch
        }
    }

    /// Publishes the batch in one transaction and returns when that is durable. EINVAL without a batch: it may have
    /// been dropped. When it fails the batch is gone and the file is as it was before.
    package func commitBatch(_ number: InodeNumber, by caller: Caller) throws(Ext4Error) {
        try withBatch(of: number, by: caller) { inode, batch throws(Ext4Error) in
            guard let batch else { throw .posix(Errno.invalid) }
            defer { drop(batch) }
            try requireWritable()
            guard !inode.isDeleted else { throw .posix(Errno.stale) }
            try batch.publish(volume)
        }
        try sync(number, dataOnly: false)
    }

    /// Drops the batch, if its owner is such a one. False when there was none; else what others remember of the file's
    /// data and size is wrong.
    package func abortBatch(
        _ number: InodeNumber, by caller: Caller = .root, where isMeant: (BatchOwner) -> Bool = { _ in true }
    ) throws(Ext4Error) -> Bool {
        // Most files have none, and who closes one is not to wait for its locks.
        guard batches.withLock({ $0[number.rawValue] != nil }) else { return false }
        return try withBatch(of: number, by: caller) { _, batch throws(Ext4Error) in
            guard let batch, isMeant(batch.owner) else { return false }
            drop(batch)
            return true
        }
    }

    func abortAllBatches() {
        for batch in batches.withLock({ Array($0.values) }) { drop(batch) }
    }

    /// Its blocks are free again, unless they have been published. Nobody is at the file's data.
    func drop(_ batch: Batch) {
        batches.withLock { _ = $0.removeValue(forKey: batch.inode.number.rawValue) }
        batch.inode.batch = nil
    }

    /// With nobody else at the file's data.
    private func withBatch<R>(
        of number: InodeNumber, by caller: Caller, _ body: (Inode, Batch?) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(Errno.invalid) }
        guard caller.uid == 0 || caller.uid == inode.field({ $0.uid }) else { throw .posix(Errno.accessDenied) }
        return try inode.lock.withWriteLock { () throws(Ext4Error) in
            let lease = inode.ranges.acquire(0..<UInt64.max, exclusive: true)
            defer { lease.release() }
            return try body(inode, inode.batch)
        }
    }
}
