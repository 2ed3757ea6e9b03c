extension ExtentNode {
    /// Where a search in one node leads.
    package enum Hit: Equatable, Sendable {
        /// The block lies in this extent.
        case extent(Extent)
        /// A leaf says that nothing is mapped from `from` on; the next extent of the leaf, if any, begins at `next`.
        case hole(from: UInt64, next: UInt64?)
        /// An inner node names the child to go on with, and the child's key; the node's next key, if any, is `next`.
        case child(FSBlock, depth: UInt16, from: FileBlock, next: UInt64?)
    }

    /// Finds `block` in the bytes of a node, by halves, without decoding the rest: what every read and every look into
    /// a directory does. What is found is checked by itself; the order of a whole node is checked by `init(decoding:)`.
    package static func search(
        _ bytes: RawSpan, for block: FileBlock, depth expected: UInt16?, blockCount: UInt64,
        where place: @autoclosure () -> String
    ) throws(Ext4Error) -> Hit {
        let head = try header(bytes)
        guard head.depth <= maximumDepth, expected == nil || head.depth == expected else {
            throw .corrupt("extent node", where: "\(place()): depth \(head.depth)")
        }
        let low = firstEntry(bytes, head.count) { $0 > UInt64(block.rawValue) }
        let next = low < head.count ? UInt64(bytes[LE<UInt32>(headerByteCount + low * entryByteCount)]) : nil
        if head.depth > 0 {
            // A block before the first key belongs to the first child.
            guard head.count > 0 else { throw .corrupt("extent node", where: "\(place()): empty inner node") }
            let entry = index(bytes, at: max(low - 1, 0))
            guard entry.child.rawValue > 0, entry.child.rawValue < blockCount else {
                throw .corrupt("extent index", where: "\(place()): entry \(max(low - 1, 0))")
            }
            let following = low == 0 ? secondKey(bytes, head.count) : next
            return .child(entry.child, depth: head.depth - 1, from: entry.first, next: following)
        }
        guard low > 0 else { return .hole(from: 0, next: next) }
        let extent = extent(bytes, at: low - 1)
        guard extent.count > 0, extent.end <= 1 << 32, extent.start.rawValue > 0, extent.start.rawValue < blockCount,
            UInt64(extent.count) <= blockCount - extent.start.rawValue
        else { throw .corrupt("extent", where: "\(place()): entry \(low - 1)") }
        return UInt64(block.rawValue) < extent.end ? .extent(extent) : .hole(from: extent.end, next: next)
    }

    /// The first of `count` entries whose key `isBehind`, by halves.
    static func firstEntry(_ bytes: RawSpan, _ count: Int, where isBehind: (UInt64) -> Bool) -> Int {
        var low = 0, high = count
        while low < high {
            let middle = (low + high) / 2
            if isBehind(UInt64(bytes[LE<UInt32>(headerByteCount + middle * entryByteCount)])) {
                high = middle
            } else {
                low = middle + 1
            }
        }
        return low
    }

    /// From the first key of a leaf to the end of its last extent; nil when it is empty.
    package static func leafKeys(_ bytes: RawSpan) throws(Ext4Error) -> Range<UInt64>? {
        let head = try header(bytes)
        guard head.count > 0 else { return nil }
        let first = extent(bytes, at: 0), last = extent(bytes, at: head.count - 1)
        return UInt64(first.first.rawValue)..<max(last.end, UInt64(first.first.rawValue))
    }

    private static func secondKey(_ bytes: RawSpan, _ count: Int) -> UInt64? {
        count > 1 ? UInt64(bytes[LE<UInt32>(headerByteCount + entryByteCount)]) : nil
    }
}
