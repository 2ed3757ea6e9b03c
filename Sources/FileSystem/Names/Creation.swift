internal import Allocator
package import Ext4Format
internal import Journal

// What brings a new inode into a directory.
extension FileSystem {
    package func createFile(
        _ name: FileName, in parent: InodeNumber, mode: UInt16, caller: Caller
    ) throws(Ext4Error) -> Attributes {
        let mode = FileType.regular.rawValue | mode & 0o7777
        return try create(name, in: parent, mode: mode, caller, .empty)
    }

    /// Fifos, sockets and devices; also a regular file, as mknod allows. Other types are EINVAL.
    package func makeNode(
        _ name: FileName, in parent: InodeNumber, mode: UInt16, major: UInt32, minor: UInt32, caller: Caller
    ) throws(Ext4Error) -> Attributes {
        switch FileType(mode: mode) {
        case .regular, nil: return try createFile(name, in: parent, mode: mode, caller: caller)
        case .fifo, .socket: return try create(name, in: parent, mode: mode, caller, .nothing)
        case .characterDevice, .blockDevice:
            return try create(name, in: parent, mode: mode, caller, .device(major: major, minor: minor))
        case .directory, .symlink: throw .posix(Errno.invalid)
        }
    }

    package func makeDirectory(
        _ name: FileName, in parent: InodeNumber, mode: UInt16, caller: Caller
    ) throws(Ext4Error) -> Attributes {
        try create(name, in: parent, mode: FileType.directory.rawValue | mode & 0o7777, caller, .directory)
    }

    package func makeSymlink(
        _ name: FileName, in parent: InodeNumber, target: [UInt8], caller: Caller
    ) throws(Ext4Error) -> Attributes {
        guard !target.isEmpty, !target.contains(0) else { throw .posix(Errno.invalid) }
        guard target.count < min(volume.blockByteCount, 4096) else { throw .posix(Errno.nameTooLong) }
        return try create(name, in: parent, mode: FileType.symlink.rawValue | 0o777, caller, .symlink(target))
    }

    /// What a new inode starts with.
    enum Content {
        case empty
        case nothing
        case device(major: UInt32, minor: UInt32)
        case directory
        case symlink([UInt8])

        /// Blocks that the inode takes at once.
        var blockCount: UInt64 {
            switch self {
            case .directory: 1
            case .symlink(let target): target.count < InodeRecord.areaByteCount ? 0 : 1
            case .empty, .nothing, .device: 0
            }
        }
    }

    /// A new inode as it will be, planned before anything changes.
    struct NewInode {
        var record: InodeRecord
        let content: Content
        let attributes: AttributePlan
        /// Blocks that it takes at once.
        var blockCount: UInt64 { content.blockCount + attributes.blockCount }
        /// Bitmap, descriptor and table; its block with bitmap and descriptor; attributes.
        static let credits = ExtendedAttributes.credits + 6
    }

    /// ENOSPC when no inode is free; the last one may still go to somebody else.
    func planInode(
        in directory: Inode, mode: UInt16, _ caller: Caller, _ content: Content
    ) throws(Ext4Error) -> NewInode {
        let inherited = try inheritance(from: directory, mode: mode, caller)
        let record = newRecord(inherited.mode, in: directory, caller, content)
        let attributes = try ExtendedAttributes.plan(forNew: inherited, extraSize: record.extraSize, volume)
        try volume.deletions.retry { () throws(Ext4Error) in
            guard volume.inodes.freeInodeCount > 0 else { throw .posix(Errno.noSpace) }
        }
        return NewInode(record: record, content: content, attributes: attributes)
    }

