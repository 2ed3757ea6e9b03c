internal import CXXHash
internal import Ext4Format

/// Directory blocks and what the names in them say.
extension Survey {
    func checkDirectories() {
        for index in directories.indices {
            let directory = directories[index]
            var walk = NameWalk(directory)
            let hasIndex = directory.isIndexed && superBlock.features.compatible.contains(.directoryIndex)
            // An index whose blocks cannot be read says nothing of the leaves; what they hold is checked all the same.
            let leaves =
                hasIndex
                ? checkIndex(directory) : directory.blocks.map { IndexedLeaf(block: $0, hash: nil, hashes: 0...(.max)) }
            if hasIndex { checkRootDots(directory, &walk) }
            for leaf in leaves {
                let isFirst = !hasIndex && leaf.block == directory.blocks.first
                attempt(.directoryBlock, inode: directory.inode, block: leaf.block) { () throws(Ext4Error) in
                    try withBlock(leaf.block) { bytes throws(Ext4Error) in
                        try checkLeaf(bytes, leaf, isFirst: isFirst, &walk)
                    }
                }
            }
            directories[index].parent = walk.parent
            directories[index].subdirectoryCount = walk.subdirectoryCount
            checkUnique(directory, leaves, &walk)
        }
    }

    /// A leaf, and the hashes that its names may have; without a hash function any.
    struct IndexedLeaf {
        let block: UInt64
        let hash: DirectoryHash?
        let hashes: ClosedRange<UInt32>
    }

    struct NameWalk {
        let inode: InodeNumber, seed: UInt32
        var parent: UInt32 = 0
        var subdirectoryCount = 0
        /// Of each name, to find those that are there twice.
        var digests: [UInt64] = []

        init(_ directory: Directory) { (inode, seed) = (directory.inode, directory.seed) }
    }

    private func checkLeaf(
        _ bytes: RawSpan, _ leaf: IndexedLeaf, isFirst: Bool, _ walk: inout NameWalk
    ) throws(Ext4Error) {
        let block = FSBlock(leaf.block)
        try format.checkLeaf(bytes, isFirst: isFirst, seed: walk.seed, in: block)
        var offset = 0, ordinal = 0
        while let entry = try format.nextEntry(bytes, from: offset, block: block) {
            offset = entry.end
            defer { ordinal += 1 }
            if isFirst && ordinal == 0 {
                checkDot(entry.inode, entry.type, walk.inode)
                continue
            }
            if isFirst && ordinal == 1 {
                walk.parent = entry.inode
                checkType(entry, walk.inode, block)
                continue
            }
            let name = bytes.extracting(entry.nameRange)
            checkName(entry, block, &walk)
            walk.digests.append(Self.digest(name))
            if let hash = leaf.hash, !leaf.hashes.contains(hash.value(of: name).major) {
                report(
                    .indexOrder, inode: walk.inode, block: leaf.block,
                    "the name at byte \(entry.offset) has hash \(hash.value(of: name).major), not in \(leaf.hashes)")
            }
        }
    }

    private func checkName(_ entry: DirectoryEntry, _ block: FSBlock, _ walk: inout NameWalk) {
        let target = Int(entry.inode)
        guard entry.inode >= superBlock.firstInode, kinds[target] != 0 else {
            return report(
                .entryTarget, inode: walk.inode, block: block.rawValue, "the name at byte \(entry.offset): \(target)")
        }
        checkType(entry, walk.inode, block)
        nameCounts[target] += 1
        guard kinds[target] == 4 else { return }
        walk.subdirectoryCount += 1
        if parents[target] != 0 {
            report(
                .directoryNames, inode: InodeNumber(entry.inode),
                "in inode \(parents[target]) and \(walk.inode.rawValue)")
        }
        parents[target] = walk.inode.rawValue
    }

    private func checkType(_ entry: DirectoryEntry, _ inode: InodeNumber, _ block: FSBlock) {
        guard format.hasFileTypes else { return }
        let expected: UInt8 =
            switch kinds[Int(entry.inode)] {
            case 8: 1
            case 4: 2
            case 2: 3
            case 6: 4
            case 1: 5
            case 12: 6
            case 10: 7
            default: 0
            }
        if entry.type != expected {
            let found = "\(entry.type) for inode \(entry.inode), which has \(expected)"
            report(.entryType, inode: inode, block: block.rawValue, found)
        }
    }

    private func checkDot(_ target: UInt32, _ type: UInt8, _ inode: InodeNumber) {
        if target != inode.rawValue { report(.dots, inode: inode, "\".\" is inode \(target)") }
        if format.hasFileTypes, type != 2 { report(.entryType, inode: inode, "\".\" has type \(type)") }
    }

    /// The first block of an indexed directory has "." and "..", and the index in the rest of the record.
    private func checkRootDots(_ directory: Directory, _ walk: inout NameWalk) {
        guard let first = directory.blocks.first else { return }
        attempt(.directoryIndex, inode: directory.inode, block: first) { () throws(Ext4Error) in
            let (dot, parent) = try withBlock(first) { bytes throws(Ext4Error) in
                let end = layout.blockByteCount, block = FSBlock(first)
                return (
                    try format.entry(bytes, at: 0, end: end, in: block),
                    try format.entry(bytes, at: DirectoryEntry.smallestByteCount, end: end, in: block)
                )
            }
            checkDot(dot.inode, dot.type, directory.inode)
            checkType(parent, directory.inode, FSBlock(first))
            walk.parent = parent.inode
        }
    }

    // MARK: - Names that are there twice

    private static func digest(_ name: RawSpan) -> UInt64 {
        unsafe name.withUnsafeBytes { unsafe XXH3_64bits($0.baseAddress, $0.count) }
    }

    private func checkUnique(_ directory: Directory, _ leaves: [IndexedLeaf], _ walk: inout NameWalk) {
        walk.digests.sort()
        let twice = Set(zip(walk.digests, walk.digests.dropFirst()).filter { $0 == $1 }.map(\.0))
        guard !twice.isEmpty else { return }
        var seen: Set<[UInt8]> = []
        for leaf in leaves {
            attempt(.directoryBlock, inode: directory.inode, block: leaf.block) { () throws(Ext4Error) in
                try withBlock(leaf.block) { bytes throws(Ext4Error) in
                    var offset = 0
                    while let entry = try format.nextEntry(bytes, from: offset, block: FSBlock(leaf.block)) {
                        offset = entry.end
                        guard twice.contains(Self.digest(bytes.extracting(entry.nameRange))) else { continue }
                        let name = bytes.array(entry.nameRange)
                        if seen.insert(name).inserted { continue }
                        let text = String(decoding: name, as: UTF8.self)
                        report(.uniqueName, inode: directory.inode, block: leaf.block, "\"\(text)\"")
                    }
                }
            }
        }
    }
}
