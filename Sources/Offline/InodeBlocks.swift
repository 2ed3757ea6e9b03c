internal import BlockIO
package import Ext4Format
internal import FileSystem

/// The blocks of one inode: what it maps, what the map itself lies in, and its attribute block.
package struct InodeBlocks {
    package enum Use: Equatable, Sendable {
        /// What the inode holds, from this block of the file on.
        case contents(FileBlock)
        /// A node of the extent tree; leaves have depth 0.
        case extentNode(depth: UInt16)
        /// A block of block numbers; those of level 1 name contents.
        case indirect(level: Int)
        case attributes
    }
    /// A run of blocks of one use, in units of blocks of the volume.
    package typealias Body = (_ start: UInt64, _ count: UInt64, _ use: Use) throws(Ext4Error) -> Void

    private let volume: VolumeReader
    /// Blocks of maps that may still be read: a damaged map that names one block over and over must come to an end. A
    /// sound volume has no more of them than blocks.
    private var budget: Int
    private static let mapBlockLimit = 1 << 24

    package init(_ volume: VolumeReader, budget: Int? = nil) {
        self.volume = volume
        self.budget = min(budget ?? Self.mapBlockLimit, Int(volume.superBlock.blockCount))
    }

    /// Hands out all runs. A part of the map that makes no sense is left out.
    package mutating func forEachRun(of record: InodeRecord, _ body: Body) throws(Ext4Error) {
        if record.attributeBlock != 0 { try hand(record.attributeBlock, 1, .attributes, body) }
        switch FileType(mode: record.mode) {
        case .regular, .directory: break
        case .symlink where !record.isFastSymlink: break
        default: return
        }
        guard !record.flags.contains(.inlineData) else { return }
        let area = AlignedBuffer(byteCount: 512)
        area.withMutableBytes { bytes in
            for index in 0..<InodeRecord.areaByteCount { bytes[LE<UInt8>(index)] = record.blockArea[index] }
        }
        if record.flags.contains(.extents) {
            try extents(in: area, byteCount: InodeRecord.areaByteCount, depth: nil, body)
        } else {
            try direct(area, body)
        }
    }

    private func hand(_ start: UInt64, _ count: UInt64, _ use: Use, _ body: Body) throws(Ext4Error) {
        let limit = volume.superBlock.blockCount
        guard start < limit, count <= limit - start else { return }
        try body(start, count, use)
    }

    private mutating func extents(
        in buffer: AlignedBuffer, byteCount: Int, depth: UInt16?, _ body: Body
    ) throws(Ext4Error) {
        let limit = volume.superBlock.blockCount
        let node = buffer.withBytes { bytes in
            try? ExtentNode(
                decoding: bytes.extracting(first: byteCount), depth: depth, blockCount: limit, where: "")
        }
        guard let node else { return }
        switch node.entries {
        case .leaf(let extents):
            for extent in extents {
                try hand(extent.start.rawValue, UInt64(extent.count), .contents(extent.first), body)
            }
        case .inner(let indexes):
            for index in indexes {
                try hand(index.child.rawValue, 1, .extentNode(depth: node.depth - 1), body)
                guard let child = try mapBlock(index.child.rawValue) else { return }
                try extents(in: child, byteCount: volume.blockByteCount, depth: node.depth - 1, body)
            }
        }
    }

    /// Nil once the budget is spent.
    private mutating func mapBlock(_ number: UInt64) throws(Ext4Error) -> AlignedBuffer? {
        guard budget > 0, number < volume.superBlock.blockCount else { return nil }
        budget -= 1
        return try volume.block(number)
    }

    // MARK: Block maps

    private static let directCount = 12

    private mutating func direct(_ area: AlignedBuffer, _ body: Body) throws(Ext4Error) {
        let slots = area.withBytes { bytes in (0..<Self.directCount + 3).map { UInt64(bytes[LE<UInt32>(4 * $0)]) } }
        for (index, block) in slots[..<Self.directCount].enumerated() where block != 0 {
            try hand(block, 1, .contents(FileBlock(UInt32(index))), body)
        }
        var first = UInt64(Self.directCount), span = UInt64(1)
        for level in 1...3 {
            span *= UInt64(volume.blockByteCount / 4)
            try indirect(slots[Self.directCount + level - 1], level: level, first: first, body)
            first += span
        }
    }

    /// `first` is the first block of the file below this one.
    private mutating func indirect(
        _ number: UInt64, level: Int, first: UInt64, _ body: Body
    ) throws(Ext4Error) {
        guard number != 0 else { return }
        try hand(number, 1, .indirect(level: level), body)
        guard let block = try mapBlock(number) else { return }
        let perBlock = volume.blockByteCount / 4
        let span = (1..<level).reduce(UInt64(1)) { product, _ in product * UInt64(perBlock) }
        for index in 0..<perBlock {
            let entry = block.withBytes { UInt64($0[LE<UInt32>(4 * index)]) }
            let place = first + UInt64(index) * span
            guard entry != 0, place <= UInt64(UInt32.max) else { continue }
            if level == 1 {
                try hand(entry, 1, .contents(FileBlock(UInt32(place))), body)
            } else {
                try indirect(entry, level: level - 1, first: place, body)
            }
        }
    }
}
