internal import Allocator
internal import Ext4Format
internal import Journal

/// A view on a directory inode: names to inode numbers.
///
/// The caller holds the inode lock: for reading in what looks, for writing in what changes. Nothing here takes a lock
/// but what reading a block takes. A name has one entry; that no two entries have the same name is what `planInsert` is
/// for.
struct Directory {
    let volume: Volume
    let inode: Inode
    let format: DirectoryFormat

    struct Entry: Equatable {
        var name: [UInt8]
        var inode: InodeNumber
        /// `EXT4_FT_*`, 0 when the volume does not store types.
        var type: UInt8
    }

    /// Where an entry is. Valid until the next change of the directory.
    struct Location {
        let number: FileBlock
        let block: CachedBlock
        let match: DirectoryFormat.Match
    }

    /// How names are found, and what a reading cookie counts.
    enum Shape: Equatable {
        /// A hash index; cookies are hashes.
        case indexed
        /// One block, which becomes an index when it is full; cookies are hashes of this kind already.
        case single(DirectoryHash.Version)
        /// Blocks without an order; cookies are byte offsets.
        case linear
    }

    init(volume: Volume, inode: Inode) {
        self.volume = volume
        self.inode = inode
        format = DirectoryFormat(volume.superBlock)
    }

    var seed: UInt32 { inode.checksum.seed }

    func corrupt(_ what: String) -> Ext4Error {
        .corrupt("directory", where: "inode \(inode.number.rawValue): \(what)")
    }

    /// Size in blocks and shape, from the inode alone.
    func shape() throws(Ext4Error) -> (shape: Shape, blockCount: UInt32) {
        let (size, flags) = inode.field { ($0.size, $0.flags) }
        let hasIndexes = volume.superBlock.features.compatible.contains(.directoryIndex)
        if flags.contains(.inlineData), !isOpaque(flags) { return (whenSmall(hasIndexes), 1) }
        let unit = UInt64(format.blockByteCount)
        // A directory has no holes, so it is no larger than the volume: or a search of it would take hours.
        let most = min(UInt64(DirectoryIndex.blockLimit), volume.superBlock.blockCount)
        guard size > 0, size % unit == 0, size / unit <= most else { throw corrupt("\(size) bytes") }
        let count = UInt32(size / unit)
        if isOpaque(flags) { return (.linear, count) }
        if flags.contains(.index) {
            if hasIndexes { return (.indexed, count) }
            if format.hasChecksums { throw corrupt("an index on a volume without dir_index") }
        }
        return (count == 1 ? whenSmall(hasIndexes) : .linear, count)
    }

    /// Of one block that is no index.
    private func whenSmall(_ hasIndexes: Bool) -> Shape {
        guard hasIndexes, let version = DirectoryHash.Version(rawValue: volume.superBlock.defaultHashVersion) else {
            return .linear
        }
        return .single(version)
    }

    /// Names that are folded or encrypted before they are hashed: they are found byte by byte, and never changed.
    func isOpaque(_ flags: InodeRecord.Flags) -> Bool {
        flags.contains(.casefold) || flags.contains(.encrypted)
    }

    /// Asked before a handle is open: names inside of the inode move out of it.
    func requireChangeable() throws(Ext4Error) {
        let flags = inode.field { $0.flags }
        guard isOpaque(flags) else { return try InlineData(volume: volume, inode: inode).moveOut() }
        let name = flags.contains(.encrypted) ? "encrypt" : "casefold"
        throw .unsupported(features: [name], hint: "such a directory is read-only")
    }

    // MARK: Blocks

    /// A verified leaf. `isFirst` is the block with "." and "..".
    func leaf(_ number: FileBlock, isFirst: Bool) throws(Ext4Error) -> CachedBlock {
        let block = try volume.directoryBlock(inode, number)
        try block.verifyOnce { bytes throws(Ext4Error) in
            try format.checkLeaf(bytes, isFirst: isFirst, seed: seed, in: block.number)
        }
        return block
    }

    /// A leaf of a linear directory, or nil for a block of an index that is not used as one: see `isOpaque`. Without
    /// checksums such blocks are leaves without names.
    func linearLeaf(_ number: FileBlock) throws(Ext4Error) -> CachedBlock? {
        let isFirst = number.rawValue == 0
        guard format.hasChecksums, inode.field({ $0.flags.contains(.index) }) else {
            return try leaf(number, isFirst: isFirst)
        }
        if isFirst { return nil }
        let block = try volume.directoryBlock(inode, number)
        let isIndex = try block.withBytes { bytes throws(Ext4Error) in
            let entry = try? format.entry(bytes, at: 0, end: format.blockByteCount, in: block.number)
            return entry?.inode == 0 && entry?.byteCount == format.blockByteCount
        }
        return isIndex ? nil : try leaf(number, isFirst: false)
    }

    /// The root of the index, verified.
    func indexRoot() throws(Ext4Error) -> (block: CachedBlock, index: DirectoryIndex, version: DirectoryHash.Version) {
        let block = try indexBlock(FileBlock(0))
        let index = try block.withBytes { bytes throws(Ext4Error) in try format.indexRoot(bytes, in: block.number) }
        guard let root = index.root else { preconditionFailure("decoded as a root") }
        return (block, index, root.version)
    }

    func indexBlock(_ number: FileBlock) throws(Ext4Error) -> CachedBlock {
        let block = try volume.directoryBlock(inode, number)
        try block.verifyOnce { bytes throws(Ext4Error) in
            try format.checkIndex(bytes, isRoot: number.rawValue == 0, seed: seed, in: block.number)
        }
        return block
    }

