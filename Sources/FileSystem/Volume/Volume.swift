internal import Allocator
internal import BlockIO
internal import Ext4Format
internal import Journal
internal import Synchronization
internal import Threads

/// What all parts of a mounted file system share. Immutable but for what its members guard themselves.
final class Volume: Sendable {
    let device: any BlockDevice
    /// As decoded at mount: facts that no operation changes.
    let superBlock: SuperBlock
    let layout: VolumeLayout
    let cache: MetadataCache
    /// nil when mounted read-only.
    let journal: Journal?
    let groups: GroupTable
    let blocks: BlockAllocator
    let inodes: InodeAllocator
    let options: MountOptions
    let errors: ErrorRecord
    let deletions: Deletions
    /// By inode number, the last transaction that is not durable and takes blocks of the file out of a cluster that it
    /// keeps.
    let cutClusters = Monitor<[UInt32: TransactionID]>([:])
    private let generation: Atomic<UInt32>

    init(
        device: any BlockDevice, superBlock: SuperBlock, cache: MetadataCache, journal: Journal?, groups: GroupTable,
        blocks: BlockAllocator, inodes: InodeAllocator, options: MountOptions
    ) {
        self.device = device
        self.superBlock = superBlock
        layout = VolumeLayout(superBlock)
        self.cache = cache
        self.journal = journal
        self.groups = groups
        self.blocks = blocks
        self.inodes = inodes
        self.options = options
        generation = Atomic(options.firstGeneration)
        deletions = Deletions(isAwaited: options.awaitsForgets)
        errors = ErrorRecord(superBlock, device: journal == nil ? nil : device, options)
        watchForErrors()
    }

    /// The errors that come without an operation that could report them. Weak: cache and journal belong to the volume.
    private func watchForErrors() {
        cache.setOnReadFailure { [weak self] block, error in self?.noteReadFailure(of: block, error) }
        groups.setOnDamage { [weak self] error in self?.noteDamage(error) }
        journal?.setAfterAbort { [weak self] cause in self?.errors.recordAbort(cause) }
    }

    private func noteReadFailure(of block: FSBlock, _ error: Ext4Error) {
        if errors.note(error, function: "metadata read", block: block) == .abort { journal?.abort(error) }
    }

    /// A group is out of use. Who wanted something of it went on to the next, so no operation tells of it.
    private func noteDamage(_ error: Ext4Error) {
        guard case .corrupt = error else { return }
        options.notify("\(error): nothing of that group is used")
        if errors.note(error, function: "block group") == .abort { journal?.abort(error) }
    }

    /// Throws unless the volume can be changed: EROFS, or EIO after a shutdown.
    func requireWritable() throws(Ext4Error) {
        if errors.isShutDown { throw .shutDown }
        guard let journal, !journal.isAborted, !errors.isStopped else { throw .posix(Errno.readOnly) }
    }

    /// Whether the reserved blocks are also for this caller: root, and whom `s_def_resuid` and `s_def_resgid` name.
    func isPrivileged(_ caller: Caller) -> Bool {
        caller.uid == 0 || caller.uid == UInt32(superBlock.reservedUID)
            || superBlock.reservedGID != 0 && caller.gid == UInt32(superBlock.reservedGID)
    }

    var blockByteCount: Int { superBlock.blockByteCount }
    /// What the blocks of a file are given out in: what changes its map locks whole ones of its range.
    var clusterByteCount: UInt64 { UInt64(superBlock.blockByteCount) << UInt64(layout.clusterShift) }
    var hasChecksums: Bool { superBlock.hasMetadataChecksums }

    func now() -> Timestamp { options.clock() }

    /// The data of a file have changed.
    func stampChange(of record: inout InodeRecord, _ now: Timestamp) {
        if options.kernelKeepsTimes { return }
        record.modification = now
        record.change = now
    }

    /// For a new inode: never the same twice in a row for one number, so that a stale handle is told apart.
    func nextGeneration() -> UInt32 { generation.wrappingAdd(1, ordering: .relaxed).oldValue }

    /// Opens a handle, or throws EROFS on a read-only volume.
    func withHandle<R>(
        credits: Int, _ body: (borrowing Handle) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        guard let journal else { throw .posix(Errno.readOnly) }
        return try journal.withHandle(credits: credits, body)
    }

    /// Frees the clusters of a run through the handle. With `discard`, the device hears of it once the transaction is
    /// durable, and before the allocator may give the blocks out again: commit actions run in order.
    func free(_ run: BlockRun, in handle: borrowing Handle) throws(Ext4Error) {
        guard options.discard else { return try blocks.free(run, in: handle) }
        let whole = layout.wholeClusters(run.start.rawValue..<run.start.rawValue + UInt64(run.count))
        let offset = offset(of: FSBlock(whole.lowerBound)), count = UInt64(whole.count) * UInt64(blockByteCount)
        try blocks.free(run, in: handle) { [device] in
            // A hint: a device that cannot do it has lost nothing.
            try? device.discard(at: offset, count: count)
        }
    }

    /// Frees what an inode has been mapped to (`FileMap.replace`), but for clusters that it has other blocks of, and
    /// counts it no longer among the blocks of the inode. The caller holds the mapping lock.
    func release(_ removed: [Extent], of inode: Inode, in handle: borrowing Handle) throws(Ext4Error) {
        let count = try free(removed, of: inode, in: handle)
        guard count > 0 else { return }
        try inode.update(in: handle, self) { record throws(Ext4Error) in record.addClusters(-count, superBlock) }
    }

    /// As `release`, but the counts of the inode are the caller's. Answers how many clusters have become free.
    func free(_ removed: [Extent], of inode: Inode, in handle: borrowing Handle) throws(Ext4Error) -> Int64 {
        var count: Int64 = 0
        var done: UInt64?
        for extent in removed {
            if inode.holdsMetadata {
                for index in 0..<UInt64(extent.count) { try handle.revoke(extent.start + index) }
            }
            let found = try emptyClusters(of: extent, inode, but: done)
            if found.keepsOthers { noteCutCluster(of: inode, in: handle) }
            if let run = found.run {
                try free(run, in: handle)
                count += Int64(run.count >> layout.clusterShift)
            }
            let last = extent.start.rawValue + UInt64(extent.count) - 1
            done = layout.wholeClusters(last..<last + 1).lowerBound
        }
        return count
    }

    /// The bytes on the device where a block starts.
    func offset(of block: FSBlock) -> UInt64 { block.rawValue * UInt64(blockByteCount) }

    /// Changes the super block through the journal and refreshes its checksum. 1 credit.
    func modifySuperBlock(
        in handle: borrowing Handle, _ body: (inout MutableRawSpan) -> Void
    ) throws(Ext4Error) {
        let place = superBlock.superBlockPlace
        let block = try cache.block(place.block)
        try handle.modify(block) { bytes throws(Ext4Error) in
            var part = bytes._mutatingExtracting(place.offset..<place.offset + SuperBlock.byteCount)
            body(&part)
            if hasChecksums { SuperBlock.updateChecksum(&part) }
        }
    }
}
