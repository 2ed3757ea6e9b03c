internal import Allocator
internal import Ext4Format
internal import Journal
internal import Synchronization

/// The extended attributes of one inode. The caller holds the inode lock: to read for what reads, to write for plans
/// and changes.
struct ExtendedAttributes {
    let volume: Volume
    let inode: Inode

    /// Several inodes may share one block, and no inode lock covers its reference count: this does. Innermost but for
    /// the journal's own locks; held for one block's bytes, never for I/O.
    private static let sharing = Mutex(())

    // MARK: Reading

    /// The value behind a full name; access control lists in the form of the system calls. nil: ENODATA.
    /// EOPNOTSUPP, EINVAL, ERANGE for names that cannot be.
    func value(of name: [UInt8]) throws(Ext4Error) -> [UInt8]? {
        let name = try ExtendedAttributeName(full: name)
        guard let stored = try storedValue(name) else { return nil }
        return name.index.isACL ? try AccessControlList.decoding(stored: stored)?.call : stored
    }

    /// The value as it is stored: a directory's default list for `InheritedACL`.
    func storedValue(_ name: ExtendedAttributeName) throws(Ext4Error) -> [UInt8]? {
        func value(_ entries: [ExtendedAttributeTable.Entry], _ bytes: RawSpan) throws(Ext4Error) -> [UInt8]? {
            guard let entry = entries.first(where: { $0.name == name }) else { return nil }
            return try Self.value(entry, bytes)
        }
        if let found = try withArea(value) { return found }
        return try withBlock { entries, bytes, _ throws(Ext4Error) in try value(entries, bytes) } ?? nil
    }

    /// What "system.data" holds: the part of the inode's data that `i_block` has no room for. It lies in the slot.
    func inlineValue() throws(Ext4Error) -> [UInt8]? {
        try withArea { entries, bytes throws(Ext4Error) -> [UInt8]? in
            guard let entry = entries.first(where: { $0.name == .inlineData }) else { return nil }
            return try Self.value(entry, bytes)
        }
    }

    /// The full names that callers may see.
    func names() throws(Ext4Error) -> [[UInt8]] {
        let inside = try withArea { entries, _ throws(Ext4Error) in entries.compactMap(\.name.full) }
        let outside = try withBlock { entries, _, _ throws(Ext4Error) in entries.compactMap(\.name.full) } ?? []
        return inside + outside.filter { !inside.contains($0) }
    }

    /// Reads and checks the attribute block, so that damage shows before a handle is open.
    func verifyBlock() throws(Ext4Error) {
        _ = try withBlock { _, _, _ throws(Ext4Error) in true }
    }

    /// Throws what `releaseBlock` would: so that damage is found before a handle is open.
    func checkFreeable() throws(Ext4Error) {
        try verifyBlock()
        guard let block = try block() else { return }
        try volume.blocks.checkFreeable(BlockRun(start: block.number, count: 1))
    }

    private static func value(_ entry: ExtendedAttributeTable.Entry, _ bytes: RawSpan) throws(Ext4Error) -> [UInt8] {
        guard entry.valueInode == 0 else {
            throw .unsupported(features: ["ea_inode"], hint: "a value of an extended attribute lies in its own inode")
        }
        return bytes.array(entry.value)
    }

    private func withArea<R>(
        _ body: ([ExtendedAttributeTable.Entry], RawSpan) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        try inode.withSlot(volume) { slot throws(Ext4Error) in
            guard let range = areaRange else { return try body([], slot) }
            let area = slot.extracting(range)
            return try body(try ExtendedAttributeArea.decode(area, of: inode.number), area)
        }
    }

    private var areaRange: Range<Int>? {
        ExtendedAttributeArea.range(
            slotByteCount: volume.superBlock.inodeByteCount, extraSize: inode.field { $0.extraSize })
    }

