internal import Ext4Format

/// `struct undo_header`, the first 512 bytes of an undo file of e2fsprogs: what blocks of a volume held before they
/// were changed. All of it little-endian.
///
/// The file is cut into blocks of `blockByteCount`. Block 0 is the header. `superBlockPosition` has a copy of the super
/// block as the change left it, by which e2undo knows the volume again; its magic is inverted, so that nobody takes the
/// file for a volume. From `keyPosition` on, a block with keys and the data of these keys take turns. Every checksum is
/// CRC-32C without the final inversion.
struct UndoHeader: Equatable {
    static let byteCount = 512
    /// Within these bounds every size is a power of two (`E2UNDO_MIN_BLOCK_SIZE`, `E2UNDO_MAX_BLOCK_SIZE`).
    static let blockByteCounts = 1024...1 << 20

    let keyCount: UInt64
    /// In blocks of the file.
    let superBlockPosition: UInt64
    let keyPosition: UInt64
    let blockByteCount: Int
    /// The unit of the keys' block numbers.
    let volumeBlockByteCount: Int
    let superBlockChecksum: UInt32
    /// The file is whole: nothing more was to be saved.
    let isFinished: Bool
    /// The byte of the image where the volume starts.
    let offset: UInt64

    private enum Layout {
        static var magic: Range<Int> { 0x0..<0x8 }
        static var keyCount: LE<UInt64> { LE(0x8) }
        static var superBlockPosition: LE<UInt64> { LE(0x10) }
        static var keyPosition: LE<UInt64> { LE(0x18) }
        static var blockByteCount: LE<UInt32> { LE(0x20) }
        static var volumeBlockByteCount: LE<UInt32> { LE(0x24) }
        static var superBlockChecksum: LE<UInt32> { LE(0x28) }
        static var state: LE<UInt32> { LE(0x2C) }
        static var compatible: LE<UInt32> { LE(0x30) }
        static var incompatible: LE<UInt32> { LE(0x34) }
        static var readOnlyCompatible: LE<UInt32> { LE(0x38) }
        static var offset: LE<UInt64> { LE(0x40) }
        static var checksum: LE<UInt32> { LE(0x1FC) }
        /// `E2UNDO_STATE_FINISHED`
        static var finished: UInt32 { 1 }
        /// `E2UNDO_FEATURE_COMPAT_FS_OFFSET`: the offset counts.
        static var hasOffset: UInt32 { 1 }
    }
    private static let magic = Array("E2UNDO02".utf8)

    init(
        keyCount: UInt64, superBlockPosition: UInt64, keyPosition: UInt64, blockByteCount: Int,
        volumeBlockByteCount: Int, superBlockChecksum: UInt32, isFinished: Bool, offset: UInt64
    ) {
        self.keyCount = keyCount
        self.superBlockPosition = superBlockPosition
        self.keyPosition = keyPosition
        self.blockByteCount = blockByteCount
        self.volumeBlockByteCount = volumeBlockByteCount
        self.superBlockChecksum = superBlockChecksum
        self.isFinished = isFinished
        self.offset = offset
    }

    /// `bytes` are 512 or more. `.refused` when this is no undo file, `.corrupt` when it is a damaged one.
    init(decoding bytes: RawSpan) throws(Ext4Error) {
        guard bytes.byteCount >= Self.byteCount, bytes.array(Layout.magic) == Self.magic else {
            throw .refused("not an undo file (no E2UNDO02)")
        }
        guard bytes[Layout.checksum] == CRC32C.of(bytes.extracting(0..<Layout.checksum.offset)) else {
            throw .corrupt("undo file", where: "checksum of the header")
        }
        for field in [Layout.incompatible, Layout.readOnlyCompatible] where bytes[field] != 0 {
            throw .unsupported(
                features: ["undo file 0x\(String(bytes[field], radix: 16))"], hint: "it was made by a newer system")
        }
        keyCount = bytes[Layout.keyCount]
        superBlockPosition = bytes[Layout.superBlockPosition]
        keyPosition = bytes[Layout.keyPosition]
        blockByteCount = Int(bytes[Layout.blockByteCount])
        volumeBlockByteCount = Int(bytes[Layout.volumeBlockByteCount])
        superBlockChecksum = bytes[Layout.superBlockChecksum]
        isFinished = bytes[Layout.state] & Layout.finished != 0
        offset = bytes[Layout.compatible] & Layout.hasOffset != 0 ? bytes[Layout.offset] : 0
        for size in [blockByteCount, volumeBlockByteCount]
        where !Self.blockByteCounts.contains(size) || size.nonzeroBitCount != 1 {
            throw .corrupt("undo file", where: "block size \(size)")
        }
    }

