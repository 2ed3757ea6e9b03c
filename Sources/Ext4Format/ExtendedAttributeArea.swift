/// The attributes in an inode's slot: `struct ext4_xattr_ibody_header` and entries behind the fixed fields, from byte
/// 128 + `i_extra_isize` to the end of the slot. Value offsets count from the first entry; hashes are not kept.
package enum ExtendedAttributeArea {
    static let headerByteCount = 4
    private static var magic: LE<UInt32> { LE(0) }

    /// Where the area lies in a slot. nil when there is none: 128-byte inodes, inodes without extra fields, or no room
    /// for the header and the terminator.
    package static func range(slotByteCount: Int, extraSize: UInt16) -> Range<Int>? {
        let start = 128 + Int(extraSize)
        guard extraSize > 0, start + headerByteCount + ExtendedAttributeTable.terminatorByteCount <= slotByteCount
        else {
            return nil
        }
        return start..<slotByteCount
    }

    /// The entries of an area. Without the magic there are none, whatever the bytes hold.
    package static func decode(
        _ area: RawSpan, of inode: InodeNumber
    ) throws(Ext4Error) -> [ExtendedAttributeTable.Entry] {
        guard area.byteCount >= headerByteCount, area[magic] == ExtendedAttributeBlock.magic else { return [] }
        return try ExtendedAttributeTable.decode(
            area, from: headerByteCount, base: headerByteCount, place: "inode \(inode.rawValue)")
    }

    package static func fits(_ attributes: [ExtendedAttribute], _ byteCount: Int) -> Bool {
        headerByteCount + ExtendedAttributeTable.byteCount(of: attributes) <= byteCount
    }

    /// A whole area of `byteCount` bytes; all zeros when there are no attributes. They must fit.
    package static func encode(_ attributes: [ExtendedAttribute], byteCount: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        guard !attributes.isEmpty else { return bytes }
        var span = bytes.mutableSpan
        var area = unsafe span.mutableBytes
        area[magic] = ExtendedAttributeBlock.magic
        ExtendedAttributeTable.encode(
            attributes, into: &area, from: headerByteCount, base: headerByteCount, withHashes: false)
        return bytes
    }
}
