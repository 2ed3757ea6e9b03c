/// The super block of a journal device: the layout of a file system's, at the same place, with the feature journal_dev.
/// Only a few fields mean anything (kernel doc: ext4, "External Journal").
package struct JournalDevice: Equatable, Sendable {
    package let blockByteCount: Int
    /// Blocks of the device, from its start; the log uses what lies behind both super blocks.
    package let blockCount: UInt32
    /// What `s_journal_uuid` of a file system names.
    package let uuid: [UInt8]

    /// The block with the log's own super block: the next one.
    package var logSuperBlock: UInt32 { UInt32(SuperBlock.byteOffset / blockByteCount + 1) }

    /// `bytes` are the 1,024 bytes at byte 1,024 of the device. `.refused` when it is no journal device at all.
    package init(decoding bytes: RawSpan) throws(Ext4Error) {
        func corrupt(_ place: String) -> Ext4Error { .corrupt("super block of the journal device", where: place) }
        typealias Layout = SuperBlock.Layout
        guard bytes.byteCount >= SuperBlock.byteCount, bytes[Layout.magic] == SuperBlock.magic else {
            throw .refused("not an ext4 journal device (no super block magic)")
        }
        let features = Features(
            compatible: .init(rawValue: bytes[Layout.compatible]),
            incompatible: .init(rawValue: bytes[Layout.incompatible]),
            readOnlyCompatible: .init(rawValue: bytes[Layout.readOnlyCompatible]))
        guard features.incompatible.contains(.journalDevice) else {
            throw .refused("not an ext4 journal device, but an ext4 file system")
        }
        if features.readOnlyCompatible.contains(.metadataChecksums) {
            guard SuperBlock.checksum(of: bytes) == bytes[Layout.checksum] else { throw corrupt("checksum") }
        }
        let logBlockSize = bytes[Layout.logBlockSize]
        guard logBlockSize <= 6 else { throw corrupt("block size 2^\(10 + UInt64(logBlockSize))") }
        blockByteCount = 1024 << Int(logBlockSize)
        let isWide = features.incompatible.contains(.is64Bit)
        guard !isWide || bytes[Layout.blockCountHigh] == 0 else { throw corrupt("more than 2^32 blocks") }
        blockCount = bytes[Layout.blockCountLow]
        uuid = bytes.array(Layout.uuid)
    }
}
