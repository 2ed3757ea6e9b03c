/// An attribute block, `i_file_acl`: `struct ext4_xattr_header`, then entries sorted by name. Value offsets count from
/// the start of the block. Inodes with equal attributes may share one; a shared block is replaced, never changed.
package enum ExtendedAttributeBlock {
    package static let magic: UInt32 = 0xEA02_0000
    /// More inodes than this never share a block (`EXT4_XATTR_REFCOUNT_MAX`).
    package static let maximumReferenceCount: UInt32 = 1024
    static let headerByteCount = 32

    private enum Layout {
        static var magic: LE<UInt32> { LE(0x0) }
        static var referenceCount: LE<UInt32> { LE(0x4) }
        static var blockCount: LE<UInt32> { LE(0x8) }
        static var hash: LE<UInt32> { LE(0xC) }
        static var checksum: LE<UInt32> { LE(0x10) }
    }

    /// `h_refcount`, with the magic and `h_blocks` checked: cheap, for every use of the block. 1...1024.
    package static func referenceCount(_ block: RawSpan, at number: FSBlock) throws(Ext4Error) -> UInt32 {
        guard block.byteCount >= headerByteCount, block[Layout.magic] == magic, block[Layout.blockCount] == 1 else {
            throw ExtendedAttributeTable.bad("no attribute block header", place(number))
        }
        let count = block[Layout.referenceCount]
        guard (1...maximumReferenceCount).contains(count) else {
            throw ExtendedAttributeTable.bad("reference count \(count)", place(number))
        }
        return count
    }

    /// Once per block brought into memory: the header, and the checksum if the volume has them.
    package static func verify(
        _ block: RawSpan, at number: FSBlock, _ superBlock: SuperBlock
    ) throws(Ext4Error) {
        _ = try referenceCount(block, at: number)
        guard !superBlock.hasMetadataChecksums || block[Layout.checksum] == checksum(block, number, superBlock) else {
            throw ExtendedAttributeTable.bad("checksum", place(number))
        }
    }

    package static func decode(
        _ block: RawSpan, at number: FSBlock
    ) throws(Ext4Error) -> [ExtendedAttributeTable.Entry] {
        _ = try referenceCount(block, at: number)
        return try ExtendedAttributeTable.decode(block, from: headerByteCount, base: 0, place: place(number))
    }

    package static func fits(_ attributes: [ExtendedAttribute], _ byteCount: Int) -> Bool {
        headerByteCount + ExtendedAttributeTable.byteCount(of: attributes) <= byteCount
    }

    /// A whole block of `byteCount` bytes for one inode; its checksum is still missing, since that depends on where it
    /// will lie. There is at least one attribute, and they fit.
    package static func encode(_ attributes: [ExtendedAttribute], byteCount: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var span = bytes.mutableSpan
        var block = unsafe span.mutableBytes
        block[Layout.magic] = magic
        block[Layout.referenceCount] = 1
        block[Layout.blockCount] = 1
        let sorted = attributes.sorted { ExtendedAttributeName.precedes($0.name, $1.name) }
        let hashes = ExtendedAttributeTable.encode(
            sorted, into: &block, from: headerByteCount, base: 0, withHashes: true)
        block[Layout.hash] = hash(of: hashes)
        return bytes
    }

    /// `h_hash`, by which the kernel finds blocks to share. An entry hash of 0 makes the block one that is not shared.
    private static func hash(of entries: [UInt32]) -> UInt32 {
        entries.contains(0) ? 0 : entries.reduce(0) { $0 << 16 ^ $0 >> 16 ^ $1 }
    }

    /// Stores `h_refcount`; `updateChecksum` is still to be called.
    package static func setReferenceCount(_ count: UInt32, in block: inout MutableRawSpan) {
        precondition((1...maximumReferenceCount).contains(count))
        block[Layout.referenceCount] = count
    }

    /// Call last, after any change. Nothing without metadata_csum.
    package static func updateChecksum(_ block: inout MutableRawSpan, at number: FSBlock, _ superBlock: SuperBlock) {
        guard superBlock.hasMetadataChecksums else { return }
        let value = checksum(block.bytes, number, superBlock)
        block[Layout.checksum] = value
    }

    /// The volume's seed, continued by the block number in 64 bits and the block with `h_checksum` taken as 0.
    private static func checksum(_ block: RawSpan, _ number: FSBlock, _ superBlock: SuperBlock) -> UInt32 {
        var crc = CRC32C(seed: superBlock.checksumSeed)
        crc.update(littleEndian: number.rawValue)
        crc.update(block.extracting(0..<0x10))
        crc.update(littleEndian: UInt32(0))
        crc.update(block.extracting(0x14..<block.byteCount))
        return crc.value
    }

    private static func place(_ number: FSBlock) -> String { "block \(number.rawValue)" }
}
