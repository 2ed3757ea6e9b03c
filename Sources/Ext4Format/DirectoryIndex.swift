/// The head of an index block of a directory: `struct dx_root` in its first block, `struct dx_node` elsewhere (kernel
/// doc: ext4, "Hash Tree Directories").
///
/// Both begin with records that make them look like leaves without names. Then come entries of 8 bytes, hash and block
/// of the directory; in place of the hash of the first one stand `struct dx_countlimit`'s two numbers. The names from
/// the hash of an entry up to that of the next are below its block. An odd hash says that names with the hash one less
/// continue from the entry before.
package struct DirectoryIndex: Equatable, Sendable {
    /// How many entries there are, and how many fit.
    package var count: Int
    package let limit: Int
    /// Set in the root only.
    package let root: Root?

    package struct Root: Equatable, Sendable {
        package let version: DirectoryHash.Version
        /// Index blocks on the way from the root to a leaf, the root not counted.
        package let levels: Int
    }

    package var isFull: Bool { count == limit }
    /// Where the entries start.
    var start: Int { root == nil ? Layout.nodeStart : Layout.rootStart }

    enum Layout {
        static var nodeStart: Int { 8 }
        static var rootStart: Int { 32 }
        static var entryByteCount: Int { 8 }
        /// `struct dx_tail`
        static var tailByteCount: Int { 8 }
        static var parentRecord: Int { 12 }
        static var reserved: LE<UInt32> { LE(0x18) }
        static var version: LE<UInt8> { LE(0x1C) }
        static var infoByteCount: LE<UInt8> { LE(0x1D) }
        static var levels: LE<UInt8> { LE(0x1E) }
        static var flags: LE<UInt8> { LE(0x1F) }
        static func limit(_ start: Int) -> LE<UInt16> { LE(start) }
        static func count(_ start: Int) -> LE<UInt16> { LE(start + 2) }
        static func hash(_ start: Int, _ position: Int) -> LE<UInt32> { LE(start + 8 * position) }
        static func block(_ start: Int, _ position: Int) -> LE<UInt32> { LE(start + 8 * position + 4) }
        static func tailReserved(_ tail: Int) -> LE<UInt32> { LE(tail) }
        static func tailChecksum(_ tail: Int) -> LE<UInt32> { LE(tail + 4) }
        /// The four highest bits of a block number are reserved.
        static var blockMask: UInt32 { 0x0FFF_FFFF }
        static var infoSize: UInt8 { 8 }
    }

    /// Directory blocks are numbered below this.
    package static let blockLimit: UInt32 = 1 << 28
}

extension DirectoryFormat {
    private typealias Layout = DirectoryIndex.Layout

    private static func corruptIndex(_ block: FSBlock, _ what: String) -> Ext4Error {
        .corrupt("directory index", where: "block \(block.rawValue): \(what)")
    }

    private func limit(from start: Int) -> Int {
        (blockByteCount - start - (hasChecksums ? Layout.tailByteCount : 0)) / Layout.entryByteCount
    }

    /// The head of the root of an index, checked in all but its checksum.
    package func indexRoot(_ bytes: RawSpan, in block: FSBlock) throws(Ext4Error) -> DirectoryIndex {
        guard bytes.byteCount == blockByteCount,
            recordByteCount(bytes[DirectoryEntry.Layout.byteCount(0)]) == Layout.parentRecord,
            recordByteCount(bytes[DirectoryEntry.Layout.byteCount(Layout.parentRecord)]) == blockByteCount - 12
        else { throw Self.corruptIndex(block, "the root's records") }
        guard let version = DirectoryHash.Version(rawValue: bytes[Layout.version]) else {
            throw Self.corruptIndex(block, "hash version \(bytes[Layout.version])")
        }
        let levels = Int(bytes[Layout.levels])
        guard bytes[Layout.reserved] == 0, bytes[Layout.infoByteCount] == Layout.infoSize, bytes[Layout.flags] & 1 == 0
        else { throw Self.corruptIndex(block, "root info") }
        guard levels < indexLevelLimit else { throw Self.corruptIndex(block, "\(levels) levels") }
        return try index(bytes, root: .init(version: version, levels: levels), in: block)
    }

