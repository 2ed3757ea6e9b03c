internal import Ext4Format
internal import Journal

// Extents that move along the file, with the blocks where they are. No node is added or goes.

extension ExtentTree {
    /// How the first blocks of extents change: those from `start` on by `distance`.
    struct Shift {
        let start: UInt64
        let distance: Int64

        fileprivate func moved(_ block: FileBlock) throws(Ext4Error) -> FileBlock {
            guard UInt64(block.rawValue) >= start else { return block }
            guard let moved = UInt32(exactly: Int64(block.rawValue) + distance) else {
                throw .posix(Errno.fileTooBig)
            }
            return FileBlock(moved)
        }
    }

    /// How many nodes, the root not counted, may map something in `range`: it stops counting behind `limit`.
    func nodeCount(in range: Range<UInt64>, limit: Int) throws(Ext4Error) -> Int {
        try nodeCount(try root(), in: range, limit: limit)
    }

    private func nodeCount(_ node: ExtentNode, in range: Range<UInt64>, limit: Int) throws(Ext4Error) -> Int {
        guard case .inner(let indexes) = node.entries else { return 0 }
        var count = 0
        for (index, entry) in indexes.enumerated() where Self.reaches(range.lowerBound, indexes, index) {
            guard index == 0 || UInt64(entry.first.rawValue) < range.upperBound else { break }
            count += 1
            if node.depth > 1, count <= limit {
                count += try nodeCount(
                    try child(entry.child, depth: node.depth - 1).node, in: range, limit: limit - count)
            }
            if count > limit { break }
        }
        return count
    }

    /// Moves every extent from `shift.start` on. Nothing may lie where they come to lie, and no extent across
    /// `shift.start`.
    func apply(_ shift: Shift, in handle: borrowing Handle) throws(Ext4Error) {
        inode.places.forget()
        let root = try root()
        let entries = try shifted(root, shift, in: handle)
        if entries != root.entries { try writeRoot(entries, depth: root.depth, handle) }
    }

    /// The entries of a node after the shift, which has been done below it.
    private func shifted(
        _ node: ExtentNode, _ shift: Shift, in handle: borrowing Handle
    ) throws(Ext4Error) -> ExtentNode.Entries {
        switch node.entries {
        case .leaf(let extents):
            var extents = extents
            for index in extents.indices { extents[index].first = try shift.moved(extents[index].first) }
            return .leaf(extents)
        case .inner(var indexes):
            for index in indexes.indices where Self.reaches(shift.start, indexes, index) {
                let (block, child) = try child(indexes[index].child, depth: node.depth - 1)
                let entries = try shifted(child, shift, in: handle)
                guard entries.count > 0 else { throw damage("an empty node") }
                if entries != child.entries { try write(entries, depth: child.depth, to: block, handle) }
                // What points at a node says where it begins.
                indexes[index].first = entries.firstKey
            }
            return .inner(indexes)
        }
    }

    /// Whether anything from `start` on may lie below an entry.
    private static func reaches(_ start: UInt64, _ indexes: [ExtentIndex], _ index: Int) -> Bool {
        index + 1 == indexes.count || UInt64(indexes[index + 1].first.rawValue) > start
    }
}
