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
        let blockCount = volume.superBlock.blockCount, target = FileBlock(UInt32(range.lowerBound))
        let record = inode.record
        guard record.flags.contains(.extents) else { throw damage("no extents") }
        var hit = try record.withArea { bytes throws(Ext4Error) in
            try ExtentNode.search(
                bytes, for: target, depth: nil, blockCount: blockCount, where: "inode \(inode.number.rawValue), root")
        }
        var limit: UInt64 = 1 << 32
        while case .child(let number, let depth, let key, let next) = hit {
            limit = next ?? limit
            let node = try verifiedNode(number, depth: depth)
            guard depth == 0 else {
                hit = try node.withBytes { bytes throws(Ext4Error) in
                    try ExtentNode.search(
                        bytes, for: target, depth: depth, blockCount: blockCount, where: place(of: number))
                }
                continue
            }
            guard range.lowerBound >= UInt64(key.rawValue), range.upperBound <= limit else { return nil }
            let keys = try node.withBytes { bytes throws(Ext4Error) in try ExtentNode.leafKeys(bytes) }
            guard let keys, keys.lowerBound >= UInt64(key.rawValue), keys.upperBound <= limit else {
                throw damage("node \(number.rawValue) is outside of its parent's range")
            }
            return node
        }
        return nil
    }
}
