internal import Allocator
internal import Ext4Format
internal import Journal

/// The extent tree of one inode. The caller holds the mapping lock: read for `find`, write for all else.
struct ExtentTree {
    let volume: Volume
    let inode: Inode

    typealias Piece = FileMap.Piece

    /// One node on the way from the root to a leaf.
    private struct Step {
        /// nil for the root, which lies in the inode.
        var block: CachedBlock?
        var node: ExtentNode
        /// The entry that was followed, or for a leaf the last one that starts at or before the block sought; -1: none.
        var index: Int
        /// The first file block behind what this node may hold.
        var limit: UInt64
    }

    // MARK: Reading

    /// The piece that holds `block`.
    func find(_ block: FileBlock) throws(Ext4Error) -> Piece {
        try withLeaf(of: block) { bytes, leaf throws(Ext4Error) in try piece(at: block, bytes, of: leaf) }
    }

    /// Appends the pieces from `next` on to `result`, up to `end` or to the end of the leaf that `next` belongs to, and
    /// moves `next` behind them.
    func appendPieces(from next: inout UInt64, to end: UInt64, _ result: inout [Piece]) throws(Ext4Error) {
        var block = next
        defer { next = block }
        try withLeaf(of: FileBlock(UInt32(block))) { bytes, leaf throws(Ext4Error) in
            repeat {
                let found = try piece(at: FileBlock(UInt32(block)), bytes, of: leaf)
                result.append(found)
                block = found.range.upperBound
            } while block < min(end, leaf.limit)
        }
    }

    /// A leaf, and which blocks its parents leave to it.
    struct Leaf {
        /// nil for the root.
        let block: CachedBlock?
        let key: UInt64, limit: UInt64
        /// Whether what was sought comes before the first key of a node on the way.
        let isBehind: Bool
        var number: FSBlock? { block?.number }
    }

    /// What a leaf says of one of its blocks; `.corrupt` when that reaches past the leaf.
    private func piece(at block: FileBlock, _ bytes: RawSpan, of leaf: Leaf) throws(Ext4Error) -> Piece {
        let target = UInt64(block.rawValue), found: Piece
        switch try search(bytes, for: block, depth: 0, leaf.number) {
        case .extent(let extent): found = .extent(extent)
        case .hole(let start, let next):
            found = .hole(min(max(start, leaf.key), target)..<max(next ?? leaf.limit, target + 1))
        case .child: throw damage("inner node at depth 0")
        }
        guard found.range.upperBound <= max(leaf.limit, target + 1) else {
            throw damage("a leaf goes on behind block \(leaf.limit), where the next one begins")
        }
        return found
    }

    /// `depth` nil and `number` nil: the root.
    private func search(
        _ node: RawSpan, for block: FileBlock, depth: UInt16?, _ number: FSBlock?
    ) throws(Ext4Error) -> ExtentNode.Hit {
        try ExtentNode.search(
            node, for: block, depth: depth, blockCount: volume.superBlock.blockCount,
            where: number.map { place(of: $0) } ?? "inode \(inode.number.rawValue), root")
    }

    /// The nodes on the way to `block`, without the root: with its last extent a leaf goes as well, and who leads to it
    /// alone.
    func nodes(to block: UInt64) throws(Ext4Error) -> [FSBlock] {
        var nodes: [FSBlock] = []
        try withLeaf(of: FileBlock(UInt32(block)), through: { nodes.append($0) }) { _, _ in }
        return nodes
    }

