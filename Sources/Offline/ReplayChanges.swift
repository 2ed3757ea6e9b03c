package import BlockIO
package import Ext4Format

/// Says in words what a replay changes, block by block. Names of directories are compared when all blocks have been
/// seen: a directory that grows moves names from block to block, and that is no change.
///
/// Memory: the names in the directory blocks that change.
package struct ReplayChanges {
    /// What all changes come to.
    package struct Summary: Equatable, Sendable {
        package var blocksTaken: UInt64 = 0
        package var blocksFreed: UInt64 = 0
        package var inodesCreated = 0
        package var inodesDeleted = 0
        /// Those that were in use before and are so after.
        package var inodesChanged = 0
        package var namesAdded = 0
        package var namesRemoved = 0
        /// Names that stand for another inode than before.
        package var namesReplaced = 0
    }

    private let before: any BlockDevice
    private let after: any BlockDevice
    private let volume: VolumeReader
    private let old: VolumeReader?
    private let owners: BlockOwners
    private var directories: [UInt32: (removed: Set<NamedInode>, added: Set<NamedInode>)] = [:]
    private var formerBlocks: [UInt32: [Range<UInt64>]] = [:]
    package private(set) var summary = Summary()

    /// `old` reads the volume before, nil when it cannot be read; `new` reads it after.
    package init(before: any BlockDevice, old: VolumeReader?, new: VolumeReader, owners: BlockOwners) {
        self.before = before
        self.old = old
        after = new.device
        volume = new
        self.owners = owners
    }

    /// What changes in one block, names left out; nil when it keeps its bytes.
    package mutating func changes(of block: FSBlock) throws(Ext4Error) -> [Change]? {
        let size = volume.blockByteCount
        let old = AlignedBuffer(byteCount: size), new = AlignedBuffer(byteCount: size)
        try before.read(into: old, at: block.rawValue * UInt64(size))
        try after.read(into: new, at: block.rawValue * UInt64(size))
        guard !old.isEqual(to: new) else { return nil }
        guard let owner = owners.owner(of: block) else { return bytes(.block, old, new) }
        let changes =
            owner.kind == .directory
            ? try names(owner, block, old, new)
            : old.withBytes { old in new.withBytes { fixed(owner, block, old, $0) } }
                ?? parts(owner, block, old, new)
        count(changes)
        return changes
    }

    private mutating func count(_ changes: [Change]) {
        var inodes: [UInt32: Set<String>] = [:]
        for change in changes {
            switch (change.subject, change.before, change.after) {
            case (.blockBitmap, _, .run(let first, let last)): summary.blocksTaken += last - first + 1
            case (.blockBitmap, .run(let first, let last), _): summary.blocksFreed += last - first + 1
            case (.inode(let number), _, _): inodes[number, default: []].insert(change.field)
            default: break
            }
        }
        for fields in inodes.values {
            if fields.contains("created") { summary.inodesCreated += 1 }
            if fields.contains("deleted") { summary.inodesDeleted += 1 }
            if fields.isDisjoint(with: ["created", "deleted"]) { summary.inodesChanged += 1 }
        }
    }

    // MARK: Structures at fixed places

    /// Nil for what belongs to an inode, or lies where only another size of blocks has put it.
    private func fixed(_ owner: BlockOwner, _ block: FSBlock, _ old: RawSpan, _ new: RawSpan) -> [Change]? {
        // A log may change the geometry: what only the volume before has is read as that one lays it out.
        guard let volume = owner.isFormer ? self.old : volume, volume.blockByteCount == new.byteCount
        else { return nil }
        let superBlock = volume.superBlock
        switch owner.kind {
        case .superBlock:
            let start = owner.copyInGroup == nil ? superBlock.superBlockPlace.offset : 0
            let range = start..<start + SuperBlock.byteCount
            return SuperBlockDifference.changes(old.extracting(range), new.extracting(range))
        case .groupDescriptors:
            guard let groups = owner.groups else { return nil }
            return GroupDifference.changes(old, new, groups: groups, width: superBlock.groupDescriptorByteCount)
        case .blockBitmap:
            guard let group = owner.groups?.lowerBound else { return nil }
            return BitmapDifference.changes(
                old, new, bitCount: Int(volume.layout.clusterCount(of: GroupNumber(group))),
                first: volume.layout.firstBlock(of: GroupNumber(group)).rawValue,
                unit: UInt64(superBlock.clusterBlockCount), .blockBitmap(group: group))
        case .inodeBitmap:
            guard let group = owner.groups?.lowerBound else { return nil }
            return BitmapDifference.changes(
                old, new, bitCount: Int(superBlock.inodesPerGroup),
                first: UInt64(volume.layout.inode(0, in: GroupNumber(group)).rawValue), unit: 1,
                .inodeBitmap(group: group))
        case .inodeTable:
            guard let inodes = owner.inodes else { return nil }
            let width = superBlock.inodeByteCount
            return inodes.flatMap { number -> [Change] in
                let start = Int(number - inodes.lowerBound) * width, range = start..<start + width
                return InodeDifference.changes(
                    old.extracting(range), new.extracting(range), number, blockCount: superBlock.blockCount)
            }
        default: return nil
        }
    }

    private func bytes(_ subject: Change.Subject, _ old: AlignedBuffer, _ new: AlignedBuffer) -> [Change] {
        let count = old.withBytes { old in
            new.withBytes { new in (0..<new.byteCount).count { old[LE<UInt8>($0)] != new[LE<UInt8>($0)] } }
        }
        return [Change(subject, "bytes that differ", nil, .number(UInt64(count)))]
    }

    // MARK: Blocks of inodes

    private func parts(
        _ owner: BlockOwner, _ block: FSBlock, _ old: AlignedBuffer, _ new: AlignedBuffer
    ) -> [Change] {
        let subject: Change.Subject =
            owner.kind == .orphanFile ? .orphanFile : .part(owner.kind, inode: owner.inode?.rawValue ?? 0)
        var list = ChangeList(subject)
        switch owner.kind {
        case .extentNode:
            let limit = volume.superBlock.blockCount
            old.withBytes { old in new.withBytes { ExtentDifference.compare(old, $0, limit, &list) } }
        case .indirectBlock: list.compare("entry", words(old, 0), words(new, 0)) { .number(UInt64($0)) }
        // The tail, magic and checksum, has no slots.
        case .orphanFile: list.compare("inode", words(old, 8), words(new, 8)) { .number(UInt64($0)) }
        case .attributes:
            list.compare("attribute", attributes(old, block), attributes(new, block)) { .text($0) }
            list.compare("inodes that share it", shares(old, block), shares(new, block))
        case .symlink:
            func target(_ buffer: AlignedBuffer) -> [UInt8] {
                buffer.withBytes { Array($0.array(0..<$0.byteCount).prefix { $0 != 0 }) }
            }
            list.compare("target", .text(target(old)), .text(target(new)))
        default: break
        }
        return list.changes.isEmpty ? bytes(subject, old, new) : list.changes
    }

    private func words(_ buffer: AlignedBuffer, _ tail: Int) -> [UInt32] {
        buffer.withBytes { bytes in
            stride(from: 0, to: bytes.byteCount - tail, by: 4).compactMap {
                let word = bytes[LE<UInt32>($0)]
                return word == 0 ? nil : word
            }
        }
    }

    private func attributes(_ buffer: AlignedBuffer, _ block: FSBlock) -> [[UInt8]] {
        let entries = buffer.withBytes { try? ExtendedAttributeBlock.decode($0, at: block) } ?? []
        return entries.compactMap(\.name.full)
    }

    private func shares(_ buffer: AlignedBuffer, _ block: FSBlock) -> UInt32 {
        buffer.withBytes { try? ExtendedAttributeBlock.referenceCount($0, at: block) } ?? 0
    }

    // MARK: Names

    private mutating func names(
        _ owner: BlockOwner, _ block: FSBlock, _ old: AlignedBuffer, _ new: AlignedBuffer
    ) throws(Ext4Error) -> [Change] {
        guard let number = owner.inode else { return [] }
        let gone = try wasPart(block, of: number) ? Set(volume.names(in: old)) : []
        let come = owner.isFormer ? [] : Set(volume.names(in: new))
        directories[number.rawValue, default: ([], [])].removed.formUnion(gone.subtracting(come))
        directories[number.rawValue, default: ([], [])].added.formUnion(come.subtracting(gone))
        return []
    }

    /// Whether the block belonged to the directory before: else what it held then were not its names.
    private mutating func wasPart(_ block: FSBlock, of number: InodeNumber) throws(Ext4Error) -> Bool {
        if formerBlocks[number.rawValue] == nil {
            var runs: [Range<UInt64>] = []
            if let old, let record = try old.inode(number), record.linkCount > 0 {
                var blocks = InodeBlocks(old)
                try blocks.forEachRun(of: record) { start, count, use in
                    if case .contents = use { runs.append(start..<start + count) }
                }
            }
            formerBlocks[number.rawValue] = runs
        }
        return formerBlocks[number.rawValue]?.contains { $0.contains(block.rawValue) } ?? false
    }

    /// The names that came and went, when all blocks have been seen: directory by directory, in the order of names.
    package mutating func nameChanges() -> [Change] {
        var changes: [Change] = []
        for (number, names) in directories.sorted(by: { $0.key < $1.key }) {
            let removed = Self.byName(names.removed.subtracting(names.added))
            let added = Self.byName(names.added.subtracting(names.removed))
            for name in Set(removed.keys).union(added.keys).sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                let (old, new) = (removed[name], added[name])
                changes.append(
                    Change(
                        .directory(number), "name", old.map { .name(name, $0) }, new.map { .name(name, $0) }))
                if old == nil { summary.namesAdded += 1 } else if new == nil { summary.namesRemoved += 1 }
                if old != nil && new != nil { summary.namesReplaced += 1 }
            }
        }
        return changes
    }

    private static func byName(_ names: Set<NamedInode>) -> [[UInt8]: UInt32] {
        Dictionary(names.map { ($0.name, $0.inode) }) { first, _ in first }
    }
}
