/// The first twelve bytes of every block that jbd2 itself writes (`journal_header_t`), big-endian as all of jbd2.
package struct JournalHeader: Hashable, Sendable {
    package static let byteCount = 12
    package static let magic: UInt32 = 0xC03B_3998
    package let type: JournalBlockType
    package let transaction: TransactionID

    private enum Layout {
        static var magic: BE<UInt32> { BE(0x0) }
        static var type: BE<UInt32> { BE(0x4) }
        static var sequence: BE<UInt32> { BE(0x8) }
    }

    package init(type: JournalBlockType, transaction: TransactionID) {
        self.type = type
        self.transaction = transaction
    }

    /// Nil when the bytes are too few or do not begin with the magic: then this is no block of jbd2's own.
    package init?(decoding bytes: RawSpan) {
        guard bytes.byteCount >= Self.byteCount, bytes[Layout.magic] == Self.magic else { return nil }
        type = JournalBlockType(rawValue: bytes[Layout.type])
        transaction = TransactionID(bytes[Layout.sequence])
    }

    package func encode(into bytes: inout MutableRawSpan) {
        bytes[Layout.magic] = Self.magic
        bytes[Layout.type] = type.rawValue
        bytes[Layout.sequence] = transaction.rawValue
    }

    /// Whether a logged block must be escaped: replay would take it for one of jbd2's own.
    package static func isMagic(_ bytes: RawSpan) -> Bool { bytes[Layout.magic] == magic }

    /// Zeroes (escaping) or restores (replay) the first four bytes of a logged block.
    package static func setMagic(_ value: UInt32, in bytes: inout MutableRawSpan) { bytes[Layout.magic] = value }
}

/// `h_blocktype`. Unknown values stay representable: they end a log.
package struct JournalBlockType: Hashable, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static let descriptor = Self(rawValue: 1)
    package static let commit = Self(rawValue: 2)
    package static let superBlockV1 = Self(rawValue: 3)
    package static let superBlockV2 = Self(rawValue: 4)
    package static let revoke = Self(rawValue: 5)
}

/// `h_commit_sec` and `h_commit_nsec`: when a transaction was committed, since 1970.
package struct CommitTime: Comparable, Hashable, Sendable {
    package var seconds: UInt64
    package var nanoseconds: UInt32
    package init(seconds: UInt64, nanoseconds: UInt32) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }
    package static func < (a: Self, b: Self) -> Bool { (a.seconds, a.nanoseconds) < (b.seconds, b.nanoseconds) }
}