    /// Hands out the leaf that `block` belongs to, and before that the nodes on the way to it.
    func withLeaf<R>(
        of block: FileBlock, through: (FSBlock) -> Void = { _ in }, _ body: (RawSpan, Leaf) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        var key: UInt64 = 0, limit = FileBlock.end, isBehind = false
        let record = inode.record
        guard record.flags.contains(.extents) else { throw damage("no extents") }
        var hit = try record.withArea { bytes throws(Ext4Error) in try search(bytes, for: block, depth: nil, nil) }
        while case .child(let number, let depth, let from, let next) = hit {
            // Before the first key there is nothing, and it is the first child that says so.
            if from <= block { key = max(key, UInt64(from.rawValue)) } else { isBehind = true }
            limit = min(limit, next ?? limit)
            let node = try verifiedNode(number, depth: depth)
            through(number)
            if depth == 0 {
                return try node.withBytes { bytes throws(Ext4Error) in
                    try body(bytes, Leaf(block: node, key: key, limit: limit, isBehind: isBehind))
                }
            }
            hit = try node.withBytes { bytes throws(Ext4Error) in
                try search(bytes, for: block, depth: depth, number)
            }
        }
        return try record.withArea { bytes throws(Ext4Error) in
            try body(bytes, Leaf(block: nil, key: key, limit: limit, isBehind: isBehind))
        }
    }

    /// The last extent before file block `end`, cut there; nil when there is none.
    func last(before end: UInt64) throws(Ext4Error) -> Extent? {
        var end = end
        while end > 0 {
            let path = try path(to: FileBlock(UInt32(end - 1)))
            let leaf = path[path.count - 1]
            guard case .leaf(let extents) = leaf.node.entries else { throw damage("inner node at depth 0") }
            if leaf.index >= 0 {
                let extent = extents[leaf.index], first = UInt64(extent.first.rawValue)
                return extent.part(first..<min(extent.end, end))
            }
            // The extents of this leaf begin behind its key: what is sought is in an earlier one.
            guard let step = path.last(where: { $0.index > 0 }), case .inner(let indexes) = step.node.entries else {
                return nil
            }
            end = UInt64(indexes[step.index].first.rawValue)
        }
        return nil
    }

    func damage(_ what: String) -> Ext4Error {
        .corrupt("extent tree", where: "inode \(inode.number.rawValue): \(what)")
    }

    func place(of node: FSBlock) -> String { "inode \(inode.number.rawValue), block \(node.rawValue)" }

    func root() throws(Ext4Error) -> ExtentNode {
        let record = inode.record
        guard record.flags.contains(.extents) else { throw damage("no extents") }
        return try record.withArea { bytes throws(Ext4Error) in
            try ExtentNode(
                decoding: bytes, depth: nil, blockCount: volume.superBlock.blockCount,
                where: "inode \(inode.number.rawValue), root")
        }
    }

    func child(_ number: FSBlock, depth: UInt16) throws(Ext4Error) -> (block: CachedBlock, node: ExtentNode) {
        let block = try verifiedNode(number, depth: depth)
        return (block, try block.withBytes { bytes throws(Ext4Error) in try decoded(bytes, number, depth) })
    }

    /// The block of a node, its checksum and its order checked when it was read.
    func verifiedNode(_ number: FSBlock, depth: UInt16) throws(Ext4Error) -> CachedBlock {
        guard !volume.blocks.isSystemBlock(BlockRun(start: number, count: 1)) else {
            throw damage("a node in the system block \(number.rawValue)")
        }
        let block = try volume.cache.block(number)
        try block.verifyOnce { bytes throws(Ext4Error) in
            guard !volume.hasChecksums || ExtentNode.isChecksumRight(bytes, inode.checksum) else {
                throw .corrupt("extent node checksum", where: place(of: number))
            }
            _ = try decoded(bytes, number, depth)
        }
        return block
    }

    private func decoded(_ bytes: RawSpan, _ number: FSBlock, _ depth: UInt16) throws(Ext4Error) -> ExtentNode {
        try ExtentNode(
            decoding: bytes, depth: depth, blockCount: volume.superBlock.blockCount, where: place(of: number))
    }

    /// The nodes from the root to the leaf that `block` belongs to. Depth strictly falls, so this ends.
    private func path(to block: FileBlock) throws(Ext4Error) -> [Step] {
        var steps = [Self.step(nil, try root(), block, limit: FileBlock.end)]
        while case .inner(let indexes) = steps[steps.count - 1].node.entries {
            let step = steps[steps.count - 1]
            let limit = step.index + 1 < indexes.count ? UInt64(indexes[step.index + 1].first.rawValue) : step.limit
            let (childBlock, node) = try child(indexes[step.index].child, depth: step.node.depth - 1)
            guard let keys = node.entries.keys, keys.lowerBound >= UInt64(indexes[step.index].first.rawValue),
                keys.upperBound <= limit
            else { throw damage("node \(childBlock.number.rawValue) is outside of its parent's range") }
            steps.append(Self.step(childBlock, node, block, limit: limit))
        }
        return steps
    }