    /// `bytes` are zeros, 512 or more.
    func encode(into bytes: inout MutableRawSpan) {
        bytes.copy(Self.magic, at: Layout.magic.lowerBound)
        bytes[Layout.keyCount] = keyCount
        bytes[Layout.superBlockPosition] = superBlockPosition
        bytes[Layout.keyPosition] = keyPosition
        bytes[Layout.blockByteCount] = UInt32(blockByteCount)
        bytes[Layout.volumeBlockByteCount] = UInt32(volumeBlockByteCount)
        bytes[Layout.superBlockChecksum] = superBlockChecksum
        bytes[Layout.state] = isFinished ? Layout.finished : 0
        bytes[Layout.compatible] = offset != 0 ? Layout.hasOffset : 0
        bytes[Layout.offset] = offset
        let checksum = CRC32C.of(bytes.bytes.extracting(0..<Layout.checksum.offset))
        bytes[Layout.checksum] = checksum
    }
}

/// `struct undo_key`: a run of blocks of the volume whose contents follow in the file.
struct UndoKey: Equatable {
    /// In units of the header's `volumeBlockByteCount`.
    let block: UInt64
    let checksum: UInt32
    let byteCount: Int

    static let byteCount = 16
    /// Of one key, in blocks of the file (`E2UNDO_MAX_EXTENT_BLOCKS`).
    static let blockLimit = 512
}

/// `struct undo_key_block`: 16 bytes of its own, then keys to the end of the block.
enum UndoKeyBlock {
    private enum Layout {
        static var magic: LE<UInt32> { LE(0x0) }
        static var checksum: LE<UInt32> { LE(0x4) }
        static func block(_ index: Int) -> LE<UInt64> { LE(16 + index * UndoKey.byteCount) }
        static func keyChecksum(_ index: Int) -> LE<UInt32> { LE(24 + index * UndoKey.byteCount) }
        static func byteCount(_ index: Int) -> LE<UInt32> { LE(28 + index * UndoKey.byteCount) }
    }
    private static let magic: UInt32 = 0xCADE_CADE

    /// How many keys a block of the file holds.
    static func capacity(_ blockByteCount: Int) -> Int { blockByteCount / UndoKey.byteCount - 1 }

    /// `block` is zeros, and the keys fit.
    static func encode(_ keys: [UndoKey], into block: inout MutableRawSpan) {
        precondition(keys.count <= capacity(block.byteCount))
        block[Layout.magic] = magic
        for (index, key) in keys.enumerated() {
            block[Layout.block(index)] = key.block
            block[Layout.keyChecksum(index)] = key.checksum
            block[Layout.byteCount(index)] = UInt32(key.byteCount)
        }
        let checksum = CRC32C.of(block.bytes)
        block[Layout.checksum] = checksum
    }

    /// The first `count` keys of a block that can hold that many. `.corrupt` names `position`.
    static func decode(_ block: RawSpan, count: Int, at position: UInt64) throws(Ext4Error) -> [UndoKey] {
        var crc = CRC32C()
        crc.update(block.extracting(0..<Layout.checksum.offset))
        crc.update(littleEndian: UInt32(0))
        crc.update(block.extracting(Layout.checksum.offset + 4..<block.byteCount))
        guard block[Layout.magic] == magic, block[Layout.checksum] == crc.value else {
            throw .corrupt("undo file", where: "key block \(position): magic or checksum")
        }
        return (0..<count).map {
            UndoKey(
                block: block[Layout.block($0)], checksum: block[Layout.keyChecksum($0)],
                byteCount: Int(block[Layout.byteCount($0)]))
        }
    }
}

extension SuperBlock {
    /// Turns the magic of a super block into what an undo file has there, and back.
    static func invertMagic(_ bytes: inout MutableRawSpan) { bytes[LE<UInt16>(0x38)] ^= .max }
}