    /// The head of another block of an index.
    package func indexNode(_ bytes: RawSpan, in block: FSBlock) throws(Ext4Error) -> DirectoryIndex {
        guard bytes.byteCount == blockByteCount, bytes[DirectoryEntry.Layout.inode(0)] == 0,
            recordByteCount(bytes[DirectoryEntry.Layout.byteCount(0)]) == blockByteCount
        else { throw Self.corruptIndex(block, "the node's record") }
        return try index(bytes, root: nil, in: block)
    }

    private func index(
        _ bytes: RawSpan, root: DirectoryIndex.Root?, in block: FSBlock
    ) throws(Ext4Error) -> DirectoryIndex {
        let start = root == nil ? Layout.nodeStart : Layout.rootStart
        let limit = Int(bytes[Layout.limit(start)])
        let count = Int(bytes[Layout.count(start)])
        guard limit == self.limit(from: start), (1...limit).contains(count) else {
            throw Self.corruptIndex(block, "\(count) of \(limit) entries")
        }
        return DirectoryIndex(count: count, limit: limit, root: root)
    }

    /// The checksum and the order of the entries, beside what `indexRoot` and `indexNode` check.
    package func checkIndex(_ bytes: RawSpan, isRoot: Bool, seed: UInt32, in block: FSBlock) throws(Ext4Error) {
        let index = try isRoot ? indexRoot(bytes, in: block) : indexNode(bytes, in: block)
        if hasChecksums {
            let stored = bytes[Layout.tailChecksum(tail(index))]
            guard stored == checksum(bytes, index, seed: seed) else { throw Self.corruptIndex(block, "checksum") }
        }
        if isRoot {
            for (ordinal, offset) in [0, Layout.parentRecord].enumerated() {
                let entry = try entry(bytes, at: offset, end: blockByteCount, in: block)
                guard entry.inode != 0 else { throw Self.corruptIndex(block, "no \".\" or \"..\"") }
                try checkName(bytes, entry, dots: ordinal + 1, in: block)
            }
        }
        guard index.count > 2 else { return }
        for position in 2..<index.count where hash(bytes, index, at: position) < hash(bytes, index, at: position - 1) {
            throw Self.corruptIndex(block, "hashes out of order at \(position)")
        }
    }

    private func tail(_ index: DirectoryIndex) -> Int { index.start + Layout.entryByteCount * index.limit }

    /// Over the head and the entries in use, then the tail with the checksum taken as 0.
    private func checksum(_ bytes: RawSpan, _ index: DirectoryIndex, seed: UInt32) -> UInt32 {
        var crc = CRC32C(seed: seed)
        crc.update(bytes.extracting(0..<index.start + Layout.entryByteCount * index.count))
        crc.update(littleEndian: bytes[Layout.tailReserved(tail(index))])
        crc.update(littleEndian: UInt32(0))
        return crc.value
    }

    /// The hash of an entry but the first, which has none.
    package func hash(_ bytes: RawSpan, _ index: DirectoryIndex, at position: Int) -> UInt32 {
        precondition(position > 0 && position < index.count)
        return bytes[Layout.hash(index.start, position)]
    }

    /// The block of the directory below an entry; 0, the root's own, is never right.
    package func child(
        _ bytes: RawSpan, _ index: DirectoryIndex, at position: Int, in block: FSBlock
    ) throws(Ext4Error) -> FileBlock {
        precondition(position >= 0 && position < index.count)
        let child = bytes[Layout.block(index.start, position)] & Layout.blockMask
        guard child > 0 else { throw Self.corruptIndex(block, "entry \(position) is block 0") }
        return FileBlock(child)
    }

    /// The last entry that begins at or before `hash`.
    package func position(of hash: UInt32, _ bytes: RawSpan, _ index: DirectoryIndex) -> Int {
        var (low, high) = (1, index.count)
        while low < high {
            let middle = (low + high) / 2
            if bytes[Layout.hash(index.start, middle)] > hash { high = middle } else { low = middle + 1 }
        }
        return low - 1
    }