    /// nil when the inode has no block. The count of references may change right after it was read, unless it is 1.
    private func withBlock<R>(
        _ body: ([ExtendedAttributeTable.Entry], RawSpan, _ references: UInt32) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R? {
        guard let block = try block() else { return nil }
        let references = try Self.sharing.withLock { _ throws(Ext4Error) in
            try block.verifyOnce { bytes throws(Ext4Error) in
                try ExtendedAttributeBlock.verify(bytes, at: block.number, volume.superBlock)
            }
            return try block.withBytes { bytes throws(Ext4Error) in
                try ExtendedAttributeBlock.referenceCount(bytes, at: block.number)
            }
        }
        return try block.withBytes { bytes throws(Ext4Error) in
            try body(try ExtendedAttributeBlock.decode(bytes, at: block.number), bytes, references)
        }
    }

    private func block() throws(Ext4Error) -> CachedBlock? {
        let number = FSBlock(inode.field { $0.attributeBlock })
        guard number.rawValue != 0 else { return nil }
        guard volume.layout.place(of: number) != nil,
            !volume.blocks.isSystemBlock(BlockRun(start: number, count: 1))
        else {
            throw .corrupt("inode", where: "inode \(inode.number.rawValue): attribute block \(number.rawValue)")
        }
        return try volume.cache.block(number)
    }
}

// MARK: Planning

extension ExtendedAttributes {
    /// Decides what setting (or, with nil, removing) an attribute changes; changes nothing. Reads and verifies all that
    /// `apply` will touch.
    ///
    /// An access list also sets the permissions, and `clearingSetGroupID` takes that bit away then: for a caller
    /// outside the file's group. Errors: ENOSPC no room; E2BIG value; ERANGE, EINVAL, EOPNOTSUPP name; EEXIST with
    /// `create`; ENODATA with `replace` and for removal; EACCES default list of what is no directory; EINVAL and
    /// EOPNOTSUPP malformed lists.
    func plan(
        setting name: [UInt8], to value: [UInt8]?, create: Bool, replace: Bool, clearingSetGroupID: Bool = false
    ) throws(Ext4Error) -> AttributePlan {
        let name = try ExtendedAttributeName(full: name)
        guard (value?.count ?? 0) <= ExtendedAttributeTable.maximumValueByteCount else { throw .posix(Errno.tooBig) }
        if name.index.isACL {
            return try plan(list: name, try AccessControlList.decoding(call: value ?? []), clearingSetGroupID)
        }
        let placement = try placement()
        let exists = placement.contains(name)
        if create && exists { throw .posix(Errno.exists) }
        if !exists && (replace || value == nil) { throw .posix(Errno.noData) }
        return try plan([(name, value)], placement)
    }

    /// Decides what chmod to the twelve bits of `permissions` changes. nil: there is no access list, so the mode alone.
    func plan(changingPermissionsTo permissions: UInt16) throws(Ext4Error) -> AttributePlan? {
        guard let stored = try storedValue(.accessACL),
            var list = try AccessControlList.decoding(stored: stored)
        else { return nil }
        list.change(permissions: permissions)
        let value = list.isEquivalentToMode ? nil : list.stored
        var plan = try plan([(.accessACL, value)], try placement())
        plan.permissions = permissions & 0o7777
        return plan
    }

    /// What `apply` will do to an inode that is about to be made, with `extraSize` bytes of extra fields and nothing
    /// else in its slot. The mode is the caller's matter.
    static func plan(
        forNew acl: InheritedACL, extraSize: UInt16, _ volume: Volume
    ) throws(Ext4Error) -> AttributePlan {
        let area = ExtendedAttributeArea.range(slotByteCount: volume.superBlock.inodeByteCount, extraSize: extraSize)
        let empty = AttributePlacement(
            inside: [], outside: [], areaByteCount: area?.count ?? 0, blockByteCount: volume.attributeBlockByteCount)
        let changes = [(ExtendedAttributeName.accessACL, acl.access), (.defaultACL, acl.defaults)]
        return try plan(changes.filter { $0.1 != nil }, empty, references: 0)
    }

