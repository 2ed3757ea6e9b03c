internal import Allocator
package import Ext4Format
internal import Journal

// What takes a name away, and the end of an inode that has lost its last one.
extension FileSystem {
    package func unlink(_ name: FileName, in parent: InodeNumber) throws(Ext4Error) {
        try remove(name, in: parent, directory: false)
    }

    /// ENOTEMPTY unless only the dots are in it.
    package func removeDirectory(_ name: FileName, in parent: InodeNumber) throws(Ext4Error) {
        if name.bytes == [0x2E] { throw .posix(Errno.invalid) }
        if name.bytes == [0x2E, 0x2E] { throw .posix(Errno.notEmpty) }
        try remove(name, in: parent, directory: true)
    }

    private func remove(_ name: FileName, in parent: InodeNumber, directory wantsDirectory: Bool) throws(Ext4Error) {
        try requireWritable()
        let directory = try inode(parent)
        var gone: InodeNumber?
        try directory.lock.withWriteLock { () throws(Ext4Error) in
            try directory.requireDirectory()
            try directory.checkChangeable()
            let view = Directory(volume: volume, inode: directory)
            let plan = try view.planRemove(name)
            let target = try child(plan.entry)
            guard target !== directory else {
                throw .corrupt("directory", where: "inode \(parent.rawValue) contains itself")
            }
            try target.lock.withWriteLock { () throws(Ext4Error) in
                try checkRemovable(target, directory: wantsDirectory)
                try volume.withHandle(credits: Self.removalCredits) { handle throws(Ext4Error) in
                    try view.remove(plan, in: handle)
                    let now = volume.now()
                    try touch(directory, now, links: wantsDirectory ? -1 : 0, in: handle)
                    if try dropLink(target, at: now, in: handle) { gone = target.number }
                }
            }
        }
        if let gone { deleteOrLeave(gone) }
        try settle(directory)
    }

    /// The entry's block, both inodes, the orphan's mark.
    static let removalCredits = 4 + 2 * OrphanTable.credits

    /// Throws what unlink or rmdir must answer. The caller holds the target's lock.
    func checkRemovable(_ target: Inode, directory wantsDirectory: Bool) throws(Ext4Error) {
        let links = target.field { $0.linkCount }
        guard !target.isDeleted, links > 0 else { throw .posix(Errno.noEntry) }
        guard target.isDirectory || !wantsDirectory else { throw .posix(Errno.notDirectory) }
        guard wantsDirectory || !target.isDirectory else { throw .posix(Errno.isDirectory) }
        try target.checkChangeable()
        guard target.isDirectory else { return }
        guard try Directory(volume: volume, inode: target).isEmpty() else { throw .posix(Errno.notEmpty) }
    }

    /// One name fewer. True when the inode is to be deleted once the handle is closed.
    func dropLink(_ target: Inode, at now: Timestamp, in handle: borrowing Handle) throws(Ext4Error) -> Bool {
        let isLast = try target.update(in: handle, volume) { record throws(Ext4Error) in
            record.change = now
            record.linkCount = FileType(mode: record.mode) == .directory ? 0 : record.linkCount - 1
            return record.linkCount == 0
        }
        guard isLast else { return false }
        try orphans.add(target, volume, in: handle)
        let isUnused = inodes.markUnlinked(target.number)
        if !isUnused { volume.deletions.expectOne() }
        return isUnused
    }

    // MARK: The end of an inode

    /// Deletes an inode whose name is gone already. What fails stays an orphan, for unmount and the next mount to
    /// finish; damage that stands in the way is recorded.
    func deleteOrLeave(_ number: InodeNumber) {
        do throws(Ext4Error) { try delete(number) } catch { report(error, about: number) }
    }

    /// Frees everything of an inode without names and references, and its number.
    func delete(_ number: InodeNumber) throws(Ext4Error) {
        defer { volume.deletions.noteOne() }
        let inode = try inodes.inode(number, volume)
        try inode.lock.withWriteLock { () throws(Ext4Error) in
            // Two threads may both have seen the last reference go.
            guard !inode.isDeleted, inode.field({ $0.linkCount }) == 0 else { return }
            // Not into bitmaps that may be the damaged ones: it stays an orphan for a mount that can be trusted.
            guard !volume.errors.isStopped else { throw .posix(Errno.readOnly) }
            let lease = inode.ranges.acquire(0..<UInt64.max, exclusive: true)
            defer { lease.release() }
            if let batch = inode.batch { drop(batch) }
            inode.delegation?.drop(0..<UInt64.max)
            try volume.inodes.checkFreeable(number, wasDirectory: inode.isDirectory)
            try ExtendedAttributes(volume: volume, inode: inode).checkFreeable()
            let credits = ExtendedAttributes.credits + OrphanTable.credits + 5
            guard inode.hasMap else {
                return try volume.withHandle(credits: credits) { handle throws(Ext4Error) in try free(inode, in: handle)
                }
            }
            let truncation = Truncation(volume: volume, inode: inode, orphans: orphans, inodes: inodes)
            try truncation.finish(from: 0, lastCredits: credits) { handle throws(Ext4Error) in
                try free(inode, in: handle)
            }
        }
    }

    /// The rest of an inode whose blocks are free: attributes, the orphan's mark, the number.
    func free(_ inode: Inode, in handle: borrowing Handle) throws(Ext4Error) {
        try ExtendedAttributes(volume: volume, inode: inode).releaseBlock(in: handle)
        try orphans.remove(inode, volume, inodes, in: handle)
        let now = UInt32(truncatingIfNeeded: max(volume.now().seconds, 1))
        try inode.update(in: handle, volume) { record throws(Ext4Error) in
            record.deletionTime = now
            record.size = 0
        }
        let wasDirectory = inode.isDirectory
        inode.markDeleted()
        inodes.remove(inode)
        try volume.inodes.free(inode.number, wasDirectory: wasDirectory, in: handle)
    }
}