    // MARK: Changes. Each leaves the checksum to `sealIndex`.

    package func sealIndex(_ bytes: inout MutableRawSpan, _ index: DirectoryIndex, seed: UInt32) {
        guard hasChecksums else { return }
        let value = checksum(bytes.bytes, index, seed: seed)
        bytes[Layout.tailChecksum(tail(index))] = value
    }

    private func setCount(_ bytes: inout MutableRawSpan, _ index: DirectoryIndex) {
        bytes[Layout.limit(index.start)] = UInt16(index.limit)
        bytes[Layout.count(index.start)] = UInt16(index.count)
    }

    /// Turns the first block of a directory into a root with one entry, `child`; "." and ".." stay.
    package func writeIndexRoot(
        _ bytes: inout MutableRawSpan, version: DirectoryHash.Version, own: UInt32, parent: UInt32, child: FileBlock
    ) -> DirectoryIndex {
        bytes.fill(0..<blockByteCount, with: 0)
        writeDots(&bytes, own: own, parent: parent, parentByteCount: blockByteCount - Layout.parentRecord)
        bytes[Layout.version] = version.rawValue
        bytes[Layout.infoByteCount] = Layout.infoSize
        let index = DirectoryIndex(
            count: 1, limit: limit(from: Layout.rootStart), root: .init(version: version, levels: 0))
        setCount(&bytes, index)
        bytes[Layout.block(index.start, 0)] = child.rawValue
        return index
    }

    /// Puts an entry behind the one at `position`. The block must not be full.
    package func insert(
        _ bytes: inout MutableRawSpan, _ index: inout DirectoryIndex, after position: Int, hash: UInt32,
        child: FileBlock
    ) {
        precondition(!index.isFull && position < index.count)
        let from = index.start + Layout.entryByteCount * (position + 1)
        bytes.move(
            from: from, to: from + Layout.entryByteCount, count: Layout.entryByteCount * (index.count - position - 1))
        index.count += 1
        setCount(&bytes, index)
        bytes[Layout.hash(index.start, position + 1)] = hash
        bytes[Layout.block(index.start, position + 1)] = child.rawValue
    }

    /// Writes a new node with the entries from `position` on of the index block `source`. The hash of the first of them
    /// belongs into the node's parent.
    package func writeIndexNode(
        _ bytes: inout MutableRawSpan, entriesOf source: RawSpan, _ index: DirectoryIndex, from position: Int
    ) -> DirectoryIndex {
        let count = index.count - position
        let node = DirectoryIndex(count: count, limit: limit(from: Layout.nodeStart), root: nil)
        precondition(position >= 0 && count > 0 && count <= node.limit)
        bytes.fill(0..<blockByteCount, with: 0)
        setByteCount(&bytes, at: 0, to: blockByteCount)
        let from = index.start + Layout.entryByteCount * position
        bytes.copy(source.extracting(from..<from + Layout.entryByteCount * count), at: node.start)
        setCount(&bytes, node)
        return node
    }

    /// Forgets the entries from `count` on.
    package func truncate(_ bytes: inout MutableRawSpan, _ index: inout DirectoryIndex, to count: Int) {
        precondition(count > 0 && count <= index.count)
        index.count = count
        setCount(&bytes, index)
    }

    /// Makes a root the parent of one node that has taken all its entries: one level more.
    package func deepen(_ bytes: inout MutableRawSpan, _ index: inout DirectoryIndex, over child: FileBlock) {
        guard let root = index.root else { preconditionFailure("only a root grows a level") }
        index = DirectoryIndex(
            count: 1, limit: index.limit, root: .init(version: root.version, levels: root.levels + 1))
        setCount(&bytes, index)
        bytes[Layout.levels] = UInt8(root.levels + 1)
        bytes[Layout.block(index.start, 0)] = child.rawValue
    }
}