    /// Sets "system.data", or takes it away. ENOSPC when the slot has no room for it.
    func plan(settingInlineValue value: [UInt8]?) throws(Ext4Error) -> AttributePlan {
        let placement = try placement()
        guard !placement.outside.contains(where: { $0.name == .inlineData }) else {
            let place = "inode \(inode.number.rawValue): system.data outside of the slot"
            throw .corrupt("extended attributes", where: place)
        }
        return try plan([(.inlineData, value)], placement)
    }

    private func plan(
        list name: ExtendedAttributeName, _ list: AccessControlList?, _ clearingSetGroupID: Bool
    ) throws(Ext4Error) -> AttributePlan {
        let mode = inode.field { $0.mode }
        guard FileType(mode: mode) != .symlink else { throw .posix(Errno.notSupported) }
        if name == .defaultACL {
            if FileType(mode: mode) != .directory {
                guard list == nil else { throw .posix(Errno.accessDenied) }
                return AttributePlan()
            }
            return try plan([(name, list?.stored)], try placement())
        }
        guard let list else { return try plan([(name, nil)], try placement()) }
        var plan = try plan([(name, list.isEquivalentToMode ? nil : list.stored)], try placement())
        plan.permissions = mode & (clearingSetGroupID ? 0o5000 : 0o7000) | list.permissions
        return plan
    }

    /// The attributes as they are. Values in inodes of their own cannot be moved: `.unsupported`.
    private func placement() throws(Ext4Error) -> AttributePlacement {
        func attributes(
            _ entries: [ExtendedAttributeTable.Entry], _ bytes: RawSpan
        ) throws(Ext4Error) -> [ExtendedAttribute] {
            var result: [ExtendedAttribute] = []
            for entry in entries {
                result.append(ExtendedAttribute(name: entry.name, value: try Self.value(entry, bytes)))
            }
            return result
        }
        return AttributePlacement(
            inside: try withArea(attributes),
            outside: try withBlock { entries, bytes, _ throws(Ext4Error) in try attributes(entries, bytes) } ?? [],
            areaByteCount: areaRange?.count ?? 0,
            blockByteCount: volume.attributeBlockByteCount)
    }

    private func plan(
        _ changes: [(ExtendedAttributeName, [UInt8]?)], _ placement: AttributePlacement
    ) throws(Ext4Error) -> AttributePlan {
        let references = try withBlock { _, _, references throws(Ext4Error) in references }
        return try Self.plan(changes, placement, references: references ?? 0)
    }

    /// `references`: of the block that the inode has; 0 when it has none.
    private static func plan(
        _ changes: [(ExtendedAttributeName, [UInt8]?)], _ before: AttributePlacement, references: UInt32
    ) throws(Ext4Error) -> AttributePlan {
        var after = before
        for (name, value) in changes {
            if let value {
                try after.set(ExtendedAttribute(name: name, value: value))
            } else {
                after.remove(name)
            }
        }
        var plan = AttributePlan()
        if after.inside != before.inside {
            plan.area = ExtendedAttributeArea.encode(after.inside, byteCount: after.areaByteCount)
        }
        if after.outside != before.outside {
            if after.outside.isEmpty {
                plan.block = .drop
            } else {
                // Only a volume that must not have such blocks, and has one, leaves no room for what was there.
                guard ExtendedAttributeBlock.fits(after.outside, after.blockByteCount) else {
                    throw .corrupt("extended attributes", where: "an attribute block on a volume without ext_attr")
                }
                let bytes = ExtendedAttributeBlock.encode(after.outside, byteCount: after.blockByteCount)
                plan.block = references == 1 ? .rewrite(bytes) : .replace(bytes)
            }
        }
        return plan
    }
}

// MARK: Changing

extension ExtendedAttributes {
    /// The worst case besides the inode's own block: a new block with its bitmap and descriptor, and the old one freed.
    static var credits: Int { 6 }

