internal import Ext4Format

// The dm-log-writes log, version 1 (Linux drivers/md/dm-log-writes.c): a super block of one sector, then for each entry
// one header sector and its payload, read in sequence. All integers are little-endian; sectors are those of the logged
// device, 512 or 4096 bytes. There are no checksums.

/// What an entry says about itself. Bits that are not named here are ignored, as other readers do.
package struct WriteLogFlags: OptionSet, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
    package static var flush: Self { Self(rawValue: 1) }
    /// Written through to the medium (FUA).
    package static var throughToMedia: Self { Self(rawValue: 2) }
    package static var discard: Self { Self(rawValue: 4) }
    package static var mark: Self { Self(rawValue: 8) }
    package static var metadata: Self { Self(rawValue: 16) }
}

enum WriteLogFormat {
    static let magic: UInt64 = 0x006a_7366_7773_6872
    static let version: UInt64 = 1
    /// Every log ends with a mark of this label.
    static let endLabel = "dm-log-writes-end"
    static let sectorByteCounts = [512, 1024, 2048, 4096]

    enum Super {
        static var magic: LE<UInt64> { LE(0) }
        static var version: LE<UInt64> { LE(8) }
        static var entryCount: LE<UInt64> { LE(16) }
        /// The four bytes behind it are padding that the kernel does not clear.
        static var sectorByteCount: LE<UInt32> { LE(24) }
    }

    enum Header {
        static var sector: LE<UInt64> { LE(0) }
        static var sectorCount: LE<UInt64> { LE(8) }
        static var flags: LE<UInt64> { LE(16) }
        /// Of a mark: the bytes of its label, which starts at `label`. Of anything else: 0.
        static var labelByteCount: LE<UInt64> { LE(24) }
        static let label = 32
    }

    /// The longest label: at least one zero follows it in the header sector.
    static func labelLimit(_ sectorByteCount: Int) -> Int { sectorByteCount - Header.label - 1 }
}
