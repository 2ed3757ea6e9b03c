internal import Ext4Format

/// Consecutive blocks of a file that lie one behind the other on the device.
struct MappedRun {
    let first: UInt64
    let blocks: Range<UInt64>
    let isUnwritten: Bool
}

/// What a walk through the mapping of an inode adds up to.
struct MapSummary {
    /// The clusters of data and of the mapping itself.
    var clusterCount: UInt64 = 0
    /// The file block behind the last one that holds data.
    var writtenEnd: UInt64 = 0
    /// The file block behind the last one that is mapped.
    var end: UInt64 = 0
}

/// Extent trees and block maps. Each block that they name gets its owner.
extension Survey {
    /// Gives `visit` the runs in the order of the file.
    func walkMap(
        _ inode: InodeNumber, _ record: InodeRecord, _ checksum: InodeChecksum, _ visit: (MappedRun) -> Void
    ) -> MapSummary {
        var summary = MapSummary()
        let area = record.blockArea
        attempt(.extentTree, inode: inode) { () throws(Ext4Error) in
            guard record.flags.contains(.extents) else {
                guard !superBlock.hasClusters || (0..<InodeRecord.areaByteCount).allSatisfy({ area[$0] == 0 }) else {
                    throw .corrupt("block map", where: "with clusters of several blocks")
                }
                var walk = BlockMapWalk(inode: inode, summary: summary)
                defer { summary = walk.summary }
                return try walkBlockMap(unsafe area.span.bytes, &walk, visit)
            }
            var walk = ExtentWalk(inode: inode, checksum: checksum, summary: summary)
            defer { summary = walk.summary }
            try walkNode(unsafe area.span.bytes, nil, 0, 0..<1 << 32, &walk, visit)
        }
        return summary
    }

    // MARK: - Extent trees

    private struct ExtentWalk {
        let inode: InodeNumber, checksum: InodeChecksum
        var summary: MapSummary
        /// The cluster that the last extent ended in: its first block in the file, and on the device.
        var last: (file: UInt64, device: UInt64)?
    }

    /// `keys` are the file blocks that the parent leaves to this node.
    private func walkNode(
        _ bytes: RawSpan, _ depth: UInt16?, _ block: UInt64, _ keys: Range<UInt64>, _ walk: inout ExtentWalk,
        _ visit: (MappedRun) -> Void
    ) throws(Ext4Error) {
        let node = try ExtentNode(
            decoding: bytes, depth: depth, blockCount: superBlock.blockCount, where: "block \(block)")
        switch node.entries {
        case .leaf(let extents):
            for extent in extents {
                let first = UInt64(extent.first.rawValue)
                guard keys.contains(first), extent.end <= keys.upperBound else {
                    throw .corrupt("extent", where: "file block \(first) under the keys \(keys)")
                }
                take(extent, &walk, visit)
            }
            if depth != nil, extents.first.map({ UInt64($0.first.rawValue) }) != keys.lowerBound {
                throw .corrupt("extent node", where: "block \(block): it does not begin at \(keys.lowerBound)")
            }
        case .inner(let indexes):
            for (position, entry) in indexes.enumerated() {
                let first = UInt64(entry.first.rawValue)
                let isLast = position + 1 == indexes.count
                let next = isLast ? keys.upperBound : UInt64(indexes[position + 1].first.rawValue)
                guard keys.contains(first), next <= keys.upperBound,
                    position > 0 || depth == nil || first == keys.lowerBound
                else { throw .corrupt("extent index", where: "file block \(first) under the keys \(keys)") }
                try walkChild(entry.child.rawValue, node.depth - 1, first..<next, &walk, visit)
            }
        }
    }

    private func walkChild(
        _ block: UInt64, _ depth: UInt16, _ keys: Range<UInt64>, _ walk: inout ExtentWalk, _ visit: (MappedRun) -> Void
    ) throws(Ext4Error) {
        claim(block, 1, walk.inode)
        walk.summary.clusterCount += 1
        try withBlock(block) { bytes throws(Ext4Error) in
            guard !superBlock.hasMetadataChecksums || ExtentNode.isChecksumRight(bytes, walk.checksum) else {
                throw .corrupt("extent node", where: "block \(block): checksum")
            }
            try walkNode(bytes, depth, block, keys, &walk, visit)
        }
    }

