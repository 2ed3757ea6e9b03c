/// `s_feature_compat` of the journal.
package struct JournalCompatibleFeatures: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Checksum v1: a CRC-32 of the whole transaction in its commit block.
    package static var checksum: Self { Self(rawValue: 0x1) }
}

/// `s_feature_incompat` of the journal.
package struct JournalIncompatibleFeatures: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static var revoke: Self { Self(rawValue: 0x1) }
    package static var wide: Self { Self(rawValue: 0x2) }
    package static var asyncCommit: Self { Self(rawValue: 0x4) }
    package static var checksumV2: Self { Self(rawValue: 0x8) }
    package static var checksumV3: Self { Self(rawValue: 0x10) }
    package static var fastCommit: Self { Self(rawValue: 0x20) }
    package static var known: Self { [.revoke, .wide, .asyncCommit, .checksumV2, .checksumV3, .fastCommit] }

    /// The names that debugfs prints for them; unknown bits as numbers.
    package var names: [String] {
        let table: [(Self, String)] = [
            (.revoke, "journal_incompat_revoke"), (.wide, "journal_64bit"),
            (.asyncCommit, "journal_async_commit"), (.checksumV2, "journal_checksum_v2"),
            (.checksumV3, "journal_checksum_v3"), (.fastCommit, "journal_fast_commit"),
        ]
        var names = table.filter { contains($0.0) }.map { $0.1 }
        for bit in 0..<32 where subtracting(.known).rawValue >> UInt32(bit) & 1 == 1 {
            names.append("journal_incompat_bit_\(bit)")
        }
        return names
    }
}

