internal import Allocator
package import Ext4Format
internal import Journal

// setattr and extended attributes.
extension FileSystem {
    package func setAttributes(of number: InodeNumber, _ changes: AttributeChanges) throws(Ext4Error) -> Attributes {
        try requireWritable()
        let inode = try inode(number)
        let attributes = try inode.lock.withWriteLock { () throws(Ext4Error) in
            guard !inode.isDeleted else { throw .posix(Errno.stale) }
            // Who has appended something has moved the times as well, in a kernel that keeps them.
            let isHarmless = changes.isTouch || volume.options.kernelKeepsTimes && changes.tellOfChangedData
            try inode.checkChangeable(adding: isHarmless)
            if let size = changes.size {
                guard inode.type == .regular else {
                    throw .posix(inode.isDirectory ? Errno.isDirectory : Errno.invalid)
                }
                try inode.requireNoBatch()
                try InlineData(volume: volume, inode: inode).moveOut()
                let truncation = Truncation(volume: volume, inode: inode, orphans: orphans, inodes: inodes)
                let acl = try accessList(of: inode, after: changes)
                try truncation.setSize(to: size, acl) { record, now in
                    if changes.hasFields { changes.apply(to: &record, now) }
                }
            } else if changes.hasFields {
                let acl = try accessList(of: inode, after: changes)
                let now = volume.now()
                try volume.withHandle(credits: 1 + (acl?.credits ?? 0)) { handle throws(Ext4Error) in
                    try acl?.apply(in: handle)
                    try inode.update(in: handle, volume) { record throws(Ext4Error) in
                        changes.apply(to: &record, now)
                    }
                }
            }
            return inode.attributes(volume)
        }
        if changes.size != nil { try settle(inode) }
        return attributes
    }

    /// chmod of a file with an access list changes the list as well.
    private func accessList(
        of inode: Inode, after changes: AttributeChanges
    ) throws(Ext4Error) -> AttributeChange? {
        guard let mode = changes.mode, volume.options.usesAccessLists else { return nil }
        let attributes = ExtendedAttributes(volume: volume, inode: inode)
        guard let plan = try attributes.plan(changingPermissionsTo: mode) else { return nil }
        return try AttributeChange(plan, of: attributes, privileged: true)
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
        // A kernel takes capabilities away when something is appended.
        let isForAppend = name == Array("security.capability".utf8)
        try change(number, .root, isForAppend: isForAppend) { attributes throws(Ext4Error) in
            try attributes.plan(setting: name, to: nil, create: false, replace: true)
        }
    }

    private func change(
        _ number: InodeNumber, _ caller: Caller, isForAppend: Bool = false,
        _ planning: (ExtendedAttributes) throws(Ext4Error) -> AttributePlan
    ) throws(Ext4Error) {
        try requireWritable()
        let inode = try inode(number)
        try inode.lock.withWriteLock { () throws(Ext4Error) in
            guard !inode.isDeleted else { throw .posix(Errno.stale) }
            try inode.checkChangeable(adding: isForAppend)
            let attributes = ExtendedAttributes(volume: volume, inode: inode)
            let change = try AttributeChange(
                try planning(attributes), of: attributes, privileged: volume.isPrivileged(caller))
            try volume.withHandle(credits: change.credits + 1) { handle throws(Ext4Error) in
                try change.apply(in: handle)
                let now = volume.now()
                try inode.update(in: handle, volume) { record throws(Ext4Error) in record.change = now }
            }
            inode.outOfPlaceChoice = nil
        }
    }
}

/// A change of extended attributes that is planned, with its room reserved.
struct AttributeChange {
    private let attributes: ExtendedAttributes
    private let plan: AttributePlan
    private let space: BlockReservation
    var credits: Int { ExtendedAttributes.credits }

    init(_ plan: AttributePlan, of attributes: ExtendedAttributes, privileged: Bool) throws(Ext4Error) {
        self.attributes = attributes
        self.plan = plan
        space = try attributes.volume.blocks.reserve(plan.blockCount, privileged: privileged)
    }

    func apply(in handle: borrowing Handle) throws(Ext4Error) { try attributes.apply(plan, from: space, in: handle) }
}

extension AttributeChanges {
    /// All but the size and the access list.
    fileprivate func apply(to record: inout InodeRecord, _ now: Timestamp) {
        func time(_ change: TimeChange?, _ old: Timestamp) -> Timestamp {
            switch change {
            case nil: old
            case .now: now
            case .to(let time): time
            }
        }
        if let mode { record.mode = record.mode & FileType.mask | mode & 0o7777 }
        if let uid { record.uid = uid }
        if let gid { record.gid = gid }
        record.access = time(access, record.access)
        record.modification = time(modification, record.modification)
        record.change = time(change ?? .now, record.change)
    }

    /// Times become the present one and nothing else changes: that is allowed where data may only be appended.
    fileprivate var isTouch: Bool {
        mode == nil && uid == nil && gid == nil && size == nil && change == nil
            && access.isNowOrNil && modification.isNowOrNil
    }

    /// Whether this is how a kernel that keeps the times of a file tells them.
    fileprivate var tellOfChangedData: Bool {
        modification != nil && change != nil && access == nil && mode == nil && uid == nil && gid == nil && size == nil
    }

    /// Whether anything but the size changes.
    var hasFields: Bool {
        mode != nil || uid != nil || gid != nil || access != nil || modification != nil || change != nil
    }
}

extension AttributeChanges.TimeChange? {
    fileprivate var isNowOrNil: Bool {
        if case .to = self { return false }
        return true
    }
}
