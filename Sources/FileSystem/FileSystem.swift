package import Ext4Format
package import Journal
internal import Threads

/// A mounted ext4 volume: POSIX operations on inode numbers, without FUSE.
///
/// Any thread may call anything at any time. An operation returns when its change is in the running transaction; `sync`
/// makes it durable. Inode numbers are ext4's (the root is 2). Every call that answers `Attributes` for a name takes
/// one reference on that inode, which `forget` gives back: an inode without a name lives as long as it is referred to.
package final class FileSystem: Sendable {
    let volume: Volume
    let inodes: InodeCache
    let orphans: OrphanTable
    /// Held while a directory moves from one directory to another: the shape of the tree stands still.
    let renameLock = ReaderWriterLock()
    /// The batches that are open, by inode number.
    let batches = Monitor<[UInt32: Batch]>([:])

    /// What kernels that move data themselves were promised, by inode number.
    let delegations = Monitor<[UInt32: Delegation]>([:])

    init(volume: Volume, inodes: InodeCache, orphans: OrphanTable) {
        self.volume = volume
        self.inodes = inodes
        self.orphans = orphans
    }

    package var isReadOnly: Bool {
        volume.journal == nil || volume.journal?.isAborted == true || volume.errors.isStopped
    }
    package var volumeName: String { String(decoding: volume.superBlock.volumeName, as: UTF8.self) }
    package var uuid: [UInt8] { volume.superBlock.uuid }
    package var blockByteCount: Int { volume.blockByteCount }

    /// The inode behind a number that a caller holds. A number that names nothing is ESTALE.
    func inode(_ number: InodeNumber) throws(Ext4Error) -> Inode {
        if volume.errors.isShutDown { throw .shutDown }
        guard volume.layout.place(of: number) != nil else { throw .posix(Errno.stale) }
        return try inodes.inode(number, volume)
    }

    /// The inode that a directory entry names. Free inodes and ones that belong to the system are damage.
    func child(_ entry: Directory.Entry) throws(Ext4Error) -> Inode {
        guard entry.inode == .root || entry.inode.rawValue >= volume.superBlock.firstInode,
            entry.inode.rawValue != volume.superBlock.orphanFileInode
        else {
            throw .corrupt("directory entry", where: "names inode \(entry.inode.rawValue)")
        }
        let inode = try inodes.inode(entry.inode, volume)
        let (links, mode) = inode.field { ($0.linkCount, $0.mode) }
        guard links > 0, FileType(mode: mode) != nil else {
            throw .corrupt("directory entry", where: "names the free inode \(entry.inode.rawValue)")
        }
        return inode
    }

    func requireWritable() throws(Ext4Error) { try volume.requireWritable() }

    // MARK: Looking up

    /// nil when there is no such name. Takes a reference.
    package func lookup(_ name: FileName, in parent: InodeNumber) throws(Ext4Error) -> Attributes? {
        if name.isDot { return try lookup(handle: parent) }
        let directory = try inode(parent)
        return try directory.lock.withReadLock { () throws(Ext4Error) in
            try directory.requireDirectory()
            guard let entry = try Directory(volume: volume, inode: directory).lookup(name) else { return nil }
            let inode = try child(entry)
            inodes.retain(inode.number)
            return inode.attributes(volume)
        }
    }

    /// "." of any inode is itself: so a kernel asks for what it has forgotten and somebody still has a file handle of.
    /// The number may be that of a deleted inode, or of one that never was: ESTALE.
    private func lookup(handle number: InodeNumber) throws(Ext4Error) -> Attributes {
        guard number == .root || number.rawValue >= volume.superBlock.firstInode,
            number.rawValue != volume.superBlock.orphanFileInode, volume.layout.place(of: number) != nil,
            try volume.inodes.isAllocated(number)
        else { throw .posix(Errno.stale) }
        let inode = try inode(number)
        return try inode.lock.withReadLock { () throws(Ext4Error) in
            let (links, mode) = inode.field { ($0.linkCount, $0.mode) }
            guard links > 0, FileType(mode: mode) != nil else { throw .posix(Errno.stale) }
            inodes.retain(number)
            return inode.attributes(volume)
        }
    }

    /// Gives references back; an inode without a name and without references is deleted.
    package func forget(_ number: InodeNumber, count: UInt64) {
        volume.blocks.giveBackWindow(of: number)
        let isLast = inodes.release(number, count: count)
        dropDelegation(ofUnreferenced: number)
        if isLast { deleteOrLeave(number) }
    }

    /// Those of the root are there after a shutdown too: without them nobody could find what to unmount.
    package func attributes(of number: InodeNumber) throws(Ext4Error) -> Attributes {
        try (number == .root ? inodes.inode(.root, volume) : inode(number)).attributes(volume)
    }

    package func readLink(_ number: InodeNumber) throws(Ext4Error) -> [UInt8] {
        let inode = try inode(number)
        guard inode.type == .symlink else { throw .posix(Errno.invalid) }
        if let content = try inlineContent(of: inode) { return content }
        let record = inode.record
        let isFast = record.isFastSymlink
        let limit = isFast ? InodeRecord.areaByteCount : volume.blockByteCount
        guard record.size > 0, record.size <= limit else {
            throw .corrupt("symlink", where: "inode \(number.rawValue): \(record.size) bytes")
        }
        if isFast { return record.withArea { $0.array(0..<Int(record.size)) } }
        let block = try volume.metadataBlock(inode, FileBlock(0), "symlink")
        return try block.withBytes { bytes throws(Ext4Error) in bytes.array(0..<Int(record.size)) }
    }

    /// See `Directory.read`. With attributes, a reference is taken for each record that `each` accepts, but for the
    /// dots. `movesAccessTime`: where the mount has it so.
    package func readDirectory(
        _ number: InodeNumber, after cookie: UInt64, withAttributes: Bool, movesAccessTime: Bool = true,
        _ each: (DirectoryRecord) -> Bool
    ) throws(Ext4Error) {
        let directory = try inode(number)
        try directory.lock.withReadLock { () throws(Ext4Error) in
            try directory.requireDirectory()
            try Directory(volume: volume, inode: directory).read(after: cookie) { entry, cookie in
                var record = DirectoryRecord(
                    name: entry.name, inode: entry.inode, type: FileType.direntType(ofEntryCode: entry.type),
                    cookie: cookie)
                let isDot = entry.name == [0x2E] || entry.name == [0x2E, 0x2E]
                // A damaged inode must not hide its neighbours: who asks for it by name is told what is wrong.
                guard withAttributes, !isDot, let inode = try? child(entry) else { return each(record) }
                record.attributes = inode.attributes(volume)
                // Before the record is handed over: once it is, the kernel may forget it at any time.
                inodes.retain(entry.inode)
                if each(record) { return true }
                _ = inodes.release(entry.inode, count: 1)
                return false
            }
        }
        if movesAccessTime { touchAccessTime(directory) }
    }

    // MARK: Data

    /// Fills `bytes` from byte `offset`; answers the count, short at the end of the file. `movesAccessTime`: where the
    /// mount has it so.
    package func read(
        _ number: InodeNumber, at offset: UInt64, into bytes: inout MutableRawSpan, movesAccessTime: Bool = true
    ) throws(Ext4Error) -> Int {
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(inode.isDirectory ? Errno.isDirectory : Errno.invalid) }
        let count: Int
        if let content = try inlineContent(of: inode) {
            let part = content.dropFirst(Int(min(offset, UInt64(content.count)))).prefix(bytes.byteCount)
            bytes.copy(Array(part), at: 0)
            count = part.count
        } else {
            count = try FileData(volume, inode).read(at: offset, into: &bytes)
        }
        if movesAccessTime { touchAccessTime(inode) }
        return count
    }

    /// Writes `bytes` at byte `offset`. `caller` decides whether the reserved blocks may be used. Answers the count:
    /// all that a file can have, but out of place at most what one transaction can publish. `isAppending`: who writes
    /// can do nothing but append (O_APPEND).
    package func write(
        _ number: InodeNumber, at offset: UInt64, _ bytes: RawSpan, by caller: Caller = .root,
        isAppending: Bool = true
    ) throws(Ext4Error) -> Int {
        try requireWritable()
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(inode.isDirectory ? Errno.isDirectory : Errno.invalid) }
        try inode.checkChangeable(adding: isAppending && offset >= inode.size)
        try moveOutInlineData(of: inode)
        let count = try FileData(volume, inode).write(
            at: offset, bytes, outOfPlace: writesOutOfPlace(inode), privileged: volume.isPrivileged(caller))
        try settle(inode)
        return count
    }

    /// Writes pages that the kernel has kept: all of them, in as many transactions as that takes, as nobody would send
    /// the rest again; of an append-only file what lies behind its end, as a page with that begins before it. Nobody
    /// says whose they are: the owner of the file stands for them where the reserved blocks are asked for.
    ///
    /// A kernel that collects what is written sends it in any order: to it the end is where it was before the first.
    package func writeBack(_ number: InodeNumber, at offset: UInt64, _ bytes: RawSpan) throws(Ext4Error) {
        try requireWritable()
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(inode.isDirectory ? Errno.isDirectory : Errno.invalid) }
        let end = volume.options.kernelKeepsTimes ? inode.fixedByteCount : inode.size
        try inode.checkChangeable(adding: offset + UInt64(bytes.byteCount) > end)
        try moveOutInlineData(of: inode)
        let (owner, flags) = inode.field { (Caller(uid: $0.uid, gid: $0.gid, umask: 0), $0.flags) }
        var done = flags.contains(.appendOnly) && offset < end ? Int(end - offset) : 0
        while done < bytes.byteCount {
            done += try FileData(volume, inode).write(
                at: offset + UInt64(done), bytes.extracting(done..<bytes.byteCount),
                outOfPlace: writesOutOfPlace(inode), privileged: volume.isPrivileged(owner))
        }
    }

    /// SEEK_DATA or SEEK_HOLE. ENXIO where there is none.
    package func seek(_ number: InodeNumber, from offset: UInt64, for data: Bool) throws(Ext4Error) -> UInt64 {
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(Errno.invalid) }
        if let content = try inlineContent(of: inode) {
            guard offset < content.count else { throw .posix(Errno.noSuchDeviceOrAddress) }
            return data ? offset : UInt64(content.count)
        }
        return try FileData(volume, inode).seek(from: offset, forData: data)
    }

    /// relatime: the access time moves when it is not newer than the last change, or is a day old.
    private func touchAccessTime(_ inode: Inode) {
        guard volume.options.movesAccessTimes, !isReadOnly, !inode.isDeleted,
            volume.options.movesDirectoryAccessTimes || !inode.isDirectory
        else { return }
        let now = volume.now()
        let isDue = inode.field { record in
            !record.flags.contains(.noAccessTime)
                && (record.access <= record.modification || record.access <= record.change
                    || now.seconds - record.access.seconds >= 86400)
        }
        guard isDue else { return }
        // What was read was read: a journal that fails now is heard of by whoever changes something.
        try? volume.withHandle(credits: 1) { handle throws(Ext4Error) in
            try inode.update(in: handle, volume, isData: false) { record throws(Ext4Error) in record.access = now }
        }
    }

    // MARK: Durability

    /// fsync and fdatasync. When it returns, the file's data and what leads to them survive a power cut.
    package func sync(_ number: InodeNumber, dataOnly: Bool) throws(Ext4Error) {
        guard let journal = volume.journal else { return }
        let inode = try inode(number)
        guard let transaction = inode.lastTransaction(dataOnly: dataOnly) else {
            // Read anew since its last change, or never changed: whatever changed it is in the log or running.
            let running = journal.runningTransaction
            try journal.sync()
            return inode.noteDurable(running)
        }
        try journal.makeDurable(transaction)
    }

    /// Where chattr(1) says +S, or +D of a directory, or the mount says it of all names, what has changed is durable
    /// before the caller hears of it. With no lock held.
    func settle(_ inode: Inode) throws(Ext4Error) {
        let isNamed = inode.isDirectory
        let flags: InodeRecord.Flags = isNamed ? [.sync, .directorySync] : [.sync]
        guard isNamed && volume.options.synchronousNames || !inode.field({ $0.flags }).isDisjoint(with: flags)
        else { return }
        try sync(inode.number, dataOnly: false)
    }

    /// Gives `directory` a name, under its lock. What `body` answers has a reference taken for the caller.
    func naming(
        in directory: Inode, _ body: () throws(Ext4Error) -> Attributes
    ) throws(Ext4Error) -> Attributes {
        let named = try directory.lock.withWriteLock(body)
        do throws(Ext4Error) {
            try settle(directory)
        } catch {
            forget(named.inode, count: 1)
            throw error
        }
        return named
    }

    /// As `sync`, but does not wait: `answer` is called once, on a thread of the journal's or on this one.
    package func sync(_ number: InodeNumber, dataOnly: Bool, then answer: @escaping DurabilityAnswer) {
        do throws(Ext4Error) {
            if let journal = volume.journal,
                let transaction = try inode(number).lastTransaction(dataOnly: dataOnly)
            {
                return journal.makeDurable(transaction, then: answer)
            }
            try sync(number, dataOnly: dataOnly)
            answer(nil)
        } catch {
            answer(error)
        }
    }

    /// syncfs: everything finished so far.
    package func syncAll() throws(Ext4Error) { try volume.journal?.sync() }

    /// What the journal has done since the mount; nil on a read-only volume.
    package var journalCounters: JournalCounters? { volume.journal?.counters }

    package var limits: VolumeLimits {
        // The extra words of an inode hold nanoseconds and two more bits of seconds.
        let isWide = volume.superBlock.inodeByteCount > 128
        return VolumeLimits(
            fileByteCount: FileData.maximumSize(volume), linkCount: UInt32(Self.maximumLinks),
            timeGranularity: isWide ? 1 : 1_000_000_000,
            times: Int64(Int32.min)...Int64(Int32.max) + (isWide ? 3 << 32 : 0))
    }

    package func statistics() -> VolumeStatistics {
        let superBlock = volume.superBlock
        let free = volume.blocks.freeBlockCount
        let kept = superBlock.reservedBlockCount + volume.blocks.keptForUpkeep << UInt64(volume.layout.clusterShift)
        let id = superBlock.uuid.prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        return VolumeStatistics(
            blockByteCount: volume.blockByteCount, blocks: superBlock.blockCount - volume.overheadBlockCount,
            freeBlocks: free, availableBlocks: free - min(free, kept),
            inodes: UInt64(superBlock.inodeCount), freeInodes: UInt64(volume.inodes.freeInodeCount), fsid: id)
    }
}

extension InodeRecord {
    /// The target lies in `i_block`: no block belongs to the inode but perhaps one of attributes.
    package var isFastSymlink: Bool {
        FileType(mode: mode) == .symlink && !flags.contains(.extents) && size < UInt64(Self.areaByteCount)
    }
}
