package import Ext4Format

/// What a kernel that moves the data of a file itself wants to know a mapping for.
package enum DelegatedUse: Equatable, Sendable {
    case read
    /// To tell where data are: FIEMAP, SEEK_DATA.
    case report
    /// A write to the page cache.
    case bufferedWrite
    /// Zeros to the page cache, where there is data.
    case zero
    /// The page cache is written back: whole blocks.
    case writeback
    /// Past the page cache. `isAtomic`: one block, whole or not at all after a power cut.
    case directWrite(isAtomic: Bool)
}

/// One run of a file: where its data are or go.
package struct DelegatedRun: Equatable, Sendable {
    package enum Kind: Equatable, Sendable {
        case hole
        /// Promised, and without a place yet.
        case delayed
        /// Bytes from the start of the volume.
        case mapped(UInt64)
        /// The same, and reads as zeros until the write is reported.
        case unwritten(UInt64)
    }
    /// Bytes of the file, whole blocks.
    package var range: Range<UInt64>
    package var kind: Kind
    /// The write takes the place of data that lie elsewhere.
    package var isShared = false
}

package struct DelegatedMapping: Equatable, Sendable {
    package var read: DelegatedRun
    /// Nil: writes go where reads come from.
    package var write: DelegatedRun?
}

/// What a kernel says of data that it has written, or failed to.
package struct DelegatedCompletion: Sendable {
    /// Of the file, exact.
    package var bytes: Range<UInt64>
    package var isDirect: Bool
    package var hasFailed: Bool
    /// The page cache has given the data up, before any block was written.
    package var isGivenUp: Bool
    /// Blocks that were given out for it have been written.
    package var publishes: Bool
    /// The file may reach further now.
    package var movesSize: Bool
    /// Where the first byte went; nil when it was not said.
    package var address: DeviceAddress?

    package init(
        bytes: Range<UInt64>, isDirect: Bool, hasFailed: Bool, isGivenUp: Bool, publishes: Bool, movesSize: Bool,
        address: DeviceAddress?
    ) {
        self.bytes = bytes
        self.isDirect = isDirect
        self.hasFailed = hasFailed
        self.isGivenUp = isGivenUp
        self.publishes = publishes
        self.movesSize = movesSize
        self.address = address
    }
}

/// A place on the device that is one of two: kernels differ in the unit in which they tell it.
package struct DeviceAddress: Equatable, Sendable {
    /// Bytes from the start of the volume.
    package var readings: [UInt64]
    package init(readings: [UInt64]) { self.readings = readings }

    func isOne(of start: UInt64, skipping count: UInt64) -> Bool {
        readings.contains { $0.addingReportingOverflow(count) == (start, false) }
    }
}

extension FileSystem {
    /// BEGIN: the mapping of the first bytes of a range, which covers its first byte, for a kernel that moves the data
    /// itself. For writes blocks are promised or given out; ENOSPC is decided here, and never by `.writeback` of what
    /// was promised. Nil where a direct write has to go through the page cache instead. EFBIG behind the largest file.
    /// `caller` decides whether the reserved blocks may be used. Takes range locks, and holds none when it returns.
    ///
    /// `remember` hears of a mapping that the kernel may keep: data that are read and overwritten where they lie. While
    /// it runs they cannot be moved, so what it tells the kernel comes before any news of a move. It must not wait for
    /// another request.
    package func beginDelegated(
        _ number: InodeNumber, _ bytes: Range<UInt64>, for use: DelegatedUse, by caller: Caller = .root,
        remember: (DelegatedRun) -> Void = { _ in }
    ) throws(Ext4Error) -> DelegatedMapping? {
        let isLook = use == .read || use == .report
        if !isLook { try requireWritable() }
        let inode = try delegatedInode(number)
        let most = FileData.maximumSize(volume, inode)
        guard bytes.lowerBound < most, !bytes.isEmpty else { throw .posix(Errno.fileTooBig) }
        if !isLook {
            if use != .writeback { try inode.checkChangeable(adding: true) }
            try inode.requireNoBatch()
        }
        let io = try delegatedIO(inode, isLook ? unpromised(inode) : promised(inode), by: caller)
        return try io.begin(bytes.lowerBound..<min(bytes.upperBound, most), for: use, remember)
    }

    /// END: of a mapping that was begun for a write, only the first `written` bytes of `bytes` were used. What was
    /// promised for the rest goes back. Not to be called for writeback.
    package func endDelegated(
        _ number: InodeNumber, _ bytes: Range<UInt64>, written: UInt64, isDirect: Bool
    ) throws(Ext4Error) {
        let inode = try delegatedInode(number)
        let bytes = bytes.clamped(to: 0..<FileData.maximumSize(volume, inode))
        guard written < bytes.upperBound - bytes.lowerBound, inode.delegation != nil else { return }
        try delegatedIO(inode, unpromised(inode), by: .root).end(bytes, written: written, isDirect: isDirect)
    }

    /// IOEND: publishes what was written, or gives back what was not, and answers the size of the file that a crash
    /// leaves once the running transaction has committed. Only what was begun and not given back is published.
    package func finishDelegated(_ number: InodeNumber, _ done: DelegatedCompletion) throws(Ext4Error) -> UInt64 {
        let inode = try delegatedInode(number)
        let most = FileData.maximumSize(volume, inode)
        guard done.bytes.upperBound <= most else { throw .posix(Errno.fileTooBig) }
        try delegatedIO(inode, promised(inode), by: .root).finish(done)
        return inode.size
    }

    /// Blocks of one cluster are not promised one by one, as a kernel asks for them.
    package var mayDelegate: Bool { !volume.superBlock.hasClusters }

    private func delegatedInode(_ number: InodeNumber) throws(Ext4Error) -> Inode {
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(inode.isDirectory ? Errno.isDirectory : Errno.invalid) }
        // What an indirect map takes to be published in pieces is not worked out, and inline data has no place at all.
        guard inode.hasExtents, !inode.isInline, mayDelegate else { throw .posix(Errno.notSupported) }
        return inode
    }

    private func delegatedIO(
        _ inode: Inode, _ delegation: Delegation, by caller: Caller
    ) throws(Ext4Error) -> DelegatedIO {
        DelegatedIO(
            volume: volume, delegation: delegation, isOutOfPlace: writesOutOfPlace(inode),
            isPrivileged: volume.isPrivileged(caller))
    }

    /// What the file owes, from now on.
    private func promised(_ inode: Inode) throws(Ext4Error) -> Delegation {
        try delegations.withLock { delegations throws(Ext4Error) in
            if let old = delegations[inode.number.rawValue], old.inode === inode { return old }
            let new = try Delegation(of: inode, volume)
            delegations[inode.number.rawValue] = new
            inode.delegation = new
            return new
        }
    }

    /// What it owes so far: files that are only read keep no inode in memory.
    private func unpromised(_ inode: Inode) throws(Ext4Error) -> Delegation {
        if let old = inode.delegation { return old }
        return try Delegation(of: inode, volume)
    }

    /// The kernel has forgotten the inode: it will write nothing of it any more.
    func dropDelegation(ofUnreferenced number: InodeNumber) {
        // Let go of outside of the lock: blocks are given back then.
        let old = delegations.withLock { delegations in
            inodes.isReferenced(number) ? nil : delegations.removeValue(forKey: number.rawValue)
        }
        withExtendedLifetime(old) {}
    }

    func dropAllDelegations() {
        let old = delegations.withLock { delegations in
            defer { delegations = [:] }
            return delegations
        }
        withExtendedLifetime(old) {}
    }
}
