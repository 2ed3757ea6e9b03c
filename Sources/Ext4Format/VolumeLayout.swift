/// Where things lie on a volume: arithmetic on the super block alone.
///
/// A cluster is what one bit of a block bitmap stands for: `clusterBlockCount` blocks with bigalloc, else one block.
///
/// A class, so that whoever asks a small question does not copy the super block.
package final class VolumeLayout: Sendable {
    package let superBlock: SuperBlock
    package let groupCount: UInt32
    package let blockByteCount: Int
    /// A cluster has 2^`clusterShift` blocks.
    package let clusterShift: UInt32
    private let descriptorsPerBlock: UInt32

    package init(_ superBlock: SuperBlock) {
        self.superBlock = superBlock
        groupCount = superBlock.groupCount
        blockByteCount = superBlock.blockByteCount
        clusterShift = UInt32(superBlock.clusterBlockCount.trailingZeroBitCount)
        descriptorsPerBlock = UInt32(superBlock.blockByteCount / superBlock.groupDescriptorByteCount)
    }

    /// The blocks that hold all group descriptors once.
    package var descriptorBlockCount: UInt32 { (groupCount + descriptorsPerBlock - 1) / descriptorsPerBlock }

    /// The block and byte range of a group's descriptor in the primary table (no meta_bg).
    package func descriptor(of group: GroupNumber) -> (block: FSBlock, bytes: Range<Int>) {
        precondition(group.rawValue < groupCount)
        let start = Int(group.rawValue % descriptorsPerBlock) * superBlock.groupDescriptorByteCount
        let block = superBlock.superBlockPlace.block + 1 + UInt64(group.rawValue / descriptorsPerBlock)
        return (block, start..<start + superBlock.groupDescriptorByteCount)
    }

    package func firstBlock(of group: GroupNumber) -> FSBlock {
        FSBlock(UInt64(superBlock.firstDataBlock) + UInt64(group.rawValue) * UInt64(superBlock.blocksPerGroup))
    }

    /// Fewer than `blocksPerGroup` in the last group only.
    package func blockCount(of group: GroupNumber) -> UInt32 {
        UInt32(min(UInt64(superBlock.blocksPerGroup), superBlock.blockCount - firstBlock(of: group).rawValue))
    }

    /// The bits of the group's block bitmap that stand for something.
    package func clusterCount(of group: GroupNumber) -> UInt32 { blockCount(of: group) >> clusterShift }

    /// `blocks` of them, counted in clusters, the last of which they may fill in part.
    package func clusterCount(for blocks: UInt64) -> UInt64 {
        blocks >> UInt64(clusterShift) + (blocks & UInt64(superBlock.clusterBlockCount - 1) == 0 ? 0 : 1)
    }

    /// Blocks, of a file or of the volume, rounded out to whole clusters.
    package func wholeClusters(_ blocks: Range<UInt64>) -> Range<UInt64> {
        let rest = UInt64(superBlock.clusterBlockCount - 1)
        return blocks.lowerBound & ~rest..<(blocks.upperBound + rest) & ~rest
    }

    /// The group of a block, and the bit of its cluster there. nil when the block lies before the first group or past
    /// the end.
    package func place(of block: FSBlock) -> (group: GroupNumber, bit: UInt32)? {
        guard block.rawValue >= UInt64(superBlock.firstDataBlock), block.rawValue < superBlock.blockCount else {
            return nil
        }
        let relative = block.rawValue - UInt64(superBlock.firstDataBlock)
        let group = relative / UInt64(superBlock.blocksPerGroup)
        return (GroupNumber(UInt32(group)), UInt32(relative % UInt64(superBlock.blocksPerGroup)) >> clusterShift)
    }

    /// nil for zero and for numbers past the last inode.
    package func place(of inode: InodeNumber) -> (group: GroupNumber, index: UInt32)? {
        guard inode.rawValue >= 1, inode.rawValue <= superBlock.inodeCount else { return nil }
        let index = inode.rawValue - 1
        return (GroupNumber(index / superBlock.inodesPerGroup), index % superBlock.inodesPerGroup)
    }

    package func inode(_ index: UInt32, in group: GroupNumber) -> InodeNumber {
        InodeNumber(group.rawValue * superBlock.inodesPerGroup + index + 1)
    }

    package var inodeTableBlockCount: UInt32 {
        UInt32(
            (UInt64(superBlock.inodesPerGroup) * UInt64(superBlock.inodeByteCount) + UInt64(blockByteCount) - 1)
                / UInt64(blockByteCount))
    }

    /// Whether the group starts with a copy of the super block and the descriptors.
    package func hasSuperBlock(_ group: GroupNumber) -> Bool {
        let number = group.rawValue
        if number == 0 { return true }
        if superBlock.features.compatible.contains(.sparseSuper2) { return superBlock.backupGroups.contains(number) }
        guard superBlock.features.readOnlyCompatible.contains(.sparseSuper), number > 1 else { return true }
        return [3, 5, 7].contains { (base: UInt32) in
            var power = number
            while power % base == 0 { power /= base }
            return power == 1
        }
    }

    /// Blocks at the start of a group taken by the super block, the descriptors and their reserve (no meta_bg), and
    /// by what lies before the super block.
    package func headerBlockCount(of group: GroupNumber) -> UInt32 {
        guard hasSuperBlock(group) else { return 0 }
        let superBlockNumber = UInt32(superBlock.superBlockPlace.block.rawValue)
        let before = group.rawValue == 0 ? superBlockNumber - superBlock.firstDataBlock : 0
        return before + 1 + descriptorBlockCount + UInt32(superBlock.reservedGroupDescriptorBlocks)
    }
}
