internal import Ext4Format
internal import Journal

/// The way from the root of an index to one leaf.
struct IndexPath {
    struct Step {
        let block: CachedBlock
        var index: DirectoryIndex
        /// The entry that was taken.
        var position: Int
    }
    /// From the root down; never empty, and no longer than the volume's features allow.
    var steps: [Step]
    var leaf: FileBlock
    /// Where the names of the leaf begin; 0 for the first leaf. Odd when names continue from the leaf before.
    var start: UInt32

    var version: DirectoryHash.Version {
        guard let root = steps.first?.index.root else { preconditionFailure("a path starts at a root") }
        return root.version
    }
}

extension Directory {
    /// How many leaves may share one hash. Chance never makes a second one; an image with more is hostile, and
    /// following all of them for each name would take for ever.
    static var chainLimit: Int { 256 }

    /// The path to the leaf where names with this (even) hash begin.
    func descend(
        to hash: UInt32, from root: (block: CachedBlock, index: DirectoryIndex, version: DirectoryHash.Version)
    ) throws(Ext4Error) -> IndexPath {
        guard let levels = root.index.root?.levels else { preconditionFailure("decoded as a root") }
        var path = IndexPath(steps: [], leaf: FileBlock(0), start: 0)
        path.steps.reserveCapacity(levels + 1)
        var (block, index) = (root.block, root.index)
        for level in 0...levels {
            let (position, start, child) = try block.withBytes { bytes throws(Ext4Error) in
                let position = format.position(of: hash, bytes, index)
                let start = position > 0 ? format.hash(bytes, index, at: position) : nil
                return (position, start, try format.child(bytes, index, at: position, in: block.number))
            }
            path.steps.append(IndexPath.Step(block: block, index: index, position: position))
            if let start { path.start = start }
            path.leaf = child
            if level < levels { (block, index) = try node(child) }
        }
        return path
    }

    private func node(_ number: FileBlock) throws(Ext4Error) -> (CachedBlock, DirectoryIndex) {
        let block = try indexBlock(number)
        let index = try block.withBytes { bytes throws(Ext4Error) in try format.indexNode(bytes, in: block.number) }
        return (block, index)
    }

    /// Where the names of the leaf after this one begin; nil when it is the last.
    func followingStart(_ path: IndexPath) throws(Ext4Error) -> UInt32? {
        guard let step = path.steps.last(where: { $0.position + 1 < $0.index.count }) else { return nil }
        return try step.block.withBytes { bytes throws(Ext4Error) in
            format.hash(bytes, step.index, at: step.position + 1)
        }
    }

    /// Goes to the next leaf in hash order; false at the end.
    func advance(_ path: inout IndexPath) throws(Ext4Error) -> Bool {
        guard let level = path.steps.lastIndex(where: { $0.position + 1 < $0.index.count }),
            let start = try followingStart(path)
        else { return false }
        path.start = start
        path.steps[level].position += 1
        for below in level..<path.steps.count {
            let step = path.steps[below]
            path.leaf = try step.block.withBytes { bytes throws(Ext4Error) in
                try format.child(bytes, step.index, at: step.position, in: step.block.number)
            }
            guard below + 1 < path.steps.count else { break }
            let (block, index) = try node(path.leaf)
            path.steps[below + 1] = IndexPath.Step(block: block, index: index, position: 0)
        }
        return true
    }

    /// Goes to the next leaf if names with the (even) hash may continue there.
    func advance(_ path: inout IndexPath, continuing hash: UInt32) throws(Ext4Error) -> Bool {
        guard try followingStart(path) == hash | 1 else { return false }
        return try advance(&path)
    }

    /// Where `name` is, in the leaf of the path or those that continue it. The path moves along.
    func locate(_ name: FileName, along path: inout IndexPath) throws(Ext4Error) -> Location? {
        let hash = hash(name.bytes, path.version).major
        for _ in 0..<Self.chainLimit {
            if let found = try locate(name, in: path.leaf, leaf(path.leaf, isFirst: false)) { return found }
            guard try advance(&path, continuing: hash) else { return nil }
        }
        throw corrupt("more than \(Self.chainLimit) leaves share one hash")
    }
}
