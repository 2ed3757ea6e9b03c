import Ext4Format
import Glibc
import Testing

/// An image that is spoiled on purpose, structure by structure. Each edit makes the checksum right again, so that what
/// was changed is judged and not that it was changed; `editBlock` leaves it alone.
struct DamagedImage {
    private(set) var bytes: [UInt8]
    let layout: VolumeLayout
    let format: DirectoryFormat
    private let paths: [String: ImageTree.Place]

    init(_ tree: ImageTree) throws {
        bytes = tree.bytes
        paths = tree.places
        let superBlock = try SuperBlock(
            decoding: tree.bytes.span.bytes.extracting(1024..<2048), deviceByteCount: UInt64(tree.bytes.count))
        layout = VolumeLayout(superBlock)
        format = DirectoryFormat(superBlock)
    }

    var superBlock: SuperBlock { layout.superBlock }

    func inode(_ path: String) -> InodeNumber { paths[path]!.inode }
    /// The blocks of a file or directory, by file block.
    func blocks(_ path: String) -> [UInt64] { paths[path]!.blocks }

    func number<T: FixedWidthInteger & BitwiseCopyable>(_ field: LE<T>, ofBlock block: UInt64) -> T {
        bytes.span.bytes.extracting(range(ofBlock: block))[field]
    }

    private func range(ofBlock block: UInt64) -> Range<Int> {
        Int(block) * layout.blockByteCount..<Int(block + 1) * layout.blockByteCount
    }

    private mutating func edit(_ range: Range<Int>, _ body: (inout MutableRawSpan) throws -> Void) rethrows {
        var part = Array(bytes[range])
        var span = part.mutableSpan
        var raw = span.mutableBytes
        try body(&raw)
        bytes.replaceSubrange(range, with: part)
    }

    mutating func editBlock(_ block: UInt64, _ body: (inout MutableRawSpan) throws -> Void) rethrows {
        try edit(range(ofBlock: block), body)
    }

    mutating func editSuperBlock(_ body: (inout MutableRawSpan) -> Void) {
        let hasChecksum = superBlock.hasMetadataChecksums
        edit(1024..<2048) { bytes in
            body(&bytes)
            if hasChecksum { SuperBlock.updateChecksum(&bytes) }
        }
    }

    func descriptor(_ group: UInt32) -> GroupDescriptor {
        let place = layout.descriptor(of: GroupNumber(group))
        let start = Int(place.block.rawValue) * layout.blockByteCount
        return GroupDescriptor(
            decoding: bytes.span.bytes.extracting(start + place.bytes.lowerBound..<start + place.bytes.upperBound))
    }

    /// `body` may change the bytes, and what of the decoded descriptor can be encoded.
    mutating func editDescriptor(
        _ group: UInt32 = 0, _ body: (inout MutableRawSpan, inout GroupDescriptor) -> Void
    ) {
        let place = layout.descriptor(of: GroupNumber(group)), superBlock = superBlock
        var descriptor = descriptor(group)
        editBlock(place.block.rawValue) { block in
            var part = block.bytes.array(place.bytes)
            var span = part.mutableSpan
            var raw = span.mutableBytes
            body(&raw, &descriptor)
            descriptor.encode(into: &raw, group: GroupNumber(group), superBlock: superBlock)
            block.copy(part, at: place.bytes.lowerBound)
        }
    }

    mutating func editBlockBitmap(_ group: UInt32 = 0, _ body: (inout MutableRawSpan) -> Void) {
        editBlock(descriptor(group).blockBitmap.rawValue, body)
        let sum = bitmapChecksum(descriptor(group).blockBitmap.rawValue, superBlock.clustersPerGroup)
        editDescriptor(group) { $1.blockBitmapChecksum = sum }
    }

