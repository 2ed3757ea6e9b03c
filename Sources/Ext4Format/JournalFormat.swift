/// How the blocks of one log are laid out and checked, as its feature words say: the single place that knows the five
/// tag layouts and the four kinds of checksum.
package struct JournalFormat: Equatable, Sendable {
    package enum ChecksumKind: Equatable, Sendable {
        case none
        /// CRC-32 of all descriptors and blocks of a transaction, in its commit block.
        case v1
        /// CRC-32C: 16 bits in the tag, and one for each descriptor, revoke and commit block.
        case v2
        /// As v2 with 32 bits in the tag.
        case v3
    }
    package let blockByteCount: Int
    package let checksums: ChecksumKind
    package let isWide: Bool
    package let isAsync: Bool
    package let uuid: [UInt8]
    /// CRC-32C of the UUID: where every v2 and v3 checksum starts.
    private let seed: UInt32

    package init(_ superBlock: JournalSuperBlock) {
        blockByteCount = Int(superBlock.blockByteCount)
        isWide = superBlock.incompatible.contains(.wide)
        isAsync = superBlock.incompatible.contains(.asyncCommit)
        uuid = superBlock.uuid
        checksums =
            if superBlock.incompatible.contains(.checksumV3) {
                .v3
            } else if superBlock.incompatible.contains(.checksumV2) {
                .v2
            } else if superBlock.compatible.contains(.checksum) {
                .v1
            } else {
                .none
            }
        var crc = CRC32C()
        crc.update(superBlock.uuid)
        seed = crc.value
    }

    private enum Layout {
        static var chksumType: BE<UInt8> { BE(0xC) }
        static var chksumSize: BE<UInt8> { BE(0xD) }
        static var chksum: BE<UInt32> { BE(0x10) }
        static var commitSeconds: BE<UInt64> { BE(0x30) }
        static var commitNanoseconds: BE<UInt32> { BE(0x38) }
        static var revokeByteCount: BE<UInt32> { BE(0xC) }
        /// `JBD2_CRC32_CHKSUM`, and its size in bytes.
        static var crc32: UInt8 { 1 }
        static var crc32ByteCount: UInt8 { 4 }
    }

    package var hasBlockChecksums: Bool { checksums == .v2 || checksums == .v3 }
    private var tailByteCount: Int { hasBlockChecksums ? 4 : 0 }

    // MARK: Tags

    /// Bytes of one tag without the UUID that follows the first of a descriptor.
    package var tagByteCount: Int {
        if checksums == .v3 { return 16 }
        return 8 + (isWide ? 4 : 0) + (checksums == .v2 ? 2 : 0)
    }
    private static var uuidByteCount: Int { 16 }
    /// How many tags fit one descriptor block.
    package var tagsPerDescriptor: Int {
        (blockByteCount - JournalHeader.byteCount - tailByteCount - Self.uuidByteCount) / tagByteCount
    }

    /// Whether home block numbers past 2^32 can be logged.
    package var homeLimit: UInt64 { isWide ? UInt64(UInt32.max) << 16 : UInt64(UInt32.max) }

    /// Hands out the tags of a descriptor block in order. Ends at the last tag or where the block ends.
    package func forEachTag(
        in block: RawSpan, _ body: (JournalTag) throws(Ext4Error) -> Void
    ) throws(Ext4Error) {
        var offset = JournalHeader.byteCount
        let limit = min(block.byteCount, blockByteCount) - tailByteCount
        while offset + tagByteCount <= limit {
            let tag = JournalTag(decoding: block.extracting(offset..<offset + tagByteCount), format: self)
            try body(tag)
            if tag.flags.contains(.last) { return }
            offset += tagByteCount + (tag.flags.contains(.sameUUID) ? 0 : Self.uuidByteCount)
        }
    }

    /// Fills `block`, of zeros, with a descriptor for `tags`: 1 ... `tagsPerDescriptor` of them. Their `.sameUUID` and
    /// `.last` flags are set here.
    package func encodeDescriptor(
        _ tags: [JournalTag], of transaction: TransactionID, into block: inout MutableRawSpan
    ) {
        precondition(!tags.isEmpty && tags.count <= tagsPerDescriptor)
        JournalHeader(type: .descriptor, transaction: transaction).encode(into: &block)
        var offset = JournalHeader.byteCount
        for (index, tag) in tags.enumerated() {
            var tag = tag
            if index > 0 { tag.flags.insert(.sameUUID) }
            if index == tags.count - 1 { tag.flags.insert(.last) }
            tag.encode(into: &block, at: offset, format: self)
            offset += tagByteCount
            if index == 0 {
                block.copy(uuid, at: offset)
                offset += Self.uuidByteCount
            }
        }
        setTail(of: &block)
    }

    /// The checksum of one logged block as it lies in the log (escaped), for its tag: 0 where tags have none.
    package func tagChecksum(_ bytes: RawSpan, in transaction: TransactionID) -> UInt32 {
        guard hasBlockChecksums else { return 0 }
        var crc = CRC32C(seed: seed)
        crc.update(bigEndian: transaction.rawValue)
        crc.update(bytes)
        return checksums == .v2 ? crc.value & 0xFFFF : crc.value
    }

    // MARK: Descriptor and revoke blocks

    private func tail(of block: RawSpan) -> UInt32 {
        var crc = CRC32C(seed: seed)
        crc.update(block.extracting(0..<blockByteCount - 4))
        crc.update(bigEndian: UInt32(0))
        return crc.value
    }
    private func setTail(of block: inout MutableRawSpan) {
        guard hasBlockChecksums else { return }
        block[BE<UInt32>(blockByteCount - 4)] = tail(of: block.bytes)
    }
    /// Whether a descriptor or revoke block has the checksum that it must have. `block` is a whole block.
    package func isTailValid(_ block: RawSpan) -> Bool {
        !hasBlockChecksums || block[BE<UInt32>(blockByteCount - 4)] == tail(of: block)
    }

    private static var revokeHeaderByteCount: Int { 16 }
    private var revokeByteCount: Int { isWide ? 8 : 4 }
    /// How many records fit one revoke block.
    package var revokesPerBlock: Int {
        (blockByteCount - Self.revokeHeaderByteCount - tailByteCount) / revokeByteCount
    }

    /// Fills `block`, of zeros, with at most `revokesPerBlock` revoke records.
    package func encodeRevoke(
        _ homes: ArraySlice<UInt64>, of transaction: TransactionID, into block: inout MutableRawSpan
    ) {
        precondition(homes.count <= revokesPerBlock)
        JournalHeader(type: .revoke, transaction: transaction).encode(into: &block)
        var offset = Self.revokeHeaderByteCount
        block[Layout.revokeByteCount] = UInt32(offset + homes.count * revokeByteCount)
        for home in homes {
            if isWide {
                block[BE<UInt64>(offset)] = home
            } else {
                block[BE<UInt32>(offset)] = UInt32(home)
            }
            offset += revokeByteCount
        }
        setTail(of: &block)
    }

    /// How many records a revoke block holds; nil when its byte count does not fit the block.
    package func revokeCount(of block: RawSpan) -> Int? {
        let used = Int(block[Layout.revokeByteCount])
        guard used >= Self.revokeHeaderByteCount, used <= blockByteCount - tailByteCount else { return nil }
        return (used - Self.revokeHeaderByteCount) / revokeByteCount
    }

    /// Hands out the home blocks that a revoke block names. Nothing when `revokeCount` is nil.
    package func forEachRevoke(in block: RawSpan, _ body: (FSBlock) -> Void) {
        for index in 0..<(revokeCount(of: block) ?? 0) {
            let offset = Self.revokeHeaderByteCount + index * revokeByteCount
            body(FSBlock(isWide ? block[BE<UInt64>(offset)] : UInt64(block[BE<UInt32>(offset)])))
        }
    }

    // MARK: Commit blocks

    /// Fills `block`, of zeros. `payload` is the v1 checksum of the transaction and ignored by the other kinds.
    package func encodeCommit(
        of transaction: TransactionID, at time: CommitTime, payload: UInt32, into block: inout MutableRawSpan
    ) {
        JournalHeader(type: .commit, transaction: transaction).encode(into: &block)
        block[Layout.commitSeconds] = time.seconds
        block[Layout.commitNanoseconds] = time.nanoseconds
        if checksums == .v1 {
            block[Layout.chksumType] = Layout.crc32
            block[Layout.chksumSize] = Layout.crc32ByteCount
            block[Layout.chksum] = payload
        } else if hasBlockChecksums {
            block[Layout.chksum] = commitChecksum(block.bytes)
        }
    }

    /// debugfs stores the seconds in the upper half of their field: no real time looks like that.
    package func commitTime(_ block: RawSpan) -> CommitTime {
        let raw = block[Layout.commitSeconds]
        let seconds = raw & 0xFFFF_FFFF == 0 ? raw >> 32 : raw
        return CommitTime(seconds: seconds, nanoseconds: block[Layout.commitNanoseconds])
    }

    private func commitChecksum(_ block: RawSpan) -> UInt32 {
        var crc = CRC32C(seed: seed)
        crc.update(block.extracting(0..<0x10))
        crc.update(bigEndian: UInt32(0))
        crc.update(block.extracting(0x14..<blockByteCount))
        return crc.value
    }

    /// Whether the commit block's own checksum (v2, v3) holds; true for the kinds that have none.
    package func isCommitValid(_ block: RawSpan) -> Bool {
        !hasBlockChecksums || block[Layout.chksum] == commitChecksum(block)
    }

    /// Whether a v1 commit block vouches for `payload`. One without any checksum, as a kernel without the option
    /// writes it, vouches for everything; `seenBefore` says that an earlier transaction of the log had one.
    package func isPayloadValid(_ block: RawSpan, payload: UInt32, seenBefore: Bool) -> Bool {
        guard checksums == .v1 else { return true }
        let type = block[Layout.chksumType], size = block[Layout.chksumSize], sum = block[Layout.chksum]
        if type == 0 && size == 0 && sum == 0 { return !seenBefore }
        return type == Layout.crc32 && size == Layout.crc32ByteCount && sum == payload
    }
}
