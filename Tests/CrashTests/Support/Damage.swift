import Checker
import Ext4Format
import Testing

/// One way to break one rule.
struct Damage: Sendable, CustomTestStringConvertible {
    let rule: Finding.Rule
    let name: String
    /// Why e2fsck lets it pass; nil: it does not.
    let onlyOurs: String?
    let tree: ImageTree.Kind
    let body: @Sendable (inout DamagedImage) throws -> Void

    var testDescription: String { "\(rule): \(name)" }

    init(
        _ rule: Finding.Rule, _ name: String, onlyOurs: String? = nil,
        _ tree: ImageTree.Kind = .ext4,
        _ body: @escaping @Sendable (inout DamagedImage) throws -> Void
    ) {
        (self.rule, self.name, self.onlyOurs, self.tree, self.body) = (rule, name, onlyOurs, tree, body)
    }

    /// Whether a walk through all inodes and names that compares what it finds must meet it.
    var isOfTheTree: Bool {
        let rules: Set<Finding.Rule> = [
            .blockNotMarked, .blockLeaked, .blockClaimedTwice, .blockOutside, .inodeChecksum, .inodeNotMarked,
            .inodeLeaked, .linkCount, .entryTarget, .directoryNames, .blockBitmap, .inodeBitmap,
        ]
        return rules.contains(rule)
    }

    static let all = volume + groups + inodes + mappings + attributes + directories + indexes

    // MARK: - The volume

    private static let volume = [
        Damage(.superBlock, "checksum") { image in
            let place = image.superBlock.superBlockPlace
            image.editBlock(place.block.rawValue) { $0[LE<UInt8>(place.offset + 0x3FC)] ^= 1 }
        },
        Damage(.superBlock, "inodes per group") { $0.editSuperBlock { $0[LE<UInt32>(0x28)] += 8 } },
        Damage(.feature, "an unknown one") { $0.editSuperBlock { $0[LE<UInt32>(0x64)] |= 1 << 27 } },
        Damage(.freeBlockCount, "one more") { $0.editSuperBlock { $0[LE<UInt32>(0xC)] += 1 } },
        Damage(.freeInodeCount, "one less") { $0.editSuperBlock { $0[LE<UInt32>(0x10)] -= 1 } },
        Damage(.orphanList, "a file in use", onlyOurs: "with -n it does not look at the list") { image in
            let inode = image.inode("/file")
            image.editSuperBlock { $0[LE<UInt32>(0xE8)] = inode.rawValue }
        },
        Damage(.orphanFile, "a slot in use") { image in try image.editOrphanBlock { $0[LE<UInt32>(8)] = 12 } },
        Damage(.orphanFile, "magic") { image in try image.editOrphanBlock { $0[LE<UInt32>(1016)] ^= 1 } },
        Damage(.orphanFile, "checksum") { image in
            let block = image.extentStart(InodeNumber(image.superBlock.orphanFileInode))
            image.editBlock(block) { $0[LE<UInt32>(1020)] ^= 1 }
        },
        Damage(.orphanFile, "orphan_present without any") { image in
            image.editSuperBlock { $0[LE<UInt32>(0x64)] |= 0x10000 }
        },
        Damage(.recovered, "a log in use") { image in
            image.editJournal { $0.start = 1 }
        },
        Damage(.journal, "magic") { image in
            image.editBlock(image.extentStart(.journal)) { $0[BE<UInt32>(0)] ^= 1 }
        },
        Damage(.journal, "longer than its file") { image in
            image.editBlock(image.extentStart(.journal)) { $0[BE<UInt32>(0x10)] += 1 }
            image.editJournal { _ in }
        },
        Damage(.resizeInode, "a pointer") { image in
            let block = UInt64(image.field(LE<UInt32>(0x28 + 52), of: InodeNumber(7)))
            let at = (0..<256).first { image.number(LE<UInt32>(4 * $0), ofBlock: block) != 0 }!
            image.editBlock(block) { $0[LE<UInt32>(4 * at)] += 1 }
        },
    ]

    // MARK: - Groups

