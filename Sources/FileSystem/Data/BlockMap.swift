internal import Ext4Format
internal import Journal

/// The block map of an inode without extents (ext2, ext3): twelve direct blocks, then one, two and three levels of
/// indirect blocks (kernel doc: ext4, "Direct/Indirect Block Addressing"). Read only here.
struct BlockMap {
    let volume: Volume
    let inode: Inode

    private static let directCount: UInt64 = 12

    /// The piece that holds `block`. Runs are merged as far as one map block reaches.
    func find(_ block: FileBlock) throws(Ext4Error) -> ExtentTree.Piece {
        let perBlock = UInt64(volume.blockByteCount / 4)
        var index = UInt64(block.rawValue)
        if index < Self.directCount {
            return try inode.record.withArea { area throws(Ext4Error) in
                try run(in: area, from: Int(index), to: Int(Self.directCount), at: block, span: 1)
            }
        }
        index -= Self.directCount
        var span: UInt64 = 1
        for level in 0..<3 {
            let covered = span * perBlock
            if index < covered {
                let slot = Int(Self.directCount) + level
                let first = inode.record.withArea { $0[LE<UInt32>(4 * slot)] }
                return try descend(
                    first, levels: level, index: index, at: block, perBlock: perBlock, reach: covered - index)
            }
            index -= covered
            span = covered
        }
        return .hole(UInt64(block.rawValue)..<1 << 32)
    }

    private func descend(
        _ start: UInt32, levels: Int, index: UInt64, at block: FileBlock, perBlock: UInt64, reach: UInt64
    ) throws(Ext4Error) -> ExtentTree.Piece {
        var number = start, level = levels, index = index, reach = reach
        while true {
            if number == 0 { return .hole(UInt64(block.rawValue)..<min(UInt64(block.rawValue) + reach, 1 << 32)) }
            let map = try volume.cache.block(FSBlock(UInt64(number)))
            let span = (0..<level).reduce(UInt64(1)) { product, _ in product * perBlock }
            let slot = Int(index / span)
            if level == 0 {
                return try map.withBytes { bytes throws(Ext4Error) in
                    try run(in: bytes, from: slot, to: Int(perBlock), at: block, span: 1)
                }
            }
            number = try map.withBytes { bytes throws(Ext4Error) in bytes[LE<UInt32>(4 * slot)] }
            index %= span
            reach = span - index
            level -= 1
        }
    }

    /// The run of neighbouring entries that starts at `slot`.
    private func run(
        in bytes: RawSpan, from slot: Int, to end: Int, at block: FileBlock, span: UInt64
    ) throws(Ext4Error) -> ExtentTree.Piece {
        let start = bytes[LE<UInt32>(4 * slot)]
        var count: UInt32 = 1
        let limit = UInt32(end - slot)
        if start == 0 {
            while count < limit, bytes[LE<UInt32>(4 * (slot + Int(count)))] == 0 { count += 1 }
            return .hole(UInt64(block.rawValue)..<min(UInt64(block.rawValue) + UInt64(count), 1 << 32))
        }
        while count < limit, UInt64(bytes[LE<UInt32>(4 * (slot + Int(count)))]) == UInt64(start) + UInt64(count) {
            count += 1
        }
        guard UInt64(start) + UInt64(count) <= volume.superBlock.blockCount,
            UInt64(block.rawValue) + UInt64(count) <= 1 << 32
        else {
            throw .corrupt("block map", where: "inode \(inode.number.rawValue), file block \(block.rawValue)")
        }
        return .extent(Extent(first: block, count: count, start: FSBlock(UInt64(start))))
    }
}
