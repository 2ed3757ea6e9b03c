package import BlockIO
package import Ext4Format
internal import FileSystem

/// Reads the structures of a volume as they lie on a device, whatever its features: nothing is mounted, and checksums
/// are not asked for, so that a damaged volume can be looked at as well. Numbers are checked before they are followed.
/// Not for more than one thread.
package final class VolumeReader {
    package let device: any BlockDevice
    package let superBlock: SuperBlock
    package let layout: VolumeLayout
    package let directories: DirectoryFormat
    /// Blocks read one by one, since they are asked for in clusters.
    private var kept: [UInt64: AlignedBuffer] = [:]
    private static let keptByteCount = 4 << 20
    /// The most that is read at once.
    private static let runByteCount = 1 << 20

    /// `.corrupt` or `.refused` when the super block cannot be used.
    package init(on device: any BlockDevice) throws(Ext4Error) {
        self.device = device
        superBlock = try device.superBlockBytes().withBytes { bytes throws(Ext4Error) in
            try SuperBlock(decoding: bytes, deviceByteCount: device.byteCount)
        }
        layout = VolumeLayout(superBlock)
        directories = DirectoryFormat(superBlock)
    }

    package var blockByteCount: Int { layout.blockByteCount }

    // MARK: Groups

    /// The block that holds the descriptors from group `index * descriptors per block` on. With meta_bg that is one of
    /// the groups themselves, from `s_first_meta_bg` on.
    package static func descriptorBlock(_ index: UInt32, _ layout: VolumeLayout) -> FSBlock {
        let superBlock = layout.superBlock
        guard superBlock.features.incompatible.contains(.metaBlockGroups), index >= superBlock.firstMetaBlockGroup
        else { return superBlock.superBlockPlace.block + 1 + UInt64(index) }
        let group = GroupNumber(index * descriptorsPerBlock(layout))
        return layout.firstBlock(of: group) + (layout.hasSuperBlock(group) ? 1 : 0)
    }

    package static func descriptorsPerBlock(_ layout: VolumeLayout) -> UInt32 {
        UInt32(layout.blockByteCount / layout.superBlock.groupDescriptorByteCount)
    }

    /// Nil for a group whose descriptor lies outside of the volume, or points there or to its first block, as holes do.
    package func descriptor(of group: UInt32) throws(Ext4Error) -> GroupDescriptor? {
        let perBlock = Self.descriptorsPerBlock(layout), limit = superBlock.blockCount
        let number = Self.descriptorBlock(group / perBlock, layout).rawValue
        guard group < layout.groupCount, number < limit else { return nil }
        let width = superBlock.groupDescriptorByteCount, start = Int(group % perBlock) * width
        let one = try block(number).withBytes { GroupDescriptor(decoding: $0.extracting(start..<start + width)) }
        let table = one.inodeTable.rawValue, places = 1..<limit
        let isInside =
            places.contains(one.blockBitmap.rawValue) && places.contains(one.inodeBitmap.rawValue)
            && places.contains(table) && UInt64(layout.inodeTableBlockCount) <= limit - table
        return isInside ? one : nil
    }

    // MARK: Blocks and inodes

    /// One block. A number past the end is `.corrupt`.
    package func block(_ number: UInt64) throws(Ext4Error) -> AlignedBuffer {
        if let block = kept[number] { return block }
        guard number < superBlock.blockCount else {
            throw .corrupt("block number", where: "\(number) of \(superBlock.blockCount)")
        }
        let block = AlignedBuffer(byteCount: blockByteCount)
        try device.read(into: block, at: number * UInt64(blockByteCount))
        if kept.count * blockByteCount >= Self.keptByteCount { kept.removeAll() }
        kept[number] = block
        return block
    }

    /// The inode of a number, free ones too. Nil when its slot cannot be found or decoded.
    package func inode(_ number: InodeNumber) throws(Ext4Error) -> InodeRecord? {
        guard let (group, index) = layout.place(of: number), let table = try descriptor(of: group.rawValue)?.inodeTable
        else { return nil }
        let byte = Int(index) * superBlock.inodeByteCount
        let start = byte % blockByteCount
        let end = start + superBlock.inodeByteCount
        return try block(table.rawValue + UInt64(byte / blockByteCount)).withBytes {
            try? InodeRecord(decoding: $0.extracting(start..<end))
        }
    }

    /// Hands out every inode of a group that its bitmap says is in use, reading the table in large runs, and no
    /// further than it was ever used. `body` answers whether to go on, and so does this.
    package func forEachInode(
        in group: UInt32, _ body: (InodeNumber, InodeRecord) throws(Ext4Error) -> Bool
    ) throws(Ext4Error) -> Bool {
        guard let descriptor = try descriptor(of: group) else { return true }
        let hasFlags = superBlock.hasGroupChecksums
        if hasFlags && descriptor.flags.contains(.inodesUninitialized) { return true }
        let unused = hasFlags ? min(descriptor.unusedInodeCount, superBlock.inodesPerGroup) : 0
        let used = Int(superBlock.inodesPerGroup - unused), width = superBlock.inodeByteCount
        let bitmap = try block(descriptor.inodeBitmap.rawValue)
        let perRun = Self.runByteCount / width
        let run = AlignedBuffer(byteCount: Self.runByteCount)
        for first in stride(from: 0, to: used, by: perRun) {
            let end = min(first + perRun, used)
            let byteCount = ((end - first) * width + blockByteCount - 1) / blockByteCount * blockByteCount
            let isWanted = bitmap.withBytes { bits in
                (first..<end).contains { bits[LE<UInt8>($0 / 8)] >> UInt8($0 % 8) & 1 == 1 }
            }
            guard isWanted else { continue }
            let offset = descriptor.inodeTable.rawValue * UInt64(blockByteCount) + UInt64(first * width)
            try run.withMutableBytes { bytes throws(Ext4Error) in
                var part = bytes._mutatingExtracting(0..<byteCount)
                try device.read(into: &part, at: offset)
            }
            for index in first..<end
            where bitmap.withBytes({ $0[LE<UInt8>(index / 8)] >> UInt8(index % 8) & 1 == 1 }) {
                let start = (index - first) * width
                let record = run.withBytes { try? InodeRecord(decoding: $0.extracting(start..<start + width)) }
                let number = layout.inode(UInt32(index), in: GroupNumber(group))
                if let record, try !body(number, record) { return false }
            }
        }
        return true
    }
}