    private static let groups = [
        Damage(.descriptor, "checksum") { image in
            image.editBlock(image.layout.descriptor(of: GroupNumber(0)).block.rawValue) { $0[LE<UInt16>(0x1E)] ^= 1 }
        },
        Damage(.metadataPlace, "an inode bitmap outside of the volume") { image in
            image.editDescriptor(1) { bytes, _ in bytes[LE<UInt32>(4)] = 1 << 20 }
        },
        Damage(.blockClaimedTwice, "an inode bitmap in an inode table") { image in
            let table = image.descriptor(0).inodeTable.rawValue
            image.editDescriptor(1) { bytes, _ in bytes[LE<UInt32>(4)] = UInt32(table) }
        },
        Damage(.blockBitmap, "checksum") { image in
            image.editBlock(image.descriptor(0).blockBitmap.rawValue) { $0[LE<UInt8>(500)] ^= 1 }
        },
        Damage(.inodeBitmap, "checksum") { image in
            image.editBlock(image.descriptor(0).inodeBitmap.rawValue) { $0[LE<UInt8>(1)] ^= 1 }
        },
        Damage(.blockBitmapPadding, "the last group") { $0.editBlockBitmap(1) { $0[LE<UInt8>(1023)] = 0 } },
        Damage(.inodeBitmapPadding, "a bit") { $0.editInodeBitmap(0) { $0[LE<UInt8>(1023)] = 0x7F } },
        Damage(.groupFreeBlocks, "one less") { image in
            image.editDescriptor(0) { $1.freeBlockCount -= 1 }
        },
        Damage(.groupFreeInodes, "one less") { image in
            image.editDescriptor(0) { $1.freeInodeCount -= 1 }
        },
        Damage(.groupDirectories, "one more") { image in
            image.editDescriptor(0) { $1.directoryCount += 1 }
        },
        Damage(.unusedInodes, "more than are free") { image in
            image.editDescriptor(0) { $1.unusedInodeCount = 1000 }
        },
        Damage(.blockNotMarked, "a block of a file") { image in
            try image.editBlockBits { bytes, bit in bytes[LE<UInt8>(bit / 8)] &= ~(1 << UInt8(bit % 8)) }
        },
        Damage(.blockLeaked, "a block of nobody") { image in
            let count = image.superBlock.blocksPerGroup
            let bitmap = image.descriptor(0).blockBitmap.rawValue
            let free = (0..<Int(count / 8)).last { image.number(LE<UInt8>($0), ofBlock: bitmap) == 0 }!
            image.editBlockBitmap(0) { $0[LE<UInt8>(free)] = 1 }
        },
    ]

    // MARK: - Inodes

