/// Some neighbouring entries of a leaf, with which a change of one file range can be carried out without decoding the
/// rest of the leaf.
package struct ExtentWindow {
    /// Of the leaf.
    private let count: Int, capacity: Int
    private let entries: Range<Int>
    package let extents: [Extent]

    /// What overlaps `range` in a leaf, and one entry more at each side. `.corrupt` when these do not follow each
    /// other: a leaf was checked when it was read, but on a damaged image another file may have the same block.
    package init(_ leaf: RawSpan, around range: Range<UInt64>) throws(Ext4Error) {
        let head = try ExtentNode.header(leaf)
        (count, capacity) = (head.count, head.capacity)
        // The last that begins before the range may reach into it.
        let first = ExtentNode.firstEntry(leaf, head.count) { $0 >= range.lowerBound }
        let end = ExtentNode.firstEntry(leaf, head.count) { $0 >= range.upperBound }
        entries = max(first - 2, 0)..<min(max(end, first) + 1, head.count)
        extents = entries.map { ExtentNode.extent(leaf, at: $0) }
        var reached: UInt64 = 0
        for extent in extents {
            guard extent.count > 0, extent.first.rawValue >= reached, extent.end <= 1 << 32 else {
                throw .corrupt("extent leaf", where: "entries around file block \(range.lowerBound)")
            }
            reached = extent.end
        }
    }

    /// Whether `others` may take the place of the entries without a change above the leaf: they fit, and the leaf still
    /// begins where it did.
    package func admits(_ others: [Extent]) -> Bool {
        count - entries.count + others.count <= capacity
            && (entries.lowerBound > 0 || !others.isEmpty && others.first?.first == extents.first?.first)
    }

    /// Puts `others`, which `admits` has accepted, in the place of the entries. The checksum is the caller's matter.
    package func replace(with others: [Extent], in leaf: inout MutableRawSpan) {
        let size = ExtentNode.entryByteCount
        func offset(_ entry: Int) -> Int { ExtentNode.headerByteCount + entry * size }
        leaf.move(
            from: offset(entries.upperBound), to: offset(entries.lowerBound + others.count),
            count: (count - entries.upperBound) * size)
        for (index, extent) in others.enumerated() {
            ExtentNode.put(extent, at: entries.lowerBound + index, into: &leaf)
        }
        ExtentNode.setCount(count - entries.count + others.count, in: &leaf)
    }
}
