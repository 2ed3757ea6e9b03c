/// `struct mmp_struct`: who has a volume with the feature mmp mounted, or had (kernel doc: ext4, "Multiple Mount
/// Protection"). A node that has it writes a new sequence every few seconds.
package struct MountProtection: Equatable, Sendable {
    package let sequence: UInt32
    /// Names of the machine and the device that wrote it last.
    package let node: [UInt8]
    package let device: [UInt8]

    /// `EXT4_MMP_SEQ_CLEAN`: nobody has it.
    package var isClean: Bool { sequence == 0xFF4D_4D50 }
    /// `EXT4_MMP_SEQ_FSCK`: a tool is at work, or was cut short.
    package var isChecked: Bool { sequence == 0xE24D_4D50 }

    private enum Layout {
        static var magic: LE<UInt32> { LE(0x0) }
        static var sequence: LE<UInt32> { LE(0x4) }
        static var node: Range<Int> { 0x10..<0x50 }
        static var device: Range<Int> { 0x50..<0x70 }
        static var checksum: LE<UInt32> { LE(0x3FC) }
    }
    private static let magic: UInt32 = 0x004D_4D50

    /// `bytes` are the block that `s_mmp_block` names.
    package init(decoding bytes: RawSpan, of superBlock: SuperBlock) throws(Ext4Error) {
        guard bytes[Layout.magic] == Self.magic else { throw .corrupt("MMP block", where: "magic") }
        if superBlock.hasMetadataChecksums {
            let crc = CRC32C.of(bytes.extracting(0..<Layout.checksum.offset), seed: superBlock.checksumSeed)
            guard crc == bytes[Layout.checksum] else { throw .corrupt("MMP block", where: "checksum") }
        }
        sequence = bytes[Layout.sequence]
        node = Array(bytes.array(Layout.node).prefix { $0 != 0 })
        device = Array(bytes.array(Layout.device).prefix { $0 != 0 })
    }
}