    private static let inodes = [
        Damage(.inodeChecksum, "a time") { image in
            try image.editInode(image.inode("/file"), isSealed: false) { $0[LE<UInt32>(8)] ^= 1 }
        },
        Damage(.inodeNotMarked, "a file") { image in
            let index = Int(image.inode("/plain").rawValue - 1)
            image.editInodeBitmap(0) { $0[LE<UInt8>(index / 8)] &= ~(1 << UInt8(index % 8)) }
        },
        Damage(.inodeLeaked, "no links") { try $0.editInode($0.inode("/short")) { $0[LE<UInt16>(0x1A)] = 0 } },
        Damage(.deletionTime, "of a file in use") { try $0.editInode($0.inode("/file")) { $0[LE<UInt32>(0x14)] = 77 } },
        Damage(.deletionTime, "none of a deleted file") { image in
            let free = try image.firstFreeInode()
            try image.editInode(free) { $0[LE<UInt32>(0x14)] = 0 }
        },
        Damage(.inodeMode, "an unknown type") { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt16>(0)] = 0o030644 }
        },
        Damage(.inodeFlags, "an index on a file") { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt32>(0x20)] |= 0x1000 }
        },
        Damage(.inodeSize, "less than the data") { try $0.editInode($0.inode("/file")) { $0[LE<UInt32>(4)] = 99 } },
        Damage(.inodeSize, "of a directory") { try $0.editInode($0.inode("/sub")) { $0[LE<UInt32>(4)] += 1024 } },
        Damage(.blockCount, "two more") { try $0.editInode($0.inode("/file")) { $0[LE<UInt32>(0x1C)] += 2 } },
        Damage(.symlink, "a short one cut") { try $0.editInode($0.inode("/short")) { $0[LE<UInt32>(4)] = 3 } },
        Damage(.symlink, "a long one grown") { try $0.editInode($0.inode("/long")) { $0[LE<UInt32>(4)] = 300 } },
        Damage(.device, "a mapping") { try $0.editInode($0.inode("/null")) { $0[LE<UInt32>(0x20)] |= 0x80000 } },
        Damage(.device, "a size") { try $0.editInode($0.inode("/null")) { $0[LE<UInt32>(4)] = 1 } },
        Damage(.linkCount, "of a file") { try $0.editInode($0.inode("/file")) { $0[LE<UInt16>(0x1A)] += 1 } },
        Damage(.linkCount, "of a directory") { try $0.editInode($0.inode("/sub")) { $0[LE<UInt16>(0x1A)] += 1 } },
    ]

    // MARK: - Mappings

    private static let mappings = [
        Damage(.extentTree, "magic") { try $0.editInode($0.inode("/file")) { $0[LE<UInt16>(0x28)] ^= 1 } },
        Damage(.extentTree, "the start of the key below") { image in
            try image.editInode(image.inode("/sparse")) { $0[LE<UInt32>(0x28 + 12)] += 1 }
        },
        Damage(.extentTree, "overlapping extents") { image in
            try image.editExtentBlock("/sparse") { $0[LE<UInt16>(12 + 4)] = 100 }
        },
        Damage(.extentTree, "an extent outside of the volume") { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt32>(0x28 + 12 + 8)] = 1 << 20 }
        },
        Damage(.extentTree, "checksum") { image in
            let block = UInt64(image.field(LE<UInt32>(0x28 + 16), of: image.inode("/sparse")))
            image.editBlock(block) { $0[LE<UInt16>(2)] -= 1 }
        },
        Damage(.blockClaimedTwice, "two files with one block") { image in
            let start = image.field(LE<UInt32>(0x28 + 12 + 8), of: image.inode("/file"))
            try image.editInode(image.inode("/plain")) { $0[LE<UInt32>(0x28 + 12 + 8)] = start }
        },
        Damage(.blockClaimedTwice, "a file with a block of an inode table") { image in
            let table = UInt32(image.descriptor(0).inodeTable.rawValue)
            try image.editInode(image.inode("/plain")) { $0[LE<UInt32>(0x28 + 12 + 8)] = table }
        },
        Damage(.clusterPlace, "a file moved within its clusters", .clusters) { image in
            try image.editInode(image.inode("/plain")) { $0[LE<UInt32>(0x28 + 12 + 8)] += 1 }
        },
        Damage(.blockClaimedTwice, "two files in one cluster", .clusters) { image in
            let start = image.field(LE<UInt32>(0x28 + 12 + 8), of: image.inode("/file"))
            try image.editInode(image.inode("/plain")) { $0[LE<UInt32>(0x28 + 12 + 8)] = start }
        },
        Damage(.blockClaimedTwice, "an inode bitmap in an inode table, in one cluster", .clusters) { image in
            let table = image.descriptor(0).inodeTable.rawValue
            image.editDescriptor(0) { bytes, _ in bytes[LE<UInt32>(4)] = UInt32(table) }
        },
        Damage(.blockNotMarked, "a cluster of a file", .clusters) { image in
            try image.editBlockBits { bytes, bit in bytes[LE<UInt8>(bit / 8)] &= ~(1 << UInt8(bit % 8)) }
        },
        Damage(.blockCount, "a block and not its cluster", .clusters) { image in
            try image.editInode(image.inode("/plain")) { $0[LE<UInt32>(0x1C)] -= 2 }
        },
        Damage(.groupFreeBlocks, "blocks and not clusters", .clusters) { image in
            image.editDescriptor(0) { $1.freeBlockCount *= 4 }
        },
        Damage(.freeBlockCount, "clusters and not blocks", .clusters) { image in
            image.editSuperBlock { $0[LE<UInt32>(0xC)] /= 4 }
        },
        Damage(.blockOutside, "of a block map", .ext3) { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt32>(0x28)] = 1 << 20 }
        },
        Damage(.blockClaimedTwice, "twice in a block map", .ext3) { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt32>(0x28)] = $0[LE<UInt32>(0x2C)] }
        },
        Damage(.inodeSize, "less than a block map holds", .ext3) { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt32>(4)] = 99 }
        },
        Damage(.blockCount, "of a block map", .ext3) { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt32>(0x1C)] -= 2 }
        },
    ]

    // MARK: - Attributes

    private static let attributes = [
        Damage(.attributes, "magic") { $0.editAttributeBlock("/file") { $0[LE<UInt32>(0)] ^= 1 } },
        Damage(.attributes, "a value past the end") { $0.editAttributeBlock("/file") { $0[LE<UInt16>(34)] = 1000 } },
        Damage(.attributes, "checksum") { image in
            let block = UInt64(image.field(LE<UInt32>(0x68), of: image.inode("/file")))
            image.editBlock(block) { $0[LE<UInt8>(1000)] ^= 1 }
        },
        Damage(.attributes, "a value past the end of the inode") { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt16>(160 + 4 + 2)] = 200 }
        },
        Damage(.attributeHash, "of a value") { $0.editAttributeBlock("/file") { $0[LE<UInt8>(1000)] ^= 1 } },
        Damage(.attributeReferences, "two for one") { $0.editAttributeBlock("/file") { $0[LE<UInt32>(4)] = 2 } },
        Damage(.blockOutside, "an attribute block") { image in
            try image.editInode(image.inode("/file")) { $0[LE<UInt32>(0x68)] = 1 << 20 }
        },
    ]
}