    /// Makes what was planned, near `directory`. It has no name yet.
    func make(
        _ new: NewInode, in directory: Inode, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> Inode {
        let isDirectory = FileType(mode: new.record.mode) == .directory
        let number = try volume.inodes.allocate(
            parent: directory.number, isDirectory: isDirectory, isTopLevel: directory.holdsTopLevel, in: handle)
        let child = try Inode(creating: number, new.record, volume, in: handle)
        inodes.insert(child)
        try fill(child, new.content, parent: directory.number, from: space, in: handle)
        try ExtendedAttributes(volume: volume, inode: child).apply(new.attributes, from: space, in: handle)
        return child
    }

    private func create(
        _ name: FileName, in parent: InodeNumber, mode: UInt16, _ caller: Caller, _ content: Content
    ) throws(Ext4Error) -> Attributes {
        try requireWritable()
        guard !name.isDotOrDotDot else { throw .posix(Errno.exists) }
        let directory = try inode(parent)
        return try naming(in: directory) { () throws(Ext4Error) in
            try directory.requireDirectory()
            guard directory.field({ $0.linkCount }) > 0 else { throw .posix(Errno.noEntry) }
            try directory.checkChangeable(adding: true)
            let view = Directory(volume: volume, inode: directory)
            let plan = try view.planInsert(name)
            let isDirectory = FileType(mode: mode) == .directory
            if isDirectory { try checkLinkLimit(of: directory) }
            let new = try planInode(in: directory, mode: mode, caller, content)
            let growth = try volume.spaceForAppend(to: directory, blocks: plan.blockCount)
            let space = try volume.reserve(
                growth.blocks + new.blockCount, for: directory, privileged: volume.isPrivileged(caller))
            // And both ends.
            let credits = growth.credits + Directory.insertCredits + NewInode.credits + 6
            return try volume.withHandle(credits: credits) { handle throws(Ext4Error) in
                let child = try make(new, in: directory, from: space, in: handle)
                try view.insert(
                    plan, inode: child.number, type: child.type?.entryCode ?? 0, from: space, in: handle)
                try touch(directory, child.field { $0.creation }, links: isDirectory ? +1 : 0, in: handle)
                inodes.retain(child.number)
                return child.attributes(volume)
            }
        }
    }

    /// A regular file without a name (O_TMPFILE), for as long as somebody refers to it: `link` may give it one.
    package func createNamelessFile(
        in parent: InodeNumber, mode: UInt16, caller: Caller
    ) throws(Ext4Error) -> Attributes {
        try requireWritable()
        let directory = try inode(parent)
        return try directory.lock.withReadLock { () throws(Ext4Error) in
            try directory.requireDirectory()
            guard directory.field({ $0.linkCount }) > 0 else { throw .posix(Errno.notPermitted) }
            try directory.checkChangeable(adding: true)
            let type = FileType.regular.rawValue
            var new = try planInode(in: directory, mode: type | mode & 0o7777, caller, .empty)
            new.record.linkCount = 0
            let space = try volume.reserve(new.blockCount, for: directory, privileged: volume.isPrivileged(caller))
            return try volume.withHandle(credits: NewInode.credits + OrphanTable.credits) { handle throws(Ext4Error) in
                let child = try make(new, in: directory, from: space, in: handle)
                try orphans.add(child, volume, in: handle)
                inodes.retain(child.number)
                inodes.markNameless(child.number)
                return child.attributes(volume)
            }
        }
    }

    private func newRecord(_ mode: UInt16, in directory: Inode, _ caller: Caller, _ content: Content) -> InodeRecord {
        let parent = directory.record
        let extra = min(Int(volume.superBlock.wantedExtraInodeSize), volume.superBlock.inodeByteCount - 128)
        var record = InodeRecord(
            mode: mode, uid: caller.uid, gid: caller.gid, now: volume.now(), extraSize: UInt16(max(extra, 0)),
            generation: volume.nextGeneration())
        record.flags = parent.flags.intersection(.inherited(by: FileType(mode: mode)))
        record.project = parent.flags.contains(.projectInherit) ? parent.project : 0
        if parent.mode & 0o2000 != 0 {
            record.gid = parent.gid
            if FileType(mode: mode) == .directory { record.mode |= 0o2000 }
        }
        switch content {
        case .empty, .directory: record.makeEmptyMap(volume.superBlock)
        case .nothing: break
        case .device(let major, let minor): record.setDevice(major: major, minor: minor)
        case .symlink(let target):
            record.size = UInt64(target.count)
            if target.count < InodeRecord.areaByteCount {
                record.withMutableArea { $0.copy(target, at: 0) }
            } else {
                record.makeEmptyMap(volume.superBlock)
            }
        }
        if case .directory = content { record.linkCount = 2 }
        return record
    }

    private func fill(
        _ child: Inode, _ content: Content, parent: InodeNumber, from space: BlockReservation,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        switch content {
        case .directory:
            try Directory(volume: volume, inode: child).initialize(parent: parent, from: space, in: handle)
        case .symlink(let target) where target.count >= InodeRecord.areaByteCount:
            let block = try volume.appendMetadataBlock(to: child, at: FileBlock(0), from: space, in: handle)
            try handle.modify(block) { bytes throws(Ext4Error) in bytes.copy(target, at: 0) }
        case .symlink, .empty, .nothing, .device: break
        }
    }

    // MARK: Inherited ACLs

    private func inheritance(from directory: Inode, mode: UInt16, _ caller: Caller) throws(Ext4Error) -> InheritedACL {
        let attributes = ExtendedAttributes(volume: volume, inode: directory)
        let isSymlink = FileType(mode: mode) == .symlink
        let hasNone = isSymlink || !volume.options.usesAccessLists
        let parentDefault = hasNone ? nil : try attributes.storedValue(.defaultACL)
        return try InheritedACL.from(
            parentDefault: parentDefault, mode: mode, umask: isSymlink ? 0 : caller.umask,
            isDirectory: FileType(mode: mode) == .directory)
    }
}

extension FileSystem {
    /// `EXT4_LINK_MAX`.
    static let maximumLinks: UInt16 = 65000

    /// A directory with dir_nlink may have any number of subdirectories: its count then stays at 1.
    func checkLinkLimit(of directory: Inode) throws(Ext4Error) {
        let (links, isIndexed) = directory.field { ($0.linkCount, $0.flags.contains(.index)) }
        let mayOverflow = isIndexed && volume.superBlock.features.readOnlyCompatible.contains(.directoryLinks)
        if links >= Self.maximumLinks && !mayOverflow { throw .posix(Errno.tooManyLinks) }
    }
}

extension InodeRecord.Flags {
    /// What a new inode of the type takes over from its directory (`EXT4_FL_INHERITED`).
    fileprivate static func inherited(by type: FileType?) -> Self {
        let all: Self = [
            .sync, .noDump, .noAccessTime, .journalData, .noTail, .directorySync, .directAccess, .projectInherit,
        ]
        return all.intersection(.settable(for: type))
    }
}

extension InodeRecord {
    /// A subdirectory came or went. 1 means "too many to count" and stays.
    mutating func countDirectoryLink(_ change: Int) {
        guard linkCount != 1 else { return }
        let links = Int(linkCount) + change
        linkCount = links > Int(FileSystem.maximumLinks) ? 1 : UInt16(max(links, 2))
    }
}
