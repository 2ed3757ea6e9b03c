package import Ext4Format

/// What lsattr(1) shows of an inode, and chattr(1) changes.
package struct InodeFlags: Equatable, Sendable {
    package var flags: InodeRecord.Flags
    /// The project that the inode belongs to (`i_projid`); 0 where the volume has no projects.
    package var project: UInt32
    package init(flags: InodeRecord.Flags, project: UInt32) {
        self.flags = flags
        self.project = project
    }
}

extension FileSystem {
    /// The flags that users may see.
    package func flags(of number: InodeNumber) throws(Ext4Error) -> InodeFlags {
        try inode(number).field { InodeFlags(flags: $0.flags.intersection(.visible), project: $0.project) }
    }

    /// Sets what may be set, and leaves the rest as it is, as chattr passes all that it has seen. EOPNOTSUPP for flags
    /// that the volume or this server does not have, and for a project where there are none; also when all was done
    /// but for flags that cannot be changed here, as Linux has it. Whoever may change the mode of the inode may do
    /// this, but for the immutable and the append-only flag: the caller has asked who it is. Of an inode that stays
    /// immutable nothing changes: EPERM.
    package func setFlags(of number: InodeNumber, to wanted: InodeFlags) throws(Ext4Error) {
        try requireWritable()
        let inode = try inode(number)
        guard wanted.flags.isSubset(of: .visible) else { throw .posix(Errno.notSupported) }
        try inode.lock.withWriteLock { () throws(Ext4Error) in
            guard !inode.isDeleted else { throw .posix(Errno.stale) }
            let before = inode.record
            let type = FileType(mode: before.mode), settable = InodeRecord.Flags.settable(for: type)
            guard wanted.flags.intersection(.modifiable).isSubset(of: settable) else {
                throw .posix(Errno.notSupported)
            }
            let shown = InodeFlags(flags: before.flags.intersection(.visible), project: before.project)
            if before.flags.intersection(wanted.flags).contains(.immutable), wanted != shown {
                throw .posix(Errno.notPermitted)
            }
            let free = settable.subtracting(.fixed), chosen = wanted.flags.intersection(free)
            guard wanted.project == before.project || hasProject(before) else { throw .posix(Errno.notSupported) }
            let now = volume.now()
            try volume.withHandle(credits: 1) { handle throws(Ext4Error) in
                try inode.update(in: handle, volume) { record throws(Ext4Error) in
                    record.flags = record.flags.subtracting(free).union(chosen)
                    record.project = wanted.project
                    record.change = now
                }
            }
            if chosen.contains(.appendOnly) && !before.flags.contains(.appendOnly) { inode.fixContent() }
            let missed = wanted.flags.symmetricDifference(before.flags).intersection(settable).intersection(.fixed)
            guard missed.isEmpty else { throw .posix(Errno.notSupported) }
        }
    }

    private func hasProject(_ record: InodeRecord) -> Bool {
        volume.superBlock.features.readOnlyCompatible.contains(.project) && record.hasProject
    }
}

extension InodeRecord.Flags {
    /// What can be set on a type of inode (`ext4_mask_flags`).
    static func settable(for type: FileType?) -> Self {
        switch type {
        case .directory: .modifiable
        case .regular: .modifiable.subtracting([.directorySync, .topDirectory, .projectInherit, .casefold])
        default: [.noDump, .noAccessTime]
        }
    }

    /// What says how the content lies on the volume, or is read: it is not changed under an inode that has some.
    fileprivate static var fixed: Self { [.journalData, .extents, .pastEnd, .directAccess, .casefold] }
}