    private static func step(_ block: CachedBlock?, _ node: ExtentNode, _ target: FileBlock, limit: UInt64) -> Step {
        switch node.entries {
        case .leaf(let extents):
            let after = extents.partitioningIndex { $0.first > target }
            return Step(block: block, node: node, index: after - 1, limit: limit)
        case .inner(let indexes):
            // A block before the first key belongs to the first child: its key is lowered when it gets there.
            let after = indexes.partitioningIndex { $0.first > target }
            return Step(block: block, node: node, index: max(after - 1, 0), limit: limit)
        }
    }

    // MARK: Changing

    /// Blocks that `replace` may take for new nodes, and blocks it may change, with `extents` put in.
    static func nodesNeeded(depth: UInt16) -> UInt64 { UInt64(depth) + 2 }
    static func creditsNeeded(depth: UInt16) -> Int { 4 * (Int(depth) + 2) + 2 }
    var depth: UInt16 { get throws(Ext4Error) { try root().depth } }

    /// The most extents that one `replace` may put in: with them a full leaf still splits into two.
    static let replacementLimit = 32

    /// Unmaps `range` and maps `extents` (sorted, inside the range) instead. Answers the runs that are no longer
    /// mapped, without those of emptied tree nodes, which it frees itself. Nodes come from `space`; `i_blocks` follows
    /// nodes only.
    func replace(
        _ range: Range<UInt64>, with extents: [Extent], from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> [Extent] {
        precondition(extents.count <= Self.replacementLimit)
        inode.places.forget()
        if let removed = try replaceInLeaf(range, with: extents, in: handle) { return removed }
        var removed: [Extent] = []
        var rest = extents[...]
        var next = range.lowerBound
        repeat {
            var path = try path(to: FileBlock(UInt32(next)))
            let leaf = path[path.count - 1]
            let end = min(range.upperBound, max(leaf.limit, next + 1))
            let mine = rest.prefix { UInt64($0.first.rawValue) < end }
            rest = rest.dropFirst(mine.count)
            guard case .leaf(let old) = leaf.node.entries else { throw damage("inner node at depth 0") }
            let changed = Self.spliced(old, next..<end, with: Array(mine), removed: &removed)
            try store(.leaf(changed), at: path.count - 1, &path, from: space, in: handle)
            next = end
        } while next < range.upperBound
        return removed
    }

    /// `old` with `range` cut out and `extents` put in, neighbours merged.
    static func spliced(
        _ old: [Extent], _ range: Range<UInt64>, with extents: [Extent], removed: inout [Extent]
    ) -> [Extent] {
        var result: [Extent] = []
        result.reserveCapacity(old.count + extents.count + 1)
        func add(_ extent: Extent) {
            if let last = result.last, let merged = last.merged(with: extent) {
                result[result.count - 1] = merged
            } else {
                result.append(extent)
            }
        }
        for extent in old {
            let first = UInt64(extent.first.rawValue)
            if first < range.lowerBound { add(extent.part(first..<min(extent.end, range.lowerBound))) }
            let low = max(first, range.lowerBound), high = min(extent.end, range.upperBound)
            if low < high { removed.append(extent.part(low..<high)) }
        }
        for extent in extents { add(extent) }
        for extent in old where extent.end > range.upperBound {
            add(extent.part(max(UInt64(extent.first.rawValue), range.upperBound)..<extent.end))
        }
        return result
    }

    /// Writes new entries into the node at `level` of the path: splits it, grows the tree or removes it as needed.
    private func store(
        _ entries: ExtentNode.Entries, at level: Int, _ path: inout [Step], from space: BlockReservation,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        if level == 0 {
            if entries.count <= path[0].node.capacity {
                return try writeRoot(entries, depth: path[0].node.depth, handle)
            }
            return try grow(entries, depth: path[0].node.depth, from: space, in: handle)
        }
        guard case .inner(var parents) = path[level - 1].node.entries else { throw damage("leaf above a node") }
        let at = path[level - 1].index
        if entries.count == 0 {
            try freeNode(parents[at].child, handle)
            parents.remove(at: at)
            return try storeShrunk(parents, at: level - 1, &path, from: space, in: handle)
        }
        let capacity = path[level].node.capacity
        let (left, right) =
            entries.count <= capacity
            ? (entries, nil) : entries.split(isAtEnd: at == parents.count - 1, capacity: capacity)
        try write(left, depth: path[level].node.depth, to: path[level].block, handle)
        let oldKey = parents[at].first
        parents[at].first = left.firstKey
        if let right {
            let block = try newNode(near: parents[at].child, from: space, in: handle)
            try write(right, depth: path[level].node.depth, to: block, handle)
            parents.insert(ExtentIndex(first: right.firstKey, child: block.number), at: at + 1)
        } else if oldKey == parents[at].first {
            return
        }
        try store(.inner(parents), at: level - 1, &path, from: space, in: handle)
    }

    /// An inner node that lost a child. A root that lost its last one becomes an empty leaf.
    private func storeShrunk(
        _ indexes: [ExtentIndex], at level: Int, _ path: inout [Step], from space: BlockReservation,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        if indexes.isEmpty && level == 0 { return try writeRoot(.leaf([]), depth: 0, handle) }
        try store(.inner(indexes), at: level, &path, from: space, in: handle)
    }

    /// Moves what the root should hold into a block of its own, and makes the root point at it.
    private func grow(
        _ entries: ExtentNode.Entries, depth: UInt16, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        guard depth < ExtentNode.maximumDepth else { throw damage("deeper than \(ExtentNode.maximumDepth)") }
        let goal = entries.firstBlock
        let block = try newNode(near: goal, from: space, in: handle)
        let capacity = ExtentNode.capacity(byteCount: volume.blockByteCount - 4)
        if entries.count <= capacity {
            try write(entries, depth: depth, to: block, handle)
            return try writeRoot(
                .inner([ExtentIndex(first: entries.firstKey, child: block.number)]), depth: depth + 1, handle)
        }
        let (left, right) = entries.split(isAtEnd: false, capacity: capacity)
        guard let right else { throw damage("split of a small node") }
        let second = try newNode(near: goal, from: space, in: handle)
        try write(left, depth: depth, to: block, handle)
        try write(right, depth: depth, to: second, handle)
        let indexes = [
            ExtentIndex(first: left.firstKey, child: block.number),
            ExtentIndex(first: right.firstKey, child: second.number),
        ]
        try writeRoot(.inner(indexes), depth: depth + 1, handle)
    }

    func writeRoot(_ entries: ExtentNode.Entries, depth: UInt16, _ handle: borrowing Handle) throws(Ext4Error) {
        let capacity = ExtentNode.capacity(byteCount: InodeRecord.areaByteCount)
        let node = ExtentNode(depth: depth, capacity: capacity, entries: entries)
        try inode.update(in: handle, volume) { record throws(Ext4Error) in
            record.withMutableArea { node.encode(into: &$0) }
        }
    }

    func write(
        _ entries: ExtentNode.Entries, depth: UInt16, to block: CachedBlock?, _ handle: borrowing Handle
    ) throws(Ext4Error) {
        guard let block else { preconditionFailure("only the root has no block") }
        let capacity = ExtentNode.capacity(byteCount: volume.blockByteCount - 4)
        let node = ExtentNode(depth: depth, capacity: capacity, entries: entries)
        try handle.modify(block) { bytes throws(Ext4Error) in
            node.encode(into: &bytes)
            if volume.hasChecksums { ExtentNode.seal(&bytes, inode.checksum) }
        }
    }

    private func newNode(
        near goal: FSBlock, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> CachedBlock {
        let number = try volume.blocks.allocate(goal: goal, from: space, in: handle)
        try adjustClusterCount(by: 1, in: handle)
        return try handle.create(number)
    }

    private func freeNode(_ number: FSBlock, _ handle: borrowing Handle) throws(Ext4Error) {
        try handle.revoke(number)
        try volume.free(BlockRun(start: number, count: 1), in: handle)
        try adjustClusterCount(by: -1, in: handle)
    }

    private func adjustClusterCount(by count: Int64, in handle: borrowing Handle) throws(Ext4Error) {
        try inode.update(in: handle, volume) { record throws(Ext4Error) in
            record.addClusters(count, volume.superBlock)
        }
    }
}

extension InodeRecord {
    /// `i_blocks` counts whole clusters, in 512-byte units, or in blocks for files that are huge.
    mutating func addClusters(_ count: Int64, _ superBlock: SuperBlock) {
        let blocks = count * Int64(superBlock.clusterBlockCount)
        let units = flags.contains(.hugeFile) ? blocks : blocks * Int64(superBlock.blockByteCount / 512)
        blockCount = blockCount.addingReportingOverflow(UInt64(bitPattern: units)).partialValue
    }

    /// A file without blocks, mapped by extents.
    mutating func makeEmptyExtentRoot() {
        flags.insert(.extents)
        let node = ExtentNode(
            depth: 0, capacity: ExtentNode.capacity(byteCount: Self.areaByteCount), entries: .leaf([]))
        withMutableArea { area in
            area.fill(0..<Self.areaByteCount, with: 0)
            node.encode(into: &area)
        }
    }
}

extension Extent {
    /// The part of the extent that covers `range` of the file, which lies inside.
    func part(_ range: Range<UInt64>) -> Extent {
        let skip = range.lowerBound - UInt64(first.rawValue)
        return Extent(
            first: FileBlock(UInt32(range.lowerBound)), count: UInt32(range.upperBound - range.lowerBound),
            start: start + skip, isUnwritten: isUnwritten)
    }

    /// Both as one, when the other follows at once in the file and on the device and the lengths fit.
    func merged(with next: Extent) -> Extent? {
        guard end == UInt64(next.first.rawValue), start.rawValue + UInt64(count) == next.start.rawValue,
            isUnwritten == next.isUnwritten,
            count + next.count <= (isUnwritten ? Extent.maximumUnwritten : Extent.maximumWritten)
        else { return nil }
        return Extent(first: first, count: count + next.count, start: start, isUnwritten: isUnwritten)
    }
}

extension ExtentNode.Entries {
    /// Of entries that are not empty.
    var firstKey: FileBlock {
        switch self {
        case .leaf(let extents): extents[0].first
        case .inner(let indexes): indexes[0].first
        }
    }

    /// The file blocks from the first key on to the end of the last entry, as far as the node itself tells. Nil: empty.
    var keys: Range<UInt64>? {
        switch self {
        case .leaf(let extents):
            guard let first = extents.first, let last = extents.last else { return nil }
            return UInt64(first.first.rawValue)..<last.end
        case .inner(let indexes):
            guard let first = indexes.first, let last = indexes.last else { return nil }
            return UInt64(first.first.rawValue)..<UInt64(last.first.rawValue) + 1
        }
    }

    var firstBlock: FSBlock {
        switch self {
        case .leaf(let extents): extents[0].start
        case .inner(let indexes): indexes[0].child
        }
    }

    /// Two halves; at the right edge of the tree the left node is filled, since files grow at their end.
    func split(isAtEnd: Bool, capacity: Int) -> (left: Self, right: Self?) {
        let middle = isAtEnd && count <= capacity + capacity / 4 ? min(capacity, count - 1) : count / 2
        switch self {
        case .leaf(let extents): return (.leaf(Array(extents[..<middle])), .leaf(Array(extents[middle...])))
        case .inner(let indexes): return (.inner(Array(indexes[..<middle])), .inner(Array(indexes[middle...])))
        }
    }
}