/// `journal_superblock_t`: block 0 of the log, 1024 bytes, big-endian.
///
/// Decoding checks the magic, the version and the checksum; `LogGeometry` checks the numbers against the log's real
/// size. All that ever changes after mkfs lies in the first 512 bytes, so a write torn at a sector leaves the old or
/// the new.
package struct JournalSuperBlock: Equatable, Sendable {
    package static let byteCount = 1024
    /// Version 1 has no field from `s_feature_compat` on.
    package var version: Int
    package let blockByteCount: UInt32
    /// Blocks of the log, this one included.
    package let blockCount: UInt32
    /// The first log block that transactions may use.
    package let first: UInt32
    /// The id of the first transaction that the log may hold.
    package var sequence: TransactionID
    /// The log block where it begins; 0 when the log is empty.
    package var start: UInt32
    /// What aborted the journal, as a negative errno; 0 when nothing did.
    package var errorNumber: Int32
    package var compatible: JournalCompatibleFeatures
    package var incompatible: JournalIncompatibleFeatures
    package let readOnlyCompatible: UInt32
    package let uuid: [UInt8]
    package let userCount: UInt32
    /// 0 means the default, `LogGeometry.defaultFastCommitBlockCount`.
    package let fastCommitBlockCount: UInt32
    /// `s_head`: the log block where the last writer of an empty log stopped, 0 when nobody recorded it. The next one
    /// may go on there, so that the ring wears evenly and keeps its past longer. It means nothing in a log in use.
    package var head: UInt32
    /// The UUID of the first file system that uses this log (external journals).
    package let firstUser: [UInt8]

    private enum Layout {
        static var blockByteCount: BE<UInt32> { BE(0xC) }
        static var blockCount: BE<UInt32> { BE(0x10) }
        static var first: BE<UInt32> { BE(0x14) }
        static var sequence: BE<UInt32> { BE(0x18) }
        static var start: BE<UInt32> { BE(0x1C) }
        static var errorNumber: BE<Int32> { BE(0x20) }
        static var compatible: BE<UInt32> { BE(0x24) }
        static var incompatible: BE<UInt32> { BE(0x28) }
        static var readOnlyCompatible: BE<UInt32> { BE(0x2C) }
        static var uuid: Range<Int> { 0x30..<0x40 }
        static var userCount: BE<UInt32> { BE(0x40) }
        static var checksumType: BE<UInt8> { BE(0x50) }
        static var fastCommitBlockCount: BE<UInt32> { BE(0x54) }
        static var head: BE<UInt32> { BE(0x58) }
        static var checksum: BE<UInt32> { BE(0xFC) }
        static var users: Range<Int> { 0x100..<0x110 }
        /// `JBD2_CRC32C_CHKSUM`.
        static var crc32c: UInt8 { 4 }
    }

    package init(decoding bytes: RawSpan) throws(Ext4Error) {
        guard bytes.byteCount >= Self.byteCount, let header = JournalHeader(decoding: bytes) else {
            throw Self.corrupt("no jbd2 magic")
        }
        switch header.type {
        case .superBlockV1: version = 1
        case .superBlockV2: version = 2
        default: throw Self.corrupt("block type \(header.type.rawValue)")
        }
        let hasFeatures = version == 2
        blockByteCount = bytes[Layout.blockByteCount]
        blockCount = bytes[Layout.blockCount]
        first = bytes[Layout.first]
        sequence = TransactionID(bytes[Layout.sequence])
        start = bytes[Layout.start]
        errorNumber = bytes[Layout.errorNumber]
        compatible = JournalCompatibleFeatures(rawValue: hasFeatures ? bytes[Layout.compatible] : 0)
        incompatible = JournalIncompatibleFeatures(rawValue: hasFeatures ? bytes[Layout.incompatible] : 0)
        readOnlyCompatible = hasFeatures ? bytes[Layout.readOnlyCompatible] : 0
        uuid = hasFeatures ? bytes.array(Layout.uuid) : [UInt8](repeating: 0, count: 16)
        userCount = hasFeatures ? bytes[Layout.userCount] : 1
        fastCommitBlockCount = hasFeatures ? bytes[Layout.fastCommitBlockCount] : 0
        head = hasFeatures ? bytes[Layout.head] : 0
        firstUser = hasFeatures ? bytes.array(Layout.users) : [UInt8](repeating: 0, count: 16)
        try checkFeatures(bytes)
    }

    private func checkFeatures(_ bytes: RawSpan) throws(Ext4Error) {
        let unknown = incompatible.subtracting(.known)
        guard unknown.isEmpty else {
            throw .unsupported(features: unknown.names, hint: "the journal was written by a newer system")
        }
        let kinds = [incompatible.contains(.checksumV2), incompatible.contains(.checksumV3)]
        guard kinds.count(where: { $0 }) + (compatible.contains(.checksum) ? 1 : 0) <= 1 else {
            throw Self.corrupt("more than one kind of checksum")
        }
        guard hasOwnChecksum else { return }
        guard bytes[Layout.checksumType] == Layout.crc32c else {
            throw Self.corrupt("checksum type \(bytes[Layout.checksumType])")
        }
        guard Self.checksum(of: bytes) == bytes[Layout.checksum] else { throw Self.corrupt("checksum") }
    }

    private var hasOwnChecksum: Bool {
        !incompatible.isDisjoint(with: [.checksumV2, .checksumV3])
    }

    /// Puts what may change (version, features, sequence, start, head, errno) and the checksum into `bytes`, the super
    /// block as it stood on the disk; everything else keeps its value.
    package func encode(into bytes: inout MutableRawSpan) {
        let wasVersion1 = JournalHeader(decoding: bytes.bytes)?.type == .superBlockV1
        let type: JournalBlockType = version == 2 ? .superBlockV2 : .superBlockV1
        JournalHeader(type: type, transaction: TransactionID(0)).encode(into: &bytes)
        bytes[Layout.sequence] = sequence.rawValue
        bytes[Layout.start] = start
        bytes[Layout.errorNumber] = errorNumber
        guard version == 2 else { return }
        // Version 1 says nothing of the bytes behind its last field.
        if wasVersion1 { bytes.fill(Layout.compatible.offset..<Self.byteCount, with: 0) }
        bytes[Layout.compatible] = compatible.rawValue
        bytes[Layout.incompatible] = incompatible.rawValue
        // What version 1 had no place for, and what checksums start from.
        bytes.copy(uuid, at: Layout.uuid.lowerBound)
        bytes[Layout.userCount] = userCount
        bytes[Layout.head] = head
        guard hasOwnChecksum else { return }
        bytes[Layout.checksumType] = Layout.crc32c
        bytes[Layout.checksum] = Self.checksum(of: bytes.bytes)
    }

    /// CRC-32C of the 1024 bytes with `s_checksum` taken as zero.
    private static func checksum(of bytes: RawSpan) -> UInt32 {
        var crc = CRC32C()
        crc.update(bytes.extracting(0..<0xFC))
        crc.update(bigEndian: UInt32(0))
        crc.update(bytes.extracting(0x100..<byteCount))
        return crc.value
    }

    private static func corrupt(_ place: String) -> Ext4Error { .corrupt("journal super block", where: place) }

    /// The same super block with what a writer of today needs: version 2, revokes, wide block numbers where the file
    /// system has them, checksums v3 where its metadata has checksums. Only for an empty log: what it holds is decoded
    /// by these words.
    package func upgraded(wide: Bool, checksums: Bool) -> Self {
        var new = self
        new.version = 2
        new.incompatible.insert(.revoke)
        if wide { new.incompatible.insert(.wide) }
        if checksums && !hasOwnChecksum {
            new.incompatible.insert(.checksumV3)
            new.compatible.remove(.checksum)
        }
        return new
    }
}
