/// One record of the fast-commit area: `struct ext4_fc_tl` and the value behind it (kernel doc "Journal (jbd2)", fast
/// commits). All of it is little-endian, unlike the rest of the journal. Decoding is strict: a length that does not fit
/// the tag, or a number that the structure cannot have, is `.corrupt`.
package enum FastCommitRecord: Equatable, Sendable {
    /// `EXT4_FC_TAG_ADD_RANGE`: this part of the file is mapped so.
    case addRange(InodeNumber, Extent)
    /// `EXT4_FC_TAG_DEL_RANGE`: these file blocks are a hole. The end is at most 2^32.
    case deleteRange(InodeNumber, Range<UInt64>)
    /// `EXT4_FC_TAG_CREAT`: the first name of a new inode.
    case create(Name)
    /// `EXT4_FC_TAG_LINK`: a further name.
    case link(Name)
    /// `EXT4_FC_TAG_UNLINK`: a name is gone.
    case unlink(Name)
    /// `EXT4_FC_TAG_INODE`: the fields as they are now, 128 bytes and `i_extra_isize` more; with data inside, the slot.
    case inode(InodeNumber, [UInt8])
    /// `EXT4_FC_TAG_PAD`
    case pad
    /// `EXT4_FC_TAG_TAIL`: what came before is complete. The checksum is the CRC-32C of all bytes since the last tail,
    /// up to and with the transaction id of this one.
    case tail(TransactionID, checksum: UInt32)
    /// `EXT4_FC_TAG_HEAD`: the first record of the area, with the transaction that the commits belong to.
    case head(features: UInt32, TransactionID)

    /// `struct ext4_fc_dentry_info`
    package struct Name: Hashable, Sendable {
        package let parent: InodeNumber
        package let inode: InodeNumber
        /// 1 ... 255 bytes without '/' and NUL, neither "." nor "..".
        package let bytes: [UInt8]
    }

    /// `EXT4_FC_TAG_BASE_LEN`: what a record has in front of its value.
    package static let headerByteCount = 4
    /// Of a tail, the bytes that its checksum covers: the record's head and the transaction id.
    package static let checkedTailByteCount = 8

    private enum Layout {
        static var tag: LE<UInt16> { LE(0x0) }
        static var valueByteCount: LE<UInt16> { LE(0x2) }
        // Values, counted from behind the head. The first word is the inode or the parent as a rule.
        static var word0: LE<UInt32> { LE(0x0) }
        static var word1: LE<UInt32> { LE(0x4) }
        static var word2: LE<UInt32> { LE(0x8) }
        static var nameOffset: Int { 8 }
        static var inodeOffset: Int { 4 }
        // `struct ext4_extent` inside of an added range.
        static var extentByteCount: Int { 12 }
        static var extentCount: LE<UInt16> { LE(0x8) }
        static var extentStartHigh: LE<UInt16> { LE(0xA) }
        static var extentStartLow: LE<UInt32> { LE(0xC) }
    }

    /// The bytes of the record at `offset` of a block, head included; nil when the rest of the block is too short for
    /// one. Tag 0, and a value that runs out of the block, are `.corrupt`.
    package static func byteCount(in block: RawSpan, at offset: Int) throws(Ext4Error) -> Int? {
        guard offset + headerByteCount <= block.byteCount else { return nil }
        let head = block.extracting(offset..<offset + headerByteCount)
        guard head[Layout.tag] != 0 else { throw corrupt("unknown tag 0") }
        let count = headerByteCount + Int(head[Layout.valueByteCount])
        guard offset + count <= block.byteCount else { throw corrupt("\(count) bytes do not fit the block") }
        return count
    }

    /// `bytes` is one record with its head, as `byteCount` has measured it.
    package init(decoding bytes: RawSpan) throws(Ext4Error) {
        let value = bytes.extracting(Self.headerByteCount..<bytes.byteCount)
        let tag = bytes[Layout.tag]
        func require(_ count: Int, orMore: Bool = false) throws(Ext4Error) {
            guard value.byteCount == count || orMore && value.byteCount > count else {
                throw Self.corrupt("\(value.byteCount) bytes behind tag \(tag)")
            }
        }
        switch tag {
        case 1:
            try require(Layout.inodeOffset + Layout.extentByteCount)
            self = .addRange(try Self.number(value[Layout.word0]), try Self.extent(value))
        case 2:
            try require(12)
            let first = UInt64(value[Layout.word1])
            let end = min(first + UInt64(value[Layout.word2]), 1 << 32)
            self = .deleteRange(try Self.number(value[Layout.word0]), first..<end)
        case 3, 4, 5:
            try require(Layout.nameOffset + 1, orMore: true)
            let name = try Self.name(value)
            self = tag == 3 ? .create(name) : tag == 4 ? .link(name) : .unlink(name)
        case 6:
            try require(Layout.inodeOffset + 128, orMore: true)
            self = .inode(
                try Self.number(value[Layout.word0]), value.array(Layout.inodeOffset..<value.byteCount))
        case 7:
            self = .pad
        case 8:
            try require(8, orMore: true)
            self = .tail(TransactionID(value[Layout.word0]), checksum: value[Layout.word1])
        case 9:
            try require(8, orMore: true)
            self = .head(features: value[Layout.word0], TransactionID(value[Layout.word1]))
        default:
            throw Self.corrupt("unknown tag \(tag)")
        }
    }

    private static func corrupt(_ what: String) -> Ext4Error { .corrupt("fast-commit record", where: what) }

    private static func number(_ raw: UInt32) throws(Ext4Error) -> InodeNumber {
        guard raw > 0 else { throw corrupt("inode 0") }
        return InodeNumber(raw)
    }

    private static func extent(_ value: RawSpan) throws(Ext4Error) -> Extent {
        let raw = UInt32(value[Layout.extentCount])
        let isUnwritten = raw > Extent.maximumWritten
        let start = UInt64(value[Layout.extentStartLow]) | UInt64(value[Layout.extentStartHigh]) << 32
        let extent = Extent(
            first: FileBlock(value[Layout.word1]), count: isUnwritten ? raw - Extent.maximumWritten : raw,
            start: FSBlock(start), isUnwritten: isUnwritten)
        guard extent.count > 0, extent.end <= 1 << 32, start > 0 else {
            throw corrupt("extent of \(extent.count) blocks at \(start)")
        }
        return extent
    }

    private static func name(_ value: RawSpan) throws(Ext4Error) -> Name {
        let bytes = value.array(Layout.nameOffset..<value.byteCount)
        let isUsable =
            bytes.count <= 255 && !bytes.contains(0) && !bytes.contains(UInt8(ascii: "/")) && bytes != [0x2E]
            && bytes != [0x2E, 0x2E]
        guard isUsable else { throw corrupt("a name that no file can have") }
        return Name(parent: try number(value[Layout.word0]), inode: try number(value[Layout.word1]), bytes: bytes)
    }
}