    mutating func editInodeBitmap(_ group: UInt32 = 0, _ body: (inout MutableRawSpan) -> Void) {
        editBlock(descriptor(group).inodeBitmap.rawValue, body)
        let sum = bitmapChecksum(descriptor(group).inodeBitmap.rawValue, superBlock.inodesPerGroup)
        editDescriptor(group) { $1.inodeBitmapChecksum = sum }
    }

    private func bitmapChecksum(_ block: UInt64, _ bitCount: UInt32) -> UInt32 {
        GroupDescriptor.bitmapChecksum(
            of: bytes.span.bytes.extracting(range(ofBlock: block)), bitCount: bitCount, superBlock: superBlock)
    }

    private func slot(_ inode: InodeNumber) -> Range<Int> {
        let place = layout.place(of: inode)!
        let table = Int(descriptor(place.group.rawValue).inodeTable.rawValue) * layout.blockByteCount
        let start = table + Int(place.index) * superBlock.inodeByteCount
        return start..<start + superBlock.inodeByteCount
    }

    func checksum(_ inode: InodeNumber) throws -> InodeChecksum {
        let record = try InodeRecord(decoding: bytes.span.bytes.extracting(slot(inode)))
        return InodeChecksum(volumeSeed: superBlock.checksumSeed, inode: inode, generation: record.generation)
    }

    func field<T: FixedWidthInteger & BitwiseCopyable>(_ field: LE<T>, of inode: InodeNumber) -> T {
        bytes.span.bytes.extracting(slot(inode))[field]
    }

    mutating func editInode(
        _ inode: InodeNumber, isSealed: Bool = true, _ body: (inout MutableRawSpan) -> Void
    ) throws {
        let checksum = try checksum(inode)
        let hasChecksums = superBlock.hasMetadataChecksums
        edit(slot(inode)) { bytes in
            body(&bytes)
            if isSealed && hasChecksums { checksum.update(&bytes) }
        }
    }

    mutating func editLeaf(_ directory: String, _ index: Int, _ body: (inout MutableRawSpan) throws -> Void) throws {
        let seed = try checksum(inode(directory)).seed, format = format
        try editBlock(blocks(directory)[index]) { bytes in
            try body(&bytes)
            format.sealLeaf(&bytes, seed: seed)
        }
    }

    mutating func editIndex(
        _ directory: String, _ index: Int = 0, _ body: (inout MutableRawSpan, inout DirectoryIndex) throws -> Void
    ) throws {
        let seed = try checksum(inode(directory)).seed, format = format, block = blocks(directory)[index]
        try editBlock(block) { bytes in
            var head =
                try index == 0
                ? format.indexRoot(bytes.bytes, in: FSBlock(block)) : format.indexNode(bytes.bytes, in: FSBlock(block))
            try body(&bytes, &head)
            format.sealIndex(&bytes, head, seed: seed)
        }
    }

    mutating func editExtentBlock(_ path: String, _ body: (inout MutableRawSpan) -> Void) throws {
        let checksum = try checksum(inode(path))
        // The root of the tree has one entry: its block number is in the second word behind the key.
        let block = UInt64(field(LE<UInt32>(0x28 + 12 + 4), of: inode(path)))
        editBlock(block) { bytes in
            body(&bytes)
            ExtentNode.seal(&bytes, checksum)
        }
    }

    mutating func editAttributeBlock(_ path: String, _ body: (inout MutableRawSpan) -> Void) {
        let block = UInt64(field(LE<UInt32>(0x68), of: inode(path))), superBlock = superBlock
        editBlock(block) { bytes in
            body(&bytes)
            ExtendedAttributeBlock.updateChecksum(&bytes, at: FSBlock(block), superBlock)
        }
    }
}

/// A tree of all kinds of nodes on an image, made by others: mke2fs, debugfs and e2fsck.
struct ImageTree: Sendable {
    struct Place: Sendable {
        let inode: InodeNumber
        let blocks: [UInt64]
    }
    let bytes: [UInt8]
    private(set) var places: [String: Place] = [:]

