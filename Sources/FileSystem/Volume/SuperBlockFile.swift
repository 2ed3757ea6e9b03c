internal import BlockIO
internal import Ext4Format

/// The super block outside the journal: read before there is one, the two writes that set and clear needs_recovery, and
/// the record of errors once the journal has been aborted.
///
/// The first two change that bit and the checksum and nothing else. The block is torn at 512 bytes at worst, and bit
/// and checksum lie on both sides of the tear: so a super block whose checksum becomes right when the bit is toggled
/// was torn in just such a write. It is then taken as needing recovery, which does no harm to an empty log. The record
/// comes in two writes that cannot be torn at all: see `VolumeErrors`.
struct SuperBlockFile {
    let device: any BlockDevice
    private let buffer: AlignedBuffer
    /// Byte on the device of what `buffer` holds, and where in it the super block starts.
    private let start: Int

    init(device: any BlockDevice) throws(Ext4Error) {
        guard device.byteCount >= UInt64(SuperBlock.byteOffset + SuperBlock.byteCount) else {
            throw .refused("not an ext4 file system (\(device.byteCount) bytes are too few)")
        }
        self.device = device
        // Whole 4 KiB where the device has them: its sectors may be that large.
        let count = Int(min(device.byteCount, 4096)) / device.sectorByteCount * device.sectorByteCount
        buffer = AlignedBuffer(byteCount: count)
        start = SuperBlock.byteOffset
        try device.read(into: buffer, at: 0)
        try heal()
    }

    func decoded() throws(Ext4Error) -> SuperBlock {
        try decode(buffer)
    }

    /// What the super block says when its checksum is not believed: enough to find the log, which may hold it whole.
    func decodedUnchecked() throws(Ext4Error) -> SuperBlock {
        let copy = AlignedBuffer(copying: buffer)
        copy.withMutableBytes { bytes in
            var part = bytes._mutatingExtracting(start..<start + SuperBlock.byteCount)
            SuperBlock.updateChecksum(&part)
        }
        return try decode(copy)
    }

    /// Also checks what the bytes alone cannot say: that the device can hold such a volume.
    private func decode(_ buffer: AlignedBuffer) throws(Ext4Error) -> SuperBlock {
        let superBlock = try buffer.withBytes { bytes throws(Ext4Error) in
            let part = bytes.extracting(start..<start + SuperBlock.byteCount)
            return try SuperBlock(decoding: part, deviceByteCount: device.byteCount)
        }
        try device.checkBlocks(of: superBlock.blockByteCount)
        return superBlock
    }

    /// Whether the checksum fails, in a way that `heal` could not explain.
    var isTorn: Bool {
        buffer.withBytes { Self.isChecksumWrong($0.extracting(start..<start + SuperBlock.byteCount)) }
    }

    /// Reads the super block again: replay may have written it.
    func reread() throws(Ext4Error) {
        try device.read(into: buffer, at: 0)
        try heal()
    }

    private func heal() throws(Ext4Error) {
        let isTorn = buffer.withMutableBytes { bytes in
            var part = bytes._mutatingExtracting(start..<start + SuperBlock.byteCount)
            guard Self.isChecksumWrong(part.bytes) else { return false }
            part[SuperBlock.Layout.incompatible] ^= Features.Incompatible.needsRecovery.rawValue
            let explains = !Self.isChecksumWrong(part.bytes)
            part[SuperBlock.Layout.incompatible] ^= Features.Incompatible.needsRecovery.rawValue
            guard explains else { return false }
            part[SuperBlock.Layout.incompatible] |= Features.Incompatible.needsRecovery.rawValue
            SuperBlock.updateChecksum(&part)
            return true
        }
        if isTorn && !device.isReadOnly { try write() }
    }

    private static func isChecksumWrong(_ bytes: RawSpan) -> Bool {
        let words = Features.ReadOnlyCompatible(rawValue: bytes[SuperBlock.Layout.readOnlyCompatible])
        return words.contains(.metadataChecksums) && SuperBlock.checksum(of: bytes) != bytes[LE<UInt32>(0x3FC)]
    }

    /// Durable when it returns.
    func setNeedsRecovery(_ isSet: Bool, hasChecksums: Bool) throws(Ext4Error) {
        change { part in
            var words = Features.Incompatible(rawValue: part[SuperBlock.Layout.incompatible])
            if isSet { words.insert(.needsRecovery) } else { words.remove(.needsRecovery) }
            part[SuperBlock.Layout.incompatible] = words.rawValue
            if hasChecksums { SuperBlock.updateChecksum(&part) }
        }
        try write()
    }

    /// Records errors, in two writes of one sector each, both durable when it returns. A super block that is torn
    /// already is left alone: the log holds it.
    func write(_ errors: VolumeErrors, hasChecksums: Bool) throws(Ext4Error) {
        guard !isTorn else { throw .corrupt("super block", where: "checksum") }
        let (first, second) = VolumeErrors.sectors
        change { errors.encodeFirstSector(into: &$0, hasChecksum: hasChecksums) }
        try write(start + first.lowerBound..<start + first.upperBound)
        change { errors.encodeSecondSector(into: &$0, hasChecksum: hasChecksums) }
        try write(start + second.lowerBound..<start + second.upperBound)
    }

    /// Records errors again that a replay has written over. `earlier` is what the super block said before it.
    func keep(_ earlier: VolumeErrors) throws(Ext4Error) {
        let now = try decoded()
        if earlier.count > now.errors.count { try write(earlier, hasChecksums: now.hasMetadataChecksums) }
    }

    private func change(_ body: (inout MutableRawSpan) -> Void) {
        buffer.withMutableBytes { bytes in
            var part = bytes._mutatingExtracting(start..<start + SuperBlock.byteCount)
            body(&part)
        }
    }

    private func write() throws(Ext4Error) { try write(start..<start + SuperBlock.byteCount) }

    /// Only the sectors of the super block: what lies before it (a boot sector) is not ours.
    private func write(_ range: Range<Int>) throws(Ext4Error) {
        let sector = device.sectorByteCount
        let low = range.lowerBound / sector * sector
        let high = (range.upperBound + sector - 1) / sector * sector
        try buffer.withBytes { bytes throws(Ext4Error) in
            try device.write(
                bytes.extracting(low..<min(high, buffer.byteCount)), at: UInt64(low), mode: .throughToMedia)
        }
    }
}
