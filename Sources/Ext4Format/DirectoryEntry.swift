/// One record of a directory block: `struct ext4_dir_entry_2` (kernel doc: ext4, "Linear (Classic) Directories").
///
/// Records follow each other without a gap. A record may be longer than its name needs: the rest is free room, and so
/// is a whole record with inode 0.
package struct DirectoryEntry: Equatable, Sendable {
    package static let headerByteCount = 8
    /// What a name of one byte needs; no record may be shorter.
    package static let smallestByteCount = 12
    package static let longestNameByteCount = 255

    /// Where it starts in its block.
    package let offset: Int
    /// `rec_len`, decoded.
    package let byteCount: Int
    /// 0 for a free record.
    package let inode: UInt32
    package let nameByteCount: Int
    /// 0 unknown, 1 file, 2 directory, 3 character device, 4 block device, 5 FIFO, 6 socket, 7 symlink.
    package let type: UInt8

    package var end: Int { offset + byteCount }
    package var nameRange: Range<Int> { offset + 8..<offset + 8 + nameByteCount }
    /// What must stay when the rest of the record is given away.
    package var usedByteCount: Int { inode == 0 ? 0 : Self.byteCount(forNameOf: nameByteCount) }

    /// Records start at multiples of 4.
    package static func byteCount(forNameOf count: Int) -> Int { (headerByteCount + count + 3) & ~3 }

    enum Layout {
        static func inode(_ offset: Int) -> LE<UInt32> { LE(offset) }
        static func byteCount(_ offset: Int) -> LE<UInt16> { LE(offset + 4) }
        static func nameByteCount(_ offset: Int) -> LE<UInt8> { LE(offset + 6) }
        static func type(_ offset: Int) -> LE<UInt8> { LE(offset + 7) }
        static func tailChecksum(_ offset: Int) -> LE<UInt32> { LE(offset + 8) }
    }
}

