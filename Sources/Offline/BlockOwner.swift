package import Ext4Format

/// What a block of a volume is, as far as its structures say.
package struct BlockOwner: Equatable, Sendable {
    package enum Kind: String, Sendable {
        case superBlock = "super block"
        case groupDescriptors = "group descriptors"
        case reservedDescriptors = "reserve for group descriptors"
        case blockBitmap = "block bitmap"
        case inodeBitmap = "inode bitmap"
        case inodeTable = "inode table"
        case directory = "directory"
        case extentNode = "extent node"
        case indirectBlock = "indirect block"
        case attributes = "attribute block"
        case symlink = "symlink"
        case file = "file data"
        case attributeValue = "attribute value"
        case journal = "journal"
        case orphanFile = "orphan file"
        case quota = "quota file"
    }
    package let kind: Kind
    /// The groups that it is about: of a bitmap and a table the group, of descriptors those that it describes.
    package var groups: ClosedRange<UInt32>?
    /// The group that a copy of the super block or of descriptors lies in; nil for the primary ones.
    package var copyInGroup: UInt32?
    /// The inodes of a table's block.
    package var inodes: ClosedRange<UInt32>?
    /// Whose block it is.
    package var inode: InodeNumber?
    /// Which block of the file; of the kinds that hold what an inode holds.
    package var fileBlock: FileBlock?
    /// Of a block of a map: 0 for a leaf of an extent tree, 1 for a block of block numbers.
    package var level: Int?
    /// It was so before the replay, and is so no more.
    package var isFormer = false

    init(_ kind: Kind) { self.kind = kind }
}

/// What a block is by its place: arithmetic on the super block and the descriptors, for what mke2fs lays down. Memory:
/// the blocks that were asked for.
struct FixedPlaces {
    private let volume: VolumeReader
    /// Those with a wanted block, by the first.
    private let tables: [(start: UInt64, group: UInt32)]
    private let bitmaps: [UInt64: (kind: BlockOwner.Kind, group: UInt32)]

    /// `wanted` are sorted.
    init(_ volume: VolumeReader, of wanted: [UInt64]) throws(Ext4Error) {
        func isWanted(_ start: UInt64, _ count: UInt32) -> Bool {
            let first = wanted.partitioningIndex { $0 >= start }
            return first < wanted.count && wanted[first] - start < UInt64(count)
        }
        self.volume = volume
        // One group for each place: what a sparse image names over and over takes no memory.
        var tables: [UInt64: UInt32] = [:]
        var bitmaps: [UInt64: (kind: BlockOwner.Kind, group: UInt32)] = [:]
        for group in 0..<volume.layout.groupCount {
            guard let descriptor = try volume.descriptor(of: group) else { continue }
            let (table, blocks, inodes) = (descriptor.inodeTable, descriptor.blockBitmap, descriptor.inodeBitmap)
            if isWanted(table.rawValue, volume.layout.inodeTableBlockCount) { tables[table.rawValue] = group }
            if isWanted(blocks.rawValue, 1) { bitmaps[blocks.rawValue] = (.blockBitmap, group) }
            if isWanted(inodes.rawValue, 1) { bitmaps[inodes.rawValue] = (.inodeBitmap, group) }
        }
        self.tables = tables.map { ($0.key, $0.value) }.sorted { $0.start < $1.start }
        self.bitmaps = bitmaps
    }

    func owner(of number: UInt64) -> BlockOwner? {
        if let bitmap = bitmaps[number] {
            var owner = BlockOwner(bitmap.kind)
            owner.groups = bitmap.group...bitmap.group
            return owner
        }
        return table(number) ?? header(number)
    }

    private func table(_ number: UInt64) -> BlockOwner? {
        let after = tables.partitioningIndex { $0.start > number }
        let layout = volume.layout
        guard after > 0, number - tables[after - 1].start < UInt64(layout.inodeTableBlockCount) else { return nil }
        let found = tables[after - 1]
        let perBlock = UInt32(layout.blockByteCount / layout.superBlock.inodeByteCount)
        let first = UInt32(number - found.start) * perBlock
        let last = min(first + perBlock, layout.superBlock.inodesPerGroup) - 1
        var owner = BlockOwner(.inodeTable)
        owner.groups = found.group...found.group
        let group = GroupNumber(found.group)
        owner.inodes = layout.inode(first, in: group).rawValue...layout.inode(last, in: group).rawValue
        return owner
    }

    /// The super block and the descriptors at the start of the volume, and the copies of both at the start of groups.
    private func header(_ number: UInt64) -> BlockOwner? {
        let layout = volume.layout
        if FSBlock(number) == layout.superBlock.superBlockPlace.block { return BlockOwner(.superBlock) }
        guard let group = layout.place(of: FSBlock(number))?.group else { return nil }
        // The primary super block may have a block before it.
        let start = group.rawValue == 0 ? layout.superBlock.superBlockPlace.block : layout.firstBlock(of: group)
        guard number >= start.rawValue else { return nil }
        let index = UInt32(number - start.rawValue)
        let hasSuperBlock = layout.hasSuperBlock(group)
        let copy = group.rawValue == 0 ? nil : group.rawValue
        if hasSuperBlock && index == 0 {
            var owner = BlockOwner(.superBlock)
            owner.copyInGroup = copy
            return owner
        }
        if let owner = metaDescriptors(number, group, index) { return owner }
        guard hasSuperBlock, index > 0 else { return nil }
        let isMeta = layout.superBlock.features.incompatible.contains(.metaBlockGroups)
        let tableCount =
            isMeta
            ? min(layout.superBlock.firstMetaBlockGroup, layout.descriptorBlockCount) : layout.descriptorBlockCount
        if index <= tableCount {
            var owner = descriptors(index - 1)
            owner.copyInGroup = copy
            return owner
        }
        guard index <= tableCount + UInt32(layout.superBlock.reservedGroupDescriptorBlocks) else { return nil }
        var owner = BlockOwner(.reservedDescriptors)
        owner.copyInGroup = copy
        return owner
    }

    private func descriptors(_ index: UInt32) -> BlockOwner {
        let layout = volume.layout, perBlock = VolumeReader.descriptorsPerBlock(layout)
        var owner = BlockOwner(.groupDescriptors)
        owner.groups = index * perBlock...min((index + 1) * perBlock, layout.groupCount) - 1
        return owner
    }

    /// With meta_bg the descriptors of each run of groups lie in its first group, with copies in its second and last.
    private func metaDescriptors(_ number: UInt64, _ group: GroupNumber, _ offset: UInt32) -> BlockOwner? {
        let layout = volume.layout, perBlock = VolumeReader.descriptorsPerBlock(layout)
        let index = group.rawValue / perBlock
        guard layout.superBlock.features.incompatible.contains(.metaBlockGroups),
            index >= layout.superBlock.firstMetaBlockGroup, offset == (layout.hasSuperBlock(group) ? 1 : 0)
        else { return nil }
        let within = group.rawValue % perBlock
        guard within <= 1 || within == perBlock - 1 else { return nil }
        var owner = descriptors(index)
        owner.copyInGroup = within == 0 ? nil : group.rawValue
        return owner
    }
}