    // MARK: Looking names up

    /// The entry of a name; "." and ".." as well.
    func lookup(_ name: FileName) throws(Ext4Error) -> Entry? {
        if name.isDotOrDotDot {
            let number = name.bytes.count == 1 ? inode.number : try parent()
            return Entry(name: name.bytes, inode: number, type: format.hasFileTypes ? 2 : 0)
        }
        guard let found = try locate(name) else { return nil }
        return entry(name, found)
    }

    func entry(_ name: FileName, _ location: Location) -> Entry {
        let entry = location.match.entry
        return Entry(name: name.bytes, inode: InodeNumber(entry.inode), type: entry.type)
    }

    /// Where a name but "." and ".." is.
    func locate(_ name: FileName) throws(Ext4Error) -> Location? {
        let (shape, blockCount) = try shape()
        switch shape {
        case .indexed:
            let root = try indexRoot()
            var path = try descend(to: hash(name.bytes, root.version).major, from: root)
            return try locate(name, along: &path)
        case .single:
            return try locate(name, in: FileBlock(0), leaf(FileBlock(0), isFirst: true))
        case .linear:
            for number in 0..<blockCount {
                guard let block = try linearLeaf(FileBlock(number)) else { continue }
                if let found = try locate(name, in: FileBlock(number), block) { return found }
            }
            return nil
        }
    }

    func locate(_ name: FileName, in number: FileBlock, _ block: CachedBlock) throws(Ext4Error) -> Location? {
        let match = try block.withBytes { bytes throws(Ext4Error) in
            try format.find(unsafe name.bytes.span.bytes, in: bytes, block: block.number)
        }
        return match.map { Location(number: number, block: block, match: $0) }
    }

    func hash(_ name: [UInt8], _ version: DirectoryHash.Version) -> DirectoryHash.Value {
        DirectoryHash(version: version, of: volume.superBlock).value(of: unsafe name.span.bytes)
    }

    /// Whether there is nothing but "." and "..".
    func isEmpty() throws(Ext4Error) -> Bool {
        let (shape, blockCount) = try shape()
        guard shape == .indexed else {
            for number in 0..<blockCount {
                guard let block = try linearLeaf(FileBlock(number)) else { continue }
                if try hasNames(block, from: number == 0 ? 2 : 0) { return false }
            }
            return true
        }
        var path = try descend(to: 0, from: indexRoot())
        var leaves: UInt32 = 0
        repeat {
            leaves += 1
            guard leaves <= blockCount else { throw corrupt("more leaves than blocks") }
            if try hasNames(leaf(path.leaf, isFirst: false), from: 0) { return false }
        } while try advance(&path)
        return true
    }

    private func hasNames(_ block: CachedBlock, from skipped: Int) throws(Ext4Error) -> Bool {
        try block.withBytes { bytes throws(Ext4Error) in
            var offset = 0
            for _ in 0..<skipped {
                offset = try format.entry(bytes, at: offset, end: format.leafByteCount, in: block.number).end
            }
            return try format.nextEntry(bytes, from: offset, block: block.number) != nil
        }
    }

    // MARK: "." and ".."

    /// The inode behind "..".
    func parent() throws(Ext4Error) -> InodeNumber {
        let entry = try parentEntry().entry
        guard entry.inode > 0 else { throw corrupt("\"..\" is free") }
        return InodeNumber(entry.inode)
    }

    private func parentEntry() throws(Ext4Error) -> (block: CachedBlock, entry: DirectoryEntry) {
        let (shape, _) = try shape()
        let flags = inode.field { $0.flags }
        let isRoot = shape == .indexed || (format.hasChecksums && flags.contains(.index))
        let block: CachedBlock
        if shape == .indexed {
            block = try indexBlock(FileBlock(0))
        } else if isRoot {
            block = try volume.directoryBlock(inode, FileBlock(0))
        } else {
            block = try leaf(FileBlock(0), isFirst: true)
        }
        let end = isRoot ? format.blockByteCount : format.leafByteCount
        let entry = try block.withBytes { bytes throws(Ext4Error) in
            let own = try format.entry(bytes, at: 0, end: end, in: block.number)
            return try format.entry(bytes, at: own.end, end: end, in: block.number)
        }
        return (block, entry)
    }

    /// Points ".." elsewhere. 1 credit. Before it opened the handle the caller has asked `requireChangeable` and read
    /// the block with `parent()`.
    func setParent(_ parent: InodeNumber, in handle: borrowing Handle) throws(Ext4Error) {
        let (shape, _) = try shape()
        let (block, entry) = try parentEntry()
        try handle.modify(block) { bytes throws(Ext4Error) in
            format.setTarget(&bytes, at: entry.offset, to: parent.rawValue, type: 2)
            if shape == .indexed {
                let index = try format.indexRoot(bytes.bytes, in: block.number)
                format.sealIndex(&bytes, index, seed: seed)
            } else {
                format.sealLeaf(&bytes, seed: seed)
            }
        }
        inode.noteChange(in: handle)
    }

    /// Makes the first block of a new directory, which has none yet: "." and "..".
    func initialize(
        parent: InodeNumber, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let block = try volume.appendDirectoryBlock(to: inode, from: space, in: handle).block
        try handle.modify(block) { bytes throws(Ext4Error) in
            format.writeFirstLeaf(&bytes, own: inode.number, parent: parent, seed: seed)
        }
        inode.noteChange(in: handle)
    }
}