    /// "/many" has an index of one level, "/deep" of two, "/sparse" has a block of extents.
    init(_ arguments: [String]) throws {
        let folder = TemporaryFile.newPath("tree")
        defer { _ = Tools.run("rm", "-rf", folder) }
        try Self.makeTree(folder)
        let file = TemporaryFile("volume", contents: [UInt8](repeating: 0xDB, count: 8 << 20))
        // Fixed, so that each name is in the same leaf every time.
        let uuid = "6a657874-3400-4372-6173-680000000002"
        let made = Tools.run(
            ["mke2fs", "-q", "-F", "-b", "1024", "-g", "4096", "-J", "size=1", "-d", folder]
                + [
                    "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,hash_seed=\(uuid)", "-U",
                    uuid,
                ] + arguments + [file.path])
        try #require(made.status == 0, "mke2fs: \(made.output)")
        let large = TemporaryFile("value", contents: [UInt8](repeating: 0x61, count: 700))
        for command in [
            "ea_set /file user.small value", "ea_set -f \(large.path) /file user.large",
            "ea_set -f \(large.path) /plain user.large", "mknod pipe p", "mknod null c 1 3",
            "rm /many/name7",
        ] {
            let result = Tools.run("debugfs", "-w", "-R", command, file.path)
            try #require(result.status == 0, "debugfs: \(result.output)")
        }
        // -D makes the indexes.
        let checked = Tools.run("e2fsck", "-fyD", file.path)
        try #require(checked.status <= 1, "e2fsck: \(checked.output)")
        bytes = file.contents
        for path in [
            "/", "/file", "/plain", "/sparse", "/short", "/long", "/many", "/deep", "/sub", "/sub/leaf", "/null",
        ] {
            places[path] = try Self.place(path, file.path)
        }
    }

    private static func makeTree(_ folder: String) throws {
        let script = """
            set -e; mkdir -p "$0/many" "$0/deep" "$0/sub/leaf" "$0/sub/other"; cd "$0"
            head -c 100000 /dev/zero | tr '\\0' x > file; head -c 3000 file > plain; ln file sub/second
            for i in 0 1 2 3 4 5 6 7 8; do
                dd if=file of=sparse bs=4096 count=1 seek=$((2*i)) conv=notrunc status=none
            done
            ln -s file short; ln -s "$(head -c 200 file)" long
            for i in $(seq 300); do : > many/name$i; done
            long=$(head -c 200 file); for i in $(seq 600); do ln plain deep/$long$i; done
            """
        let result = Tools.run("sh", "-c", script, folder)
        try #require(result.status == 0, "\(result.output)")
    }

    private static func place(_ path: String, _ image: String) throws -> Place {
        let answer = Tools.run("debugfs", "-R", "stat \(path)", image).output
        let words = answer.split(whereSeparator: \.isWhitespace)
        let at = try #require(words.firstIndex(of: "Inode:"), "\(answer)")
        let inode = try #require(UInt32(words[at + 1]))
        let blocks = Tools.run("debugfs", "-R", "blocks \(path)", image).output
        let numbers = blocks.split(whereSeparator: \.isWhitespace).compactMap { UInt64($0) }
        return Place(inode: InodeNumber(inode), blocks: numbers)
    }

    enum Kind: CaseIterable, Sendable {
        /// With checksums, extents and an orphan file.
        case ext4
        /// Block maps, and no checksums.
        case ext3
        /// Clusters of four blocks.
        case clusters

        func tree() throws -> ImageTree {
            switch self {
            case .ext4: try ImageTree.ext4.get()
            case .ext3: try ImageTree.ext3.get()
            case .clusters: try ImageTree.clusters.get()
            }
        }
    }
    private static let ext4 = Result { try ImageTree(["-t", "ext4", "-O", "orphan_file"]) }
    private static let clusters = Result { try ImageTree(["-t", "ext4", "-O", "bigalloc,orphan_file", "-C", "4096"]) }
    private static let ext3 = Result { try ImageTree(["-t", "ext3", "-I", "256"]) }
}
