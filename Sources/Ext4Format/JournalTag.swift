/// `journal_block_tag_t` and `journal_block_tag3_t`: the home of one logged block, in any of the five layouts.
package struct JournalTag: Equatable, Sendable {
    package var home: FSBlock
    package var flags: Flags
    /// Of the block as logged: 32 bits in v3, the low 16 in v2, 0 otherwise.
    package var checksum: UInt32

    package struct Flags: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        /// The logged copy began with the jbd2 magic, so its first four bytes were zeroed.
        package static var escaped: Self { Self(rawValue: 0x1) }
        /// No UUID follows this tag.
        package static var sameUUID: Self { Self(rawValue: 0x2) }
        package static var last: Self { Self(rawValue: 0x8) }
    }

    private enum Layout {
        static var blockLow: BE<UInt32> { BE(0x0) }
        static var v3Flags: BE<UInt32> { BE(0x4) }
        static var v2Checksum: BE<UInt16> { BE(0x4) }
        static var v2Flags: BE<UInt16> { BE(0x6) }
        static var blockHigh: BE<UInt32> { BE(0x8) }
        static var v3Checksum: BE<UInt32> { BE(0xC) }
    }

    package init(home: FSBlock, flags: Flags, checksum: UInt32) {
        self.home = home
        self.flags = flags
        self.checksum = checksum
    }

    /// `bytes` are exactly `format.tagByteCount` long.
    package init(decoding bytes: RawSpan, format: JournalFormat) {
        let high = format.isWide ? UInt64(bytes[Layout.blockHigh]) << 32 : 0
        home = FSBlock(high | UInt64(bytes[Layout.blockLow]))
        if format.checksums == .v3 {
            flags = Flags(rawValue: bytes[Layout.v3Flags])
            checksum = bytes[Layout.v3Checksum]
        } else {
            flags = Flags(rawValue: UInt32(bytes[Layout.v2Flags]))
            checksum = format.checksums == .v2 ? UInt32(bytes[Layout.v2Checksum]) : 0
        }
    }

    /// `home` is below `format.homeLimit`.
    func encode(into block: inout MutableRawSpan, at offset: Int, format: JournalFormat) {
        var tag = block._mutatingExtracting(offset..<offset + format.tagByteCount)
        tag[Layout.blockLow] = UInt32(truncatingIfNeeded: home.rawValue)
        if format.isWide { tag[Layout.blockHigh] = UInt32(truncatingIfNeeded: home.rawValue >> 32) }
        if format.checksums == .v3 {
            tag[Layout.v3Flags] = flags.rawValue
            tag[Layout.v3Checksum] = checksum
        } else {
            tag[Layout.v2Flags] = UInt16(truncatingIfNeeded: flags.rawValue)
            if format.checksums == .v2 { tag[Layout.v2Checksum] = UInt16(truncatingIfNeeded: checksum) }
        }
    }
}