/// What the super block decides about the directory blocks of a volume.
package struct DirectoryFormat: Sendable {
    package let blockByteCount: Int
    /// Leaves end in a checksum tail, index blocks in a checksum.
    package let hasChecksums: Bool
    /// Entries have a type; else the byte is 0.
    package let hasFileTypes: Bool
    package let inodeCount: UInt32
    /// How many index blocks a lookup may pass: `EXT4_HTREE_LEVEL_COMPAT`, or one more with large_dir.
    package let indexLevelLimit: Int

    package init(_ superBlock: SuperBlock) {
        blockByteCount = superBlock.blockByteCount
        hasChecksums = superBlock.hasMetadataChecksums
        hasFileTypes = superBlock.features.incompatible.contains(.fileType)
        inodeCount = superBlock.inodeCount
        indexLevelLimit = superBlock.features.incompatible.contains(.largeDirectory) ? 3 : 2
    }

    /// `struct ext4_dir_entry_tail`: looks like a free record to whoever does not know it.
    package static let tailByteCount = 12
    private static let tailType: UInt8 = 0xDE

    /// Where the records of a leaf end.
    package var leafByteCount: Int { hasChecksums ? blockByteCount - Self.tailByteCount : blockByteCount }

    static func corrupt(_ block: FSBlock, _ what: String) -> Ext4Error {
        .corrupt("directory block", where: "block \(block.rawValue): \(what)")
    }

    /// A length of 64 KiB does not fit into 16 bits: the two low bits, always 0 otherwise, are bits 16 and 17 then.
    package func recordByteCount(_ raw: UInt16) -> Int {
        guard blockByteCount >= 65536 else { return Int(raw) }
        return raw == .max || raw == 0 ? blockByteCount : Int(raw & ~3) | Int(raw & 3) << 16
    }

    package func rawRecordByteCount(_ count: Int) -> UInt16 {
        count < 65536 ? UInt16(count) : .max
    }

    /// The record at `offset` of the block `bytes`, checked against `end`, where the records of the block end.
    @inline(__always)
    package func entry(
        _ bytes: RawSpan, at offset: Int, end: Int, in block: FSBlock
    ) throws(Ext4Error) -> DirectoryEntry {
        guard offset >= 0, offset <= end - DirectoryEntry.smallestByteCount, end <= bytes.byteCount else {
            throw Self.corrupt(block, "no room for the record at byte \(offset)")
        }
        // One load for the four fields: a look-up reads some hundred records.
        let header = bytes[LE<UInt64>(offset)]
        let inode = UInt32(truncatingIfNeeded: header)
        let count = recordByteCount(UInt16(truncatingIfNeeded: header >> 32))
        let name = Int(header >> 48 & 0xFF)
        guard count >= DirectoryEntry.smallestByteCount, count % 4 == 0, count <= end - offset else {
            throw Self.corrupt(block, "rec_len \(count) at byte \(offset)")
        }
        guard count >= DirectoryEntry.byteCount(forNameOf: name), name > 0 || inode == 0 else {
            throw Self.corrupt(block, "name_len \(name) at byte \(offset)")
        }
        guard inode <= inodeCount else { throw Self.corrupt(block, "inode \(inode) at byte \(offset)") }
        let type = hasFileTypes ? UInt8(header >> 56) : 0
        return DirectoryEntry(
            offset: offset, byteCount: count, inode: inode, nameByteCount: name, type: type <= 7 ? type : 0)
    }

    /// Writes a whole record. `byteCount` must be enough for the name; the bytes behind the name stay.
    package func write(
        _ bytes: inout MutableRawSpan, at offset: Int, byteCount: Int, inode: UInt32, name: RawSpan, type: UInt8
    ) {
        precondition(byteCount >= DirectoryEntry.byteCount(forNameOf: name.byteCount) && name.byteCount <= 255)
        bytes[DirectoryEntry.Layout.inode(offset)] = inode
        bytes[DirectoryEntry.Layout.byteCount(offset)] = rawRecordByteCount(byteCount)
        bytes[DirectoryEntry.Layout.nameByteCount(offset)] = UInt8(name.byteCount)
        bytes[DirectoryEntry.Layout.type(offset)] = hasFileTypes ? type : 0
        bytes.copy(name, at: offset + DirectoryEntry.headerByteCount)
    }

    package func setByteCount(_ bytes: inout MutableRawSpan, at offset: Int, to count: Int) {
        bytes[DirectoryEntry.Layout.byteCount(offset)] = rawRecordByteCount(count)
    }

    package func setTarget(_ bytes: inout MutableRawSpan, at offset: Int, to inode: UInt32, type: UInt8) {
        bytes[DirectoryEntry.Layout.inode(offset)] = inode
        bytes[DirectoryEntry.Layout.type(offset)] = hasFileTypes ? type : 0
    }

    /// Writes the tail of a leaf with the checksum of what stands before it. `seed` is the directory inode's.
    package func sealLeaf(_ bytes: inout MutableRawSpan, seed: UInt32) {
        guard hasChecksums else { return }
        let tail = leafByteCount
        let checksum = CRC32C.of(bytes.bytes.extracting(0..<tail), seed: seed)
        bytes[DirectoryEntry.Layout.inode(tail)] = 0
        bytes[DirectoryEntry.Layout.byteCount(tail)] = UInt16(Self.tailByteCount)
        bytes[DirectoryEntry.Layout.nameByteCount(tail)] = 0
        bytes[DirectoryEntry.Layout.type(tail)] = Self.tailType
        bytes[DirectoryEntry.Layout.tailChecksum(tail)] = checksum
    }

    private func checkTail(_ bytes: RawSpan, seed: UInt32, in block: FSBlock) throws(Ext4Error) {
        guard hasChecksums else { return }
        let tail = leafByteCount
        guard bytes[DirectoryEntry.Layout.inode(tail)] == 0,
            bytes[DirectoryEntry.Layout.byteCount(tail)] == UInt16(Self.tailByteCount),
            bytes[DirectoryEntry.Layout.nameByteCount(tail)] == 0,
            bytes[DirectoryEntry.Layout.type(tail)] == Self.tailType
        else { throw Self.corrupt(block, "no checksum tail") }
        guard bytes[DirectoryEntry.Layout.tailChecksum(tail)] == CRC32C.of(bytes.extracting(0..<tail), seed: seed)
        else {
            throw Self.corrupt(block, "checksum")
        }
    }

    /// Checks the checksum and every record. The first block of a directory starts with "." and "..", and no other
    /// place has these names.
    package func checkLeaf(_ bytes: RawSpan, isFirst: Bool, seed: UInt32, in block: FSBlock) throws(Ext4Error) {
        guard bytes.byteCount == blockByteCount else { throw Self.corrupt(block, "size") }
        try checkTail(bytes, seed: seed, in: block)
        var offset = 0
        var ordinal = 0
        while offset < leafByteCount {
            let entry = try entry(bytes, at: offset, end: leafByteCount, in: block)
            if entry.inode != 0 {
                try checkName(bytes, entry, dots: isFirst && ordinal < 2 ? ordinal + 1 : 0, in: block)
            }
            if isFirst && ordinal < 2 && entry.inode == 0 { throw Self.corrupt(block, "no \".\" or \"..\"") }
            offset = entry.end
            ordinal += 1
        }
        if isFirst && ordinal < 2 { throw Self.corrupt(block, "no \"..\"") }
    }

    /// `dots`: how many dots the name must be; 0 for any other name. The kernel refuses names with a slash.
    func checkName(_ bytes: RawSpan, _ entry: DirectoryEntry, dots: Int, in block: FSBlock) throws(Ext4Error) {
        var onlyDots = entry.nameByteCount <= 2
        for offset in entry.nameRange {
            let byte = bytes[LE<UInt8>(offset)]
            if byte != 0x2E { onlyDots = false }
            if byte == 0 || byte == 0x2F { throw Self.corrupt(block, "name at byte \(entry.offset)") }
        }
        guard onlyDots ? entry.nameByteCount == dots : dots == 0 else {
            throw Self.corrupt(block, "\".\" or \"..\" misplaced at byte \(entry.offset)")
        }
    }
}
