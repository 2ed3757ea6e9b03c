internal import Ext4Format

/// The tree of hashes over the leaves of an indexed directory.
extension Survey {
    private struct IndexWalk {
        let directory: Directory
        let hash: DirectoryHash
        /// How often each block of the directory has been met, by file block.
        var visits: [Int]
        var leaves: [IndexedLeaf] = []
    }

    /// Gives the leaves, each with the hashes that belong there.
    func checkIndex(_ directory: Directory) -> [IndexedLeaf] {
        guard let first = directory.blocks.first else { return [] }
        var leaves: [IndexedLeaf] = []
        attempt(.directoryIndex, inode: directory.inode, block: first) { () throws(Ext4Error) in
            try withBlock(first) { bytes throws(Ext4Error) in
                try format.checkIndex(bytes, isRoot: true, seed: directory.seed, in: FSBlock(first))
                let index = try format.indexRoot(bytes, in: FSBlock(first))
                guard let root = index.root else { return }
                var walk = IndexWalk(
                    directory: directory, hash: DirectoryHash(version: root.version, of: superBlock),
                    visits: [Int](repeating: 0, count: directory.blocks.count))
                walk.visits[0] = 1
                // What one node hides is found through the others.
                defer { leaves = walk.leaves }
                try walkIndex(bytes, index, first, root.levels, 0...(.max), &walk)
                for (block, visits) in walk.visits.enumerated() where visits != 1 {
                    report(
                        .indexCoverage, inode: directory.inode, block: directory.blocks[block],
                        "file block \(block) stands there \(visits) times")
                }
            }
        }
        return leaves
    }

    /// `levels` counts the index blocks between this one and the leaves.
    private func walkIndex(
        _ bytes: RawSpan, _ index: DirectoryIndex, _ block: UInt64, _ levels: Int, _ hashes: ClosedRange<UInt32>,
        _ walk: inout IndexWalk
    ) throws(Ext4Error) {
        for position in 0..<index.count {
            let lower = position == 0 ? hashes.lowerBound : format.hash(bytes, index, at: position)
            // Names with the hash of an odd entry less one may still be in the leaf before it.
            let isLast = position + 1 == index.count
            let upper = isLast ? hashes.upperBound : format.hash(bytes, index, at: position + 1) &- 1
            guard hashes.contains(lower), lower & ~1 <= upper, upper <= hashes.upperBound else {
                throw .corrupt("directory index", where: "block \(block): hashes of entry \(position)")
            }
            let child = try format.child(bytes, index, at: position, in: FSBlock(block))
            guard Int(child.rawValue) < walk.directory.blocks.count else {
                throw .corrupt(
                    "directory index", where: "block \(block): entry \(position) is file block \(child.rawValue)")
            }
            walk.visits[Int(child.rawValue)] += 1
            guard walk.visits[Int(child.rawValue)] == 1 else { continue }
            let next = walk.directory.blocks[Int(child.rawValue)], range = (lower & ~1)...upper
            if levels == 0 {
                walk.leaves.append(IndexedLeaf(block: next, hash: walk.hash, hashes: range))
                continue
            }
            try withBlock(next) { bytes throws(Ext4Error) in
                try format.checkIndex(bytes, isRoot: false, seed: walk.directory.seed, in: FSBlock(next))
                let node = try format.indexNode(bytes, in: FSBlock(next))
                try walkIndex(bytes, node, next, levels - 1, range, &walk)
            }
        }
    }
}
