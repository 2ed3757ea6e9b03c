internal import BlockIO
internal import Ext4Format

/// What is known of a volume while it is checked. Each file of this folder adds the checks of one kind of structure.
final class Survey {
    /// Damage makes more damage: nobody reads more.
    static let findingLimit = 64

    let superBlock: SuperBlock
    let layout: VolumeLayout
    let format: DirectoryFormat
    private let device: any BlockDevice
    /// Blocks that are not being read just now: how deep reads are nested, so many there are.
    private var buffers: [AlignedBuffer] = []
    private(set) var findings: [Finding] = []

    var descriptors: [GroupDescriptor] = []
    /// Which clusters have an owner, and which the bitmaps mark. A cluster is a block but with bigalloc.
    var owned: GroupBits, markedBlocks: GroupBits
    var markedInodes: GroupBits
    /// By inode number: the upper four bits of the mode, 0 for an inode that is not in use; and `i_links_count`.
    var kinds: [UInt8], linkCounts: [UInt16]
    /// By inode number: the names that lead to it, and for a directory the one that has its name.
    var nameCounts: [UInt32], parents: [UInt32]
    var directories: [Directory] = []
    var attributeBlocks: [UInt64: AttributeBlock] = [:]
    /// The blocks of the orphan file, in order.
    var orphanBlocks: [UInt64] = [], orphanSeed: UInt32 = 0

    struct Directory {
        let inode: InodeNumber
        /// What its blocks' checksums start from.
        let seed: UInt32
        let isIndexed: Bool
        let blocks: [UInt64]
        /// What ".." says.
        var parent: UInt32 = 0
        var subdirectoryCount = 0
    }

    struct AttributeBlock {
        let stored: UInt32
        var references: UInt32
    }

    init(_ device: any BlockDevice, _ superBlock: SuperBlock) {
        self.device = device
        self.superBlock = superBlock
        layout = VolumeLayout(superBlock)
        format = DirectoryFormat(superBlock)
        let groups = Int(superBlock.groupCount), inodes = Int(superBlock.inodeCount) + 1
        owned = GroupBits(groupCount: groups, bitsPerGroup: Int(superBlock.clustersPerGroup))
        markedBlocks = owned
        markedInodes = GroupBits(groupCount: groups, bitsPerGroup: Int(superBlock.inodesPerGroup))
        kinds = [UInt8](repeating: 0, count: inodes)
        linkCounts = [UInt16](repeating: 0, count: inodes)
        nameCounts = [UInt32](repeating: 0, count: inodes)
        parents = [UInt32](repeating: 0, count: inodes)
    }

    func report(
        _ rule: Finding.Rule, inode: InodeNumber? = nil, block: UInt64? = nil, group: UInt32? = nil, _ detail: String
    ) {
        guard findings.count < Self.findingLimit else { return }
        findings.append(
            Finding(
                rule: rule, inode: inode, block: block.map { FSBlock($0) }, group: group.map { GroupNumber($0) },
                detail: detail))
    }

    /// Reports what `body` throws as a breach of `rule`.
    func attempt(
        _ rule: Finding.Rule, inode: InodeNumber? = nil, block: UInt64? = nil, group: UInt32? = nil,
        _ body: () throws(Ext4Error) -> Void
    ) {
        do throws(Ext4Error) {
            try body()
        } catch {
            if case .io = error {
                report(.readable, inode: inode, block: block, group: group, error.description)
            } else {
                report(rule, inode: inode, block: block, group: group, error.description)
            }
        }
    }

    /// Reads a block of the volume; the bytes are good until `body` returns.
    func withBlock<R>(_ block: UInt64, _ body: (RawSpan) throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        let buffer = buffers.popLast() ?? AlignedBuffer(byteCount: layout.blockByteCount)
        defer { buffers.append(buffer) }
        try device.read(into: buffer, at: block * UInt64(layout.blockByteCount))
        return try buffer.withBytes { bytes throws(Ext4Error) in try body(bytes) }
    }

    /// Gives the clusters of blocks an owner; `inode` is nil for those of the groups, which may share some. They lie in
    /// the volume. False when one of them had an owner already.
    @discardableResult func claim(_ start: UInt64, _ count: UInt64, _ inode: InodeNumber?) -> Bool {
        let whole = layout.wholeClusters(start..<start + count)
        var start = whole.lowerBound
        var areNew = true
        while start < whole.upperBound {
            guard let (group, bit) = layout.place(of: FSBlock(start)) else {
                report(.blockOutside, inode: inode, block: start, "before the first group")
                return false
            }
            let left = Int((whole.upperBound - start) >> UInt64(layout.clusterShift))
            let bits = Int(bit)..<min(Int(superBlock.clustersPerGroup), Int(bit) + left)
            if let twice = owned.insert(Int(group.rawValue), bits), inode != nil || !superBlock.hasClusters {
                report(
                    .blockClaimedTwice, inode: inode, block: block(of: twice, in: group.rawValue),
                    "it has another owner already")
                areNew = false
            }
            start += UInt64(bits.count) << UInt64(layout.clusterShift)
        }
        return areNew
    }

    /// The first block of what a bit of a block bitmap stands for.
    func block(of bit: Int, in group: UInt32) -> UInt64 {
        layout.firstBlock(of: GroupNumber(group)).rawValue + UInt64(bit) << UInt64(layout.clusterShift)
    }

    func isInVolume(_ block: UInt64) -> Bool { layout.place(of: FSBlock(block)) != nil }
}
