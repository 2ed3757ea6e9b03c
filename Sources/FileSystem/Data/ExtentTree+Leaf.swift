internal import Ext4Format
internal import Journal

extension ExtentTree {
    /// `replace` where one leaf holds all of the range before and after, as nearly always, and is a block: only what
    /// lies around the range is decoded and encoded. Nil, and nothing has changed, where it takes more.
    func replaceInLeaf(
        _ range: Range<UInt64>, with extents: [Extent], in handle: borrowing Handle
    ) throws(Ext4Error) -> [Extent]? {
        guard let leaf = try leaf(holding: range) else { return nil }
        let window = try leaf.withBytes { bytes throws(Ext4Error) in try ExtentWindow(bytes, around: range) }
        var removed: [Extent] = []
        let changed = Self.spliced(window.extents, range, with: extents, removed: &removed)
        guard window.admits(changed) else { return nil }
        try handle.modify(leaf) { bytes throws(Ext4Error) in
            window.replace(with: changed, in: &bytes)
            if volume.hasChecksums { ExtentNode.seal(&bytes, inode.checksum) }
        }
        return removed
    }

    /// The leaf to which all of `range` belongs, with its order and its place in the tree checked. Nil when that is the
    /// root, or there is none.
    private func leaf(holding range: Range<UInt64>) throws(Ext4Error) -> CachedBlock? {
        try withLeaf(of: FileBlock(UInt32(range.lowerBound))) { bytes, leaf throws(Ext4Error) -> CachedBlock? in
            guard let block = leaf.block, !leaf.isBehind, range.upperBound <= leaf.limit else { return nil }
            guard let keys = try ExtentNode.leafKeys(bytes), keys.lowerBound >= leaf.key,
                keys.upperBound <= leaf.limit
            else { throw damage("node \(block.number.rawValue) is outside of its parent's range") }
            return block
        }
    }
}
