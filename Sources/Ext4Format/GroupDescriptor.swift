/// `struct ext4_group_desc`: 32 bytes, or `s_desc_size` (64 or more) with 64bit.
package struct GroupDescriptor: Equatable, Sendable {
    package var blockBitmap: FSBlock
    package var inodeBitmap: FSBlock
    package var inodeTable: FSBlock
    /// `bg_free_blocks_count`: clusters with bigalloc.
    package var freeBlockCount: UInt32
    package var freeInodeCount: UInt32
    package var directoryCount: UInt32
    package var flags: Flags
    package var blockBitmapChecksum: UInt32
    package var inodeBitmapChecksum: UInt32
    /// Inodes at the end of the table that were never used: `bg_itable_unused`.
    package var unusedInodeCount: UInt32

    package struct Flags: OptionSet, Sendable {
        package let rawValue: UInt16
        package init(rawValue: UInt16) { self.rawValue = rawValue }
        /// The inode bitmap and table were never written: all inodes are free.
        package static var inodesUninitialized: Self { Self(rawValue: 1) }
        /// The block bitmap was never written: computed from the layout.
        package static var blocksUninitialized: Self { Self(rawValue: 2) }
        package static var inodeTableZeroed: Self { Self(rawValue: 4) }
    }

    private enum Layout {
        static var blockBitmapLow: LE<UInt32> { LE(0x0) }
        static var inodeBitmapLow: LE<UInt32> { LE(0x4) }
        static var inodeTableLow: LE<UInt32> { LE(0x8) }
        static var freeBlocksLow: LE<UInt16> { LE(0xC) }
        static var freeInodesLow: LE<UInt16> { LE(0xE) }
        static var directoriesLow: LE<UInt16> { LE(0x10) }
        static var flags: LE<UInt16> { LE(0x12) }
        static var blockChecksumLow: LE<UInt16> { LE(0x18) }
        static var inodeChecksumLow: LE<UInt16> { LE(0x1A) }
        static var unusedLow: LE<UInt16> { LE(0x1C) }
        static var checksum: LE<UInt16> { LE(0x1E) }
        static var blockBitmapHigh: LE<UInt32> { LE(0x20) }
        static var inodeBitmapHigh: LE<UInt32> { LE(0x24) }
        static var inodeTableHigh: LE<UInt32> { LE(0x28) }
        static var freeBlocksHigh: LE<UInt16> { LE(0x2C) }
        static var freeInodesHigh: LE<UInt16> { LE(0x2E) }
        static var directoriesHigh: LE<UInt16> { LE(0x30) }
        static var unusedHigh: LE<UInt16> { LE(0x32) }
        static var blockChecksumHigh: LE<UInt16> { LE(0x38) }
        static var inodeChecksumHigh: LE<UInt16> { LE(0x3A) }
    }

    /// `bytes` is exactly one descriptor. Says nothing about the checksum or about where the blocks lie.
    package init(decoding bytes: RawSpan) {
        let isWide = bytes.byteCount >= 64
        func wide(_ low: LE<UInt32>, _ high: LE<UInt32>) -> UInt64 {
            UInt64(bytes[low]) | (isWide ? UInt64(bytes[high]) << 32 : 0)
        }
        func wide(_ low: LE<UInt16>, _ high: LE<UInt16>) -> UInt32 {
            UInt32(bytes[low]) | (isWide ? UInt32(bytes[high]) << 16 : 0)
        }
        blockBitmap = FSBlock(wide(Layout.blockBitmapLow, Layout.blockBitmapHigh))
        inodeBitmap = FSBlock(wide(Layout.inodeBitmapLow, Layout.inodeBitmapHigh))
        inodeTable = FSBlock(wide(Layout.inodeTableLow, Layout.inodeTableHigh))
        freeBlockCount = wide(Layout.freeBlocksLow, Layout.freeBlocksHigh)
        freeInodeCount = wide(Layout.freeInodesLow, Layout.freeInodesHigh)
        directoryCount = wide(Layout.directoriesLow, Layout.directoriesHigh)
        flags = Flags(rawValue: bytes[Layout.flags])
        blockBitmapChecksum = wide(Layout.blockChecksumLow, Layout.blockChecksumHigh)
        inodeBitmapChecksum = wide(Layout.inodeChecksumLow, Layout.inodeChecksumHigh)
        unusedInodeCount = wide(Layout.unusedLow, Layout.unusedHigh)
    }

    /// Writes what may change at run time (counts, flags, bitmap checksums) and then the descriptor's own checksum.
    package func encode(into bytes: inout MutableRawSpan, group: GroupNumber, superBlock: SuperBlock) {
        let isWide = bytes.byteCount >= 64
        func put(_ value: UInt32, _ low: LE<UInt16>, _ high: LE<UInt16>) {
            bytes[low] = UInt16(truncatingIfNeeded: value)
            if isWide { bytes[high] = UInt16(truncatingIfNeeded: value >> 16) }
        }
        put(freeBlockCount, Layout.freeBlocksLow, Layout.freeBlocksHigh)
        put(freeInodeCount, Layout.freeInodesLow, Layout.freeInodesHigh)
        put(directoryCount, Layout.directoriesLow, Layout.directoriesHigh)
        put(unusedInodeCount, Layout.unusedLow, Layout.unusedHigh)
        bytes[Layout.flags] = flags.rawValue
        if superBlock.hasMetadataChecksums {
            put(blockBitmapChecksum, Layout.blockChecksumLow, Layout.blockChecksumHigh)
            put(inodeBitmapChecksum, Layout.inodeChecksumLow, Layout.inodeChecksumHigh)
        }
        if superBlock.hasGroupChecksums {
            let value = Self.checksum(of: bytes.bytes, group: group, superBlock: superBlock)
            bytes[Layout.checksum] = value
        }
    }

    package static func isChecksumRight(_ bytes: RawSpan, group: GroupNumber, superBlock: SuperBlock) -> Bool {
        !superBlock.hasGroupChecksums
            || bytes[Layout.checksum] == checksum(of: bytes, group: group, superBlock: superBlock)
    }

    /// `bg_checksum`: crc32c cut to 16 bits with metadata_csum, else crc16 (uninit_bg).
    private static func checksum(of bytes: RawSpan, group: GroupNumber, superBlock: SuperBlock) -> UInt16 {
        let before = bytes.extracting(0..<0x1E), after = bytes.extracting(0x20..<bytes.byteCount)
        if superBlock.hasMetadataChecksums {
            var crc = CRC32C(seed: superBlock.checksumSeed)
            crc.update(littleEndian: group.rawValue)
            crc.update(before)
            crc.update(littleEndian: UInt16(0))
            crc.update(after)
            return UInt16(truncatingIfNeeded: crc.value)
        }
        let uuid = superBlock.uuid
        var crc = unsafe crc16(uuid.span.bytes)
        let number = (0..<4).map { UInt8(truncatingIfNeeded: group.rawValue >> (8 * $0)) }
        crc = unsafe crc16(number.span.bytes, seed: crc)
        crc = crc16(before, seed: crc)
        return crc16(after, seed: crc)
    }

    /// The checksum of a bitmap block as the descriptor stores it: 32 bits, or 16 with 32-byte descriptors.
    package static func bitmapChecksum(of bitmap: RawSpan, bitCount: UInt32, superBlock: SuperBlock) -> UInt32 {
        let crc = CRC32C.of(bitmap.extracting(0..<Int(bitCount) / 8), seed: superBlock.checksumSeed)
        return superBlock.groupDescriptorByteCount >= 64 ? crc : crc & 0xFFFF
    }
}
