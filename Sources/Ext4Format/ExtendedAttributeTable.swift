/// A list of `struct ext4_xattr_entry` with its values: what an attribute block and the tail of an inode share.
///
/// Entries grow from the start of the area and end with four zero bytes; values grow down from its end.
package enum ExtendedAttributeTable {
    static let entryByteCount = 16
    static let terminatorByteCount = 4
    /// No value may be longer (`XATTR_SIZE_MAX`).
    package static let maximumValueByteCount = 65536

    /// One entry as found. `value` is a range of the area that was decoded, checked.
    package struct Entry: Equatable, Sendable {
        package let name: ExtendedAttributeName
        package let value: Range<Int>
        /// `e_value_inum`: the inode that holds the value (ea_inode); 0 when the value is in the area.
        package let valueInode: UInt32
        /// `e_hash`; 0 for most entries of an inode.
        package let hash: UInt32
    }

    private enum Layout {
        static func nameLength(_ entry: Int) -> LE<UInt8> { LE(entry) }
        static func nameIndex(_ entry: Int) -> LE<UInt8> { LE(entry + 1) }
        static func valueOffset(_ entry: Int) -> LE<UInt16> { LE(entry + 2) }
        static func valueInode(_ entry: Int) -> LE<UInt32> { LE(entry + 4) }
        static func valueSize(_ entry: Int) -> LE<UInt32> { LE(entry + 8) }
        static func hash(_ entry: Int) -> LE<UInt32> { LE(entry + 12) }
    }

    /// The entries of `bytes`, which ends where the last value may end. Entries begin at `start`; value offsets count
    /// from `base`. `place` names the area in errors. Every returned range lies in `bytes`, behind the entries, and
    /// overlaps no other, with its padding too.
    static func decode(_ bytes: RawSpan, from start: Int, base: Int, place: String) throws(Ext4Error) -> [Entry] {
        var entries: [Entry] = [], offset = start
        while true {
            guard offset + terminatorByteCount <= bytes.byteCount else { throw bad("entries without an end", place) }
            if bytes[LE<UInt32>(offset)] == 0 { break }
            guard offset + entryByteCount <= bytes.byteCount else { throw bad("entry past the end", place) }
            let nameEnd = offset + entryByteCount + Int(bytes[Layout.nameLength(offset)])
            guard nameEnd <= bytes.byteCount else { throw bad("name past the end", place) }
            let suffix = bytes.array(offset + entryByteCount..<nameEnd)
            guard !suffix.contains(0) else { throw bad("name with a NUL", place) }
            entries.append(
                Entry(
                    name: .init(index: .init(rawValue: bytes[Layout.nameIndex(offset)]), suffix: suffix),
                    value: try value(of: bytes, offset, base, place),
                    valueInode: bytes[Layout.valueInode(offset)], hash: bytes[Layout.hash(offset)]))
            offset = (nameEnd + 3) & ~3
        }
        try checkValues(entries, behind: offset + terminatorByteCount, place)
        return entries
    }

    private static func value(
        of bytes: RawSpan, _ entry: Int, _ base: Int, _ place: String
    ) throws(Ext4Error) -> Range<Int> {
        let size = Int(bytes[Layout.valueSize(entry)])
        guard size > 0, bytes[Layout.valueInode(entry)] == 0 else { return 0..<0 }
        let start = base + Int(bytes[Layout.valueOffset(entry)])
        guard size <= maximumValueByteCount, start + ExtendedAttribute.padded(size) <= bytes.byteCount else {
            throw bad("value of \(size) bytes past the end", place)
        }
        return start..<start + size
    }

    /// With its padding each value has room of its own, so that what was decoded can be encoded again.

    private static func checkValues(_ entries: [Entry], behind end: Int, _ place: String) throws(Ext4Error) {
        let ranges = entries.map(\.value).filter { !$0.isEmpty }.sorted { $0.lowerBound < $1.lowerBound }
        var end = end
        for range in ranges {
            guard range.lowerBound >= end else { throw bad("overlapping values", place) }
            end = range.lowerBound + ExtendedAttribute.padded(range.count)
        }
    }

    static func bad(_ what: String, _ place: String) -> Ext4Error {
        .corrupt("extended attributes", where: "\(place): \(what)")
    }

    /// What `attributes` take behind the header of an area, the terminator included.
    static func byteCount(of attributes: [ExtendedAttribute]) -> Int {
        attributes.reduce(terminatorByteCount) { $0 + $1.storedByteCount }
    }

    /// Writes entries from `start` and values down from the end into an area that is all zeros there. They fit: the
    /// caller has compared `byteCount`. Answers the hashes of the entries, which are stored only with `withHashes`.
    @discardableResult static func encode(
        _ attributes: [ExtendedAttribute], into bytes: inout MutableRawSpan, from start: Int, base: Int,
        withHashes: Bool
    ) -> [UInt32] {
        precondition(start + byteCount(of: attributes) <= bytes.byteCount)
        var entry = start, valueStart = bytes.byteCount
        return attributes.map { attribute in
            let hash = withHashes ? attribute.hash : 0
            bytes[Layout.nameLength(entry)] = UInt8(attribute.name.suffix.count)
            bytes[Layout.nameIndex(entry)] = attribute.name.index.rawValue
            bytes[Layout.valueSize(entry)] = UInt32(attribute.value.count)
            bytes[Layout.hash(entry)] = hash
            bytes.copy(attribute.name.suffix, at: entry + entryByteCount)
            if !attribute.value.isEmpty {
                valueStart -= attribute.paddedValueByteCount
                bytes.copy(attribute.value, at: valueStart)
                bytes[Layout.valueOffset(entry)] = UInt16(valueStart - base)
            }
            entry += attribute.entryByteCount
            return hash
        }
    }
}
