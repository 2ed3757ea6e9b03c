package import Ext4Format
internal import Journal

// setattr and extended attributes.
extension FileSystem {
    package func setAttributes(of number: InodeNumber, _ changes: AttributeChanges) throws(Ext4Error) -> Attributes {
        try requireWritable()
        let inode = try inode(number)
        return try inode.lock.withWriteLock { () throws(Ext4Error) in
            guard !inode.isDeleted else { throw .posix(Errno.stale) }
            // Who has appended something has moved the times as well.
            try inode.checkChangeable(adding: volume.options.kernelKeepsTimes && changes.tellOfChangedData)
            if let size = changes.size {
                guard inode.type == .regular else {
                    throw .posix(inode.isDirectory ? Errno.isDirectory : Errno.invalid)
                }
                try inode.requireNoBatch()
                try InlineData(volume: volume, inode: inode).moveOut()
                let truncation = Truncation(volume: volume, inode: inode, orphans: orphans, inodes: inodes)
                try truncation.setSize(to: size, privileged: true)
            }
            if changes.hasFields { try apply(changes, to: inode) }
            return inode.attributes(volume)
        }
    }

    private func apply(_ changes: AttributeChanges, to inode: Inode) throws(Ext4Error) {
        let attributes = ExtendedAttributes(volume: volume, inode: inode)
        // chmod of a file with an access list changes the list as well.
        let acl = try changes.mode.flatMap { mode throws(Ext4Error) in
            volume.options.usesAccessLists ? try attributes.plan(changingPermissionsTo: mode) : nil
        }
        let space = try volume.blocks.reserve(acl?.blockCount ?? 0, privileged: true)
        let now = volume.now()
        func time(_ change: AttributeChanges.TimeChange?, _ old: Timestamp) -> Timestamp {
            switch change {
            case nil: old
            case .now: now
            case .to(let time): time
            }
        }
        try volume.withHandle(credits: 1 + (acl == nil ? 0 : ExtendedAttributes.credits)) { handle throws(Ext4Error) in
            if let acl { try attributes.apply(acl, from: space, in: handle) }
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                if let mode = changes.mode { record.mode = record.mode & FileType.mask | mode & 0o7777 }
                if let uid = changes.uid { record.uid = uid }
                if let gid = changes.gid { record.gid = gid }
                record.access = time(changes.access, record.access)
                record.modification = time(changes.modification, record.modification)
                record.change = time(changes.change ?? .now, record.change)
            }
        }
    }

    // MARK: Extended attributes

    /// The value of an attribute by its full name; ACLs in the form that the kernel passes.
    package func extendedAttribute(_ name: [UInt8], of number: InodeNumber) throws(Ext4Error) -> [UInt8]? {
        let inode = try inode(number)
        return try inode.lock.withReadLock { () throws(Ext4Error) in
            try ExtendedAttributes(volume: volume, inode: inode).value(of: name)
        }
    }

    package func extendedAttributes(of number: InodeNumber) throws(Ext4Error) -> [[UInt8]] {
        let inode = try inode(number)
        return try inode.lock.withReadLock { () throws(Ext4Error) in
            try ExtendedAttributes(volume: volume, inode: inode).names()
        }
    }

    /// `create`: EEXIST when it is there; `replace`: ENODATA when it is not. An access list also sets the mode, and one
    /// that says no more than the mode is not stored; `clearingSetGroupID` takes that bit away with it, for a caller
    /// outside the file's group. `caller` decides whether the reserved blocks may be used. EOPNOTSUPP for
    /// `outOfPlaceAttribute` with "1" where nothing is written out of place.
    package func setExtendedAttribute(
        _ name: [UInt8], of number: InodeNumber, to value: [UInt8], create: Bool, replace: Bool,
        clearingSetGroupID: Bool = false, by caller: Caller = .root
    ) throws(Ext4Error) {
        if volume.superBlock.hasClusters, name == Self.outOfPlaceAttribute, value == [UInt8(ascii: "1")] {
            throw .posix(Errno.notSupported)
        }
        try change(number, caller) { attributes throws(Ext4Error) in
            try attributes.plan(
                setting: name, to: value, create: create, replace: replace, clearingSetGroupID: clearingSetGroupID)
        }
    }

    /// ENODATA when it is not there; removing a list that is not there succeeds, as in the kernel.
    package func removeExtendedAttribute(_ name: [UInt8], of number: InodeNumber) throws(Ext4Error) {
        try change(number, .root) { attributes throws(Ext4Error) in
            try attributes.plan(setting: name, to: nil, create: false, replace: true)
        }
    }

    private func change(
        _ number: InodeNumber, _ caller: Caller, _ planning: (ExtendedAttributes) throws(Ext4Error) -> AttributePlan
    ) throws(Ext4Error) {
        try requireWritable()
        let inode = try inode(number)
        try inode.lock.withWriteLock { () throws(Ext4Error) in
            guard !inode.isDeleted else { throw .posix(Errno.stale) }
            let attributes = ExtendedAttributes(volume: volume, inode: inode)
            let plan = try planning(attributes)
            let space = try volume.blocks.reserve(plan.blockCount, privileged: volume.isPrivileged(caller))
            try volume.withHandle(credits: ExtendedAttributes.credits + 1) { handle throws(Ext4Error) in
                try attributes.apply(plan, from: space, in: handle)
                let now = volume.now()
                try inode.update(in: handle, volume) { record throws(Ext4Error) in record.change = now }
            }
            inode.outOfPlaceChoice = nil
        }
    }
}

extension AttributeChanges {
    /// Whether this is how a kernel that keeps the times of a file tells them.
    fileprivate var tellOfChangedData: Bool {
        modification != nil && change != nil && access == nil && mode == nil && uid == nil && gid == nil && size == nil
    }

    /// Whether anything but the size changes.
    var hasFields: Bool {
        mode != nil || uid != nil || gid != nil || access != nil || modification != nil || change != nil
    }
}
