/// A run of file blocks that lie one behind the other on the device: `struct ext4_extent`.
package struct Extent: Equatable, Sendable {
    package var first: FileBlock
    /// 1 ... 32,768; 1 ... 32,767 when unwritten.
    package var count: UInt32
    package var start: FSBlock
    /// Allocated and reads as zeros.
    package var isUnwritten: Bool

    package static let maximumWritten: UInt32 = 32768
    package static let maximumUnwritten: UInt32 = 32767

    package init(first: FileBlock, count: UInt32, start: FSBlock, isUnwritten: Bool = false) {
        self.first = first
        self.count = count
        self.start = start
        self.isUnwritten = isUnwritten
    }

    /// The file block after the last one: 2^32 at most.
    package var end: UInt64 { UInt64(first.rawValue) + UInt64(count) }
}

/// One entry of an inner node: `struct ext4_extent_idx`.
package struct ExtentIndex: Equatable, Sendable {
    package var first: FileBlock
    package var child: FSBlock
    package init(first: FileBlock, child: FSBlock) {
        self.first = first
        self.child = child
    }
}

/// A node of an extent tree (`struct ext4_extent_header` and the 12-byte entries behind it), in the 60 bytes of the
/// inode or in a block of its own.
package struct ExtentNode: Sendable {
    package static let magic: UInt16 = 0xF30A
    package static let headerByteCount = 12
    package static let entryByteCount = 12
    package static let maximumDepth: UInt16 = 5

    package var depth: UInt16
    /// The entries that fit, from the header.
    package let capacity: Int
    package var entries: Entries

    package enum Entries: Equatable, Sendable {
        case leaf([Extent])
        case inner([ExtentIndex])
        package var count: Int {
            switch self {
            case .leaf(let extents): extents.count
            case .inner(let indexes): indexes.count
            }
        }
    }

    private enum Layout {
        static var magic: LE<UInt16> { LE(0x0) }
        static var entries: LE<UInt16> { LE(0x2) }
        static var capacity: LE<UInt16> { LE(0x4) }
        static var depth: LE<UInt16> { LE(0x6) }
    }

    package init(depth: UInt16, capacity: Int, entries: Entries) {
        self.depth = depth
        self.capacity = capacity
        self.entries = entries
    }

    /// The entries that fit into a node of `byteCount` bytes; a block of its own also holds the checksum behind them.
    package static func capacity(byteCount: Int) -> Int { (byteCount - headerByteCount) / entryByteCount }

    /// Decodes a whole node and checks it by itself: magic, counts, order, lengths, no overlap; blocks lie within
    /// `blockCount`. `depth` is what the parent says (nil for a root).
    package init(
        decoding bytes: RawSpan, depth expected: UInt16?, blockCount: UInt64, where place: @autoclosure () -> String
    ) throws(Ext4Error) {
        let head = try Self.header(bytes)
        let count = head.count
        capacity = head.capacity
        depth = head.depth
        guard depth <= Self.maximumDepth, expected == nil || depth == expected else {
            throw .corrupt("extent node", where: "\(place()): depth \(depth)")
        }
        guard depth == 0 || count > 0 else { throw .corrupt("extent node", where: "\(place()): empty inner node") }
        if depth == 0 {
            entries = .leaf(try Self.extents(bytes, count, blockCount, place))
        } else {
            entries = .inner(try Self.indexes(bytes, count, blockCount, place))
        }
    }

    /// The header of a node, with counts that lie within `bytes`.
    static func header(_ bytes: RawSpan) throws(Ext4Error) -> (count: Int, capacity: Int, depth: UInt16) {
        let count = Int(bytes[Layout.entries]), capacity = Int(bytes[Layout.capacity])
        guard bytes[Layout.magic] == magic, capacity >= 1, capacity <= Self.capacity(byteCount: bytes.byteCount),
            count <= capacity
        else { throw .corrupt("extent node", where: "magic or counts: \(count) of \(capacity) entries") }
        return (count, capacity, bytes[Layout.depth])
    }

    private static func extents(
        _ bytes: RawSpan, _ count: Int, _ blockCount: UInt64, _ place: () -> String
    ) throws(Ext4Error) -> [Extent] {
        var result: [Extent] = []
        result.reserveCapacity(count)
        var end: UInt64 = 0
        for index in 0..<count {
            let extent = extent(bytes, at: index)
            guard extent.count > 0, UInt64(extent.first.rawValue) >= end, extent.end <= 1 << 32,
                extent.start.rawValue > 0, extent.start.rawValue < blockCount,
                UInt64(extent.count) <= blockCount - extent.start.rawValue
            else { throw .corrupt("extent", where: "\(place()): entry \(index)") }
            end = extent.end
            result.append(extent)
        }
        return result
    }

    private static func indexes(
        _ bytes: RawSpan, _ count: Int, _ blockCount: UInt64, _ place: () -> String
    ) throws(Ext4Error) -> [ExtentIndex] {
        var result: [ExtentIndex] = []
        result.reserveCapacity(count)
        for index in 0..<count {
            let entry = self.index(bytes, at: index)
            guard result.last.map({ $0.first < entry.first }) ?? true,
                entry.child.rawValue > 0, entry.child.rawValue < blockCount
            else { throw .corrupt("extent index", where: "\(place()): entry \(index)") }
            result.append(entry)
        }
        return result
    }

    static func extent(_ bytes: RawSpan, at index: Int) -> Extent {
        let entry = bytes.extracting(
            headerByteCount + index * entryByteCount..<headerByteCount + (index + 1) * entryByteCount)
        let length = UInt32(entry[LE<UInt16>(4)])
        let isUnwritten = length > Extent.maximumWritten
        return Extent(
            first: FileBlock(entry[LE<UInt32>(0)]), count: isUnwritten ? length - Extent.maximumWritten : length,
            start: FSBlock(UInt64(entry[LE<UInt16>(6)]) << 32 | UInt64(entry[LE<UInt32>(8)])), isUnwritten: isUnwritten)
    }

    static func index(_ bytes: RawSpan, at index: Int) -> ExtentIndex {
        let entry = bytes.extracting(
            headerByteCount + index * entryByteCount..<headerByteCount + (index + 1) * entryByteCount)
        return ExtentIndex(
            first: FileBlock(entry[LE<UInt32>(0)]),
            child: FSBlock(UInt64(entry[LE<UInt16>(8)]) << 32 | UInt64(entry[LE<UInt32>(4)])))
    }

    /// Writes header and entries; the rest of `bytes` stays but for the checksum that `seal` puts there.
    package func encode(into bytes: inout MutableRawSpan) {
        precondition(entries.count <= capacity && capacity <= Self.capacity(byteCount: bytes.byteCount))
        bytes[Layout.magic] = Self.magic
        bytes[Layout.entries] = UInt16(entries.count)
        bytes[Layout.capacity] = UInt16(capacity)
        bytes[Layout.depth] = depth
        switch entries {
        case .leaf(let extents):
            for (index, extent) in extents.enumerated() { Self.put(extent, at: index, into: &bytes) }
        case .inner(let indexes):
            for (index, entry) in indexes.enumerated() {
                let at = Self.headerByteCount + index * Self.entryByteCount
                bytes[LE<UInt32>(at)] = entry.first.rawValue
                bytes[LE<UInt32>(at + 4)] = UInt32(truncatingIfNeeded: entry.child.rawValue)
                bytes[LE<UInt16>(at + 8)] = UInt16(truncatingIfNeeded: entry.child.rawValue >> 32)
                bytes[LE<UInt16>(at + 10)] = 0
            }
        }
    }

    static func setCount(_ count: Int, in bytes: inout MutableRawSpan) { bytes[Layout.entries] = UInt16(count) }

    static func put(_ extent: Extent, at index: Int, into bytes: inout MutableRawSpan) {
        let at = headerByteCount + index * entryByteCount
        let limit = extent.isUnwritten ? Extent.maximumUnwritten : Extent.maximumWritten
        precondition(extent.count > 0 && extent.count <= limit)
        bytes[LE<UInt32>(at)] = extent.first.rawValue
        bytes[LE<UInt16>(at + 4)] = UInt16(
            truncatingIfNeeded: extent.count + (extent.isUnwritten ? Extent.maximumWritten : 0))
        bytes[LE<UInt16>(at + 6)] = UInt16(truncatingIfNeeded: extent.start.rawValue >> 32)
        bytes[LE<UInt32>(at + 8)] = UInt32(truncatingIfNeeded: extent.start.rawValue)
    }

    /// Where the checksum of a block-sized node lies: behind the last entry that fits.
    package static func checksumOffset(_ bytes: RawSpan) -> Int {
        headerByteCount + Int(bytes[Layout.capacity]) * entryByteCount
    }

    package static func isChecksumRight(_ block: RawSpan, _ inode: InodeChecksum) -> Bool {
        let offset = checksumOffset(block)
        guard offset + 4 <= block.byteCount else { return false }
        return block[LE<UInt32>(offset)] == CRC32C.of(block.extracting(0..<offset), seed: inode.seed)
    }

    package static func seal(_ block: inout MutableRawSpan, _ inode: InodeChecksum) {
        let (offset, crc) = sealValue(block.bytes, inode)
        block[LE<UInt32>(offset)] = crc
    }

    private static func sealValue(_ block: RawSpan, _ inode: InodeChecksum) -> (Int, UInt32) {
        let offset = checksumOffset(block)
        return (offset, CRC32C.of(block.extracting(0..<offset), seed: inode.seed))
    }
}