    private func take(_ extent: Extent, _ walk: inout ExtentWalk, _ visit: (MappedRun) -> Void) {
        let count = UInt64(extent.count), start = extent.start.rawValue
        claimClusters(of: extent, &walk)
        walk.summary.end = extent.end
        if !extent.isUnwritten { walk.summary.writtenEnd = extent.end }
        visit(
            MappedRun(
                first: UInt64(extent.first.rawValue), blocks: start..<start + count, isUnwritten: extent.isUnwritten))
    }

    /// Extents next to one another in the file may share a cluster of it, and do so on the device then.
    private func claimClusters(of extent: Extent, _ walk: inout ExtentWalk) {
        let first = UInt64(extent.first.rawValue), start = extent.start.rawValue
        let unit = UInt64(superBlock.clusterBlockCount)
        let file = layout.wholeClusters(first..<extent.end)
        let device = layout.wholeClusters(start..<start + UInt64(extent.count))
        let isShared = walk.last.map { $0.file == file.lowerBound } ?? false
        if (first ^ start) & (unit - 1) != 0 || isShared && walk.last?.device != device.lowerBound {
            report(.clusterPlace, inode: walk.inode, block: start, "file block \(first)")
        }
        let low = isShared && walk.last?.device == device.lowerBound ? device.lowerBound + unit : device.lowerBound
        if low < device.upperBound {
            claim(low, device.upperBound - low, walk.inode)
            walk.summary.clusterCount += (device.upperBound - low) >> UInt64(layout.clusterShift)
        }
        walk.last = (file.upperBound - unit, device.upperBound - unit)
    }

    // MARK: - Block maps

    private struct BlockMapWalk {
        let inode: InodeNumber
        var summary: MapSummary
        /// The file block that the next pointer stands for.
        var next: UInt64 = 0

        /// Goes past what a pointer so many levels above the data stands for.
        mutating func skip(_ level: Int, _ perBlock: Int) {
            next += (0..<level).reduce(1) { span, _ in span * UInt64(perBlock) }
        }
    }

    private func walkBlockMap(
        _ area: RawSpan, _ walk: inout BlockMapWalk, _ visit: (MappedRun) -> Void
    ) throws(Ext4Error) {
        for index in 0..<12 { try takePointer(area[LE<UInt32>(4 * index)], 0, &walk, visit) }
        for level in 1...3 { try takePointer(area[LE<UInt32>(4 * (11 + level))], level, &walk, visit) }
    }

    /// `level` counts the blocks of pointers on the way to the data.
    private func takePointer(
        _ pointer: UInt32, _ level: Int, _ walk: inout BlockMapWalk, _ visit: (MappedRun) -> Void
    ) throws(Ext4Error) {
        let perBlock = layout.blockByteCount / 4
        guard pointer != 0 else { return walk.skip(level, perBlock) }
        let block = UInt64(pointer)
        guard isInVolume(block) else {
            report(.blockOutside, inode: walk.inode, block: block, "in a volume of \(superBlock.blockCount)")
            return walk.skip(level, perBlock)
        }
        let isNew = claim(block, 1, walk.inode)
        walk.summary.clusterCount += 1
        guard level > 0 else {
            visit(MappedRun(first: walk.next, blocks: block..<block + 1, isUnwritten: false))
            walk.next += 1
            walk.summary.end = walk.next
            walk.summary.writtenEnd = walk.next
            return
        }
        // Walked before: a block that leads to itself would be walked a million times.
        guard isNew else { return walk.skip(level, perBlock) }
        try withBlock(block) { bytes throws(Ext4Error) in
            for index in 0..<perBlock { try takePointer(bytes[LE<UInt32>(4 * index)], level - 1, &walk, visit) }
        }
    }
}
