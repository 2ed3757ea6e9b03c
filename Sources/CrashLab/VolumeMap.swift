internal import BlockIO
internal import Ext4Format

/// Which blocks of a volume are metadata: those with a fixed place, and those that came through the log since they were
/// allocated. And what its block bitmaps say, by the newest committed transaction.
struct VolumeMap {
    private let layout: VolumeLayout
    let superBlock: UInt64
    private var fixed: Set<UInt64> = []
    private var tables: [(start: UInt64, group: UInt32)] = []
    /// Block bitmaps by the block that holds them.
    private var bitmaps: [UInt64: (group: UInt32, bytes: [UInt8])] = [:]
    /// Blocks that were logged since they were allocated.
    private var logged: Set<UInt64> = []

    /// With meta_bg the places of descriptors are not known here, and only what was logged counts as metadata.
    init(_ layout: VolumeLayout, _ device: any BlockDevice) throws(Ext4Error) {
        self.layout = layout
        superBlock = layout.superBlock.superBlockPlace.block.rawValue
        fixed.insert(superBlock)
        guard !layout.superBlock.features.incompatible.contains(.metaBlockGroups) else { return }
        for group in 0..<layout.groupCount {
            let place = layout.descriptor(of: GroupNumber(group))
            fixed.insert(place.block.rawValue)
            let block = try device.block(place.block.rawValue, layout.blockByteCount)
            let descriptor = GroupDescriptor(decoding: unsafe block.span.bytes.extracting(place.bytes))
            let bitmap = descriptor.blockBitmap.rawValue
            guard bitmap < layout.superBlock.blockCount else { continue }
            let bytes =
                descriptor.flags.contains(.blocksUninitialized)
                ? [UInt8](repeating: 0, count: layout.blockByteCount)
                : try device.block(bitmap, layout.blockByteCount)
            bitmaps[bitmap] = (group, bytes)
            fixed.insert(bitmap)
            fixed.insert(descriptor.inodeBitmap.rawValue)
            let table = descriptor.inodeTable.rawValue, count = UInt64(layout.inodeTableBlockCount)
            guard table <= layout.superBlock.blockCount, count <= layout.superBlock.blockCount - table else { continue }
            tables.append((table, group))
            fixed.formUnion(table..<table + count)
        }
    }

    func isMetadata(_ block: UInt64) -> Bool { fixed.contains(block) || logged.contains(block) }

    /// By the block bitmaps of the newest committed transaction; false where none is known.
    func isAllocated(_ block: UInt64) -> Bool {
        guard let (group, bit) = layout.place(of: FSBlock(block)),
            let bitmap = bitmaps.values.first(where: { $0.group == group.rawValue })
        else { return false }
        return bitmap.bytes[Int(bit / 8)] >> UInt8(bit % 8) & 1 == 1
    }

    func tableGroup(of block: UInt64) -> GroupNumber? {
        tables.first { block >= $0.start && block - $0.start < UInt64(layout.inodeTableBlockCount) }
            .map { GroupNumber($0.group) }
    }

    /// Takes in a committed transaction; answers the blocks that it frees.
    mutating func take(_ transaction: LoggedTransaction) -> Set<UInt64> {
        logged.formUnion(transaction.copies.keys)
        for block in transaction.revokes where transaction.hides(block) { logged.remove(block) }
        var freed: Set<UInt64> = []
        for (block, bytes) in transaction.copies {
            guard let (group, before) = bitmaps[block] else { continue }
            let first = layout.firstBlock(of: GroupNumber(group)).rawValue
            for (index, pair) in zip(before, bytes).enumerated() where pair.0 & ~pair.1 != 0 {
                for bit in 0..<8 where (pair.0 & ~pair.1) >> UInt8(bit) & 1 == 1 {
                    let low = first + UInt64(index * 8 + bit) << UInt64(layout.clusterShift)
                    freed.formUnion(low..<low + UInt64(layout.superBlock.clusterBlockCount))
                }
            }
            bitmaps[block] = (group, bytes)
        }
        logged.subtract(freed)
        return freed
    }
}

extension BlockDevice {
    /// One block, numbered from 0 in blocks of `byteCount` bytes.
    func block(_ number: UInt64, _ byteCount: Int) throws(Ext4Error) -> [UInt8] {
        let buffer = AlignedBuffer(byteCount: byteCount)
        try read(into: buffer, at: number * UInt64(byteCount))
        return buffer.withBytes { $0.array(0..<byteCount) }
    }
}