    /// Makes the change. `space` holds `plan.blockCount` blocks; it may be nil when that is 0. The times of the inode
    /// are the caller's matter.
    func apply(
        _ plan: AttributePlan, from space: BlockReservation?, in handle: borrowing Handle
    ) throws(Ext4Error) {
        switch plan.block {
        case .none: break
        case .rewrite(let content):
            guard let block = try block() else { preconditionFailure("the plan is not of this inode") }
            try write(content, into: block, in: handle)
        case .replace(let content):
            guard let space else { preconditionFailure("a plan that needs a block came without space") }
            try letGo(in: handle)
            let number = try volume.blocks.allocate(goal: goal, from: space, in: handle)
            try write(content, into: try handle.create(number), in: handle)
            try setBlock(number, in: handle)
        case .drop:
            try letGo(in: handle)
            try setBlock(nil, in: handle)
        }
        if let area = plan.area {
            guard let range = areaRange, range.count == area.count else {
                preconditionFailure("the plan is not of this inode")
            }
            try inode.modifySlot(in: handle, volume) { slot throws(Ext4Error) in slot.copy(area, at: range.lowerBound) }
        }
        if let permissions = plan.permissions {
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                record.mode = record.mode & ~0o7777 | permissions
            }
        }
    }

    /// For an inode that is being deleted: lets go of its attribute block. `checkFreeable` tells beforehand whether
    /// this can fail for what the image holds.
    func releaseBlock(in handle: borrowing Handle) throws(Ext4Error) {
        guard inode.field({ $0.attributeBlock }) != 0 else { return }
        try verifyBlock()
        try letGo(in: handle)
        try setBlock(nil, in: handle)
    }

    private func write(
        _ content: [UInt8], into block: CachedBlock, in handle: borrowing Handle
    ) throws(Ext4Error) {
        try handle.modify(block) { bytes throws(Ext4Error) in
            bytes.copy(content, at: 0)
            ExtendedAttributeBlock.updateChecksum(&bytes, at: block.number, volume.superBlock)
        }
    }

    /// Gives up the inode's block, if it has one: frees it, or takes one reference away. `setBlock` is to follow. A
    /// block that cannot be one to free is `.corrupt` before anything has changed.
    ///
    /// Whether this is the last reference is decided here and not by a plan: two inodes may let go of one block at the
    /// same time.
    private func letGo(in handle: borrowing Handle) throws(Ext4Error) {
        guard let block = try block() else { return }
        let isLast = try Self.sharing.withLock { _ throws(Ext4Error) in
            let references = try block.withBytes { bytes throws(Ext4Error) in
                try ExtendedAttributeBlock.referenceCount(bytes, at: block.number)
            }
            if references == 1 { return true }
            try handle.modify(block) { bytes throws(Ext4Error) in
                ExtendedAttributeBlock.setReferenceCount(references - 1, in: &bytes)
                ExtendedAttributeBlock.updateChecksum(&bytes, at: block.number, volume.superBlock)
            }
            return false
        }
        guard isLast else { return }
        try volume.free(BlockRun(start: block.number, count: 1), in: handle)
        try handle.revoke(block.number)
    }

    /// Writes `i_file_acl`, and counts the block's cluster among those of the inode, shared or not.
    private func setBlock(_ new: FSBlock?, in handle: borrowing Handle) throws(Ext4Error) {
        try inode.update(in: handle, volume) { record throws(Ext4Error) in
            let change = (new == nil ? 0 : 1) - (record.attributeBlock == 0 ? 0 : 1)
            record.attributeBlock = new?.rawValue ?? 0
            if change != 0 { record.addClusters(Int64(change), volume.superBlock) }
        }
    }

    private var goal: FSBlock {
        volume.layout.firstBlock(of: volume.layout.place(of: inode.number)?.group ?? GroupNumber(0))
    }
}

extension Volume {
    /// 0 when the super block says that no inode has an attribute block, as e2fsck would complain.
    fileprivate var attributeBlockByteCount: Int {
        superBlock.features.compatible.contains(.extendedAttributes) ? blockByteCount : 0
    }
}
