internal import Allocator
internal import Ext4Format
internal import Journal

// Clusters of several blocks (bigalloc). A file gets and gives back whole clusters, and maps as many of their blocks as
// it likes. The file is cut into clusters too, and a block has the same place in both: so what one block of a cluster
// is mapped to says where the others go, and two files never meet in a cluster.

extension VolumeLayout {
    /// Where a block of a file lies when `other`, of the same cluster of the file, lies at `start`. `.corrupt` when the
    /// two numbers do not have the same place in their clusters.
    fileprivate func place(of block: UInt64, beside other: UInt64, at start: FSBlock) throws(Ext4Error) -> FSBlock {
        guard (start.rawValue ^ other) & UInt64(superBlock.clusterBlockCount - 1) == 0 else {
            throw .corrupt("extent", where: "file block \(other) in block \(start.rawValue) is out of its cluster")
        }
        return FSBlock(start.rawValue + block - other)
    }

    /// The clusters that so many blocks of a file touch.
    func clusterCount(of blocks: Range<UInt64>) -> UInt64 {
        let whole = wholeClusters(blocks)
        return (whole.upperBound - whole.lowerBound) >> UInt64(clusterShift)
    }
}

extension MappingCore {
    /// What lies in `range`, with the holes whose cluster the file has already as `.implied`. The caller holds the
    /// range lock of their clusters.
    func piecesToWrite(_ range: Range<UInt64>) throws(Ext4Error) -> [Mapping] {
        let layout = volume.layout
        guard layout.clusterShift > 0 else { return try begin(reading: range) }
        let around = try begin(reading: layout.wholeClusters(range))
        var result: [Mapping] = []
        var next = 0
        while next < around.count {
            // A hole may come in pieces.
            let end = around[next...].firstIndex { $0.target != .hole } ?? around.count
            if end > next {
                let hole = around[next].range.lowerBound..<around[end - 1].range.upperBound
                result += try parts(of: hole, next > 0 ? around[next - 1] : nil, end < around.count ? around[end] : nil)
            }
            if end < around.count { result.append(around[end]) }
            next = end + 1
        }
        return result.compactMap { $0.range.overlaps(range) ? $0.part($0.range.clamped(to: range)) : nil }
    }

    /// A hole, cut where the clusters of its neighbours end.
    private func parts(of hole: Range<UInt64>, _ before: Mapping?, _ after: Mapping?) throws(Ext4Error) -> [Mapping] {
        var low = hole.lowerBound, high = hole.upperBound
        var first: Mapping?, last: Mapping?
        let edges = (
            low: min(volume.layout.wholeClusters(low..<low).upperBound, high),
            high: volume.layout.wholeClusters(high..<high).lowerBound
        )
        if low < edges.low, let before, let start = before.target.start {
            let place = try volume.layout.place(of: low, beside: before.range.lowerBound, at: start)
            first = Mapping(range: low..<edges.low, target: .implied(place))
            low = edges.low
        }
        if max(low, edges.high) < high, let after, let start = after.target.start {
            let edge = max(low, edges.high)
            let place = try volume.layout.place(of: edge, beside: after.range.lowerBound, at: start)
            last = Mapping(range: edge..<high, target: .implied(place))
            high = edge
        }
        let middle = low < high ? Mapping(range: low..<high, target: .hole) : nil
        return [first, middle, last].compactMap { $0 }
    }
}

extension FileMap {
    /// Where a block goes because the inode has its cluster already; nil when it does not. Blocks of their own make
    /// clusters of one.
    func impliedPlace(of block: UInt64, _ layout: VolumeLayout) throws(Ext4Error) -> FSBlock? {
        guard layout.clusterShift > 0 else { return nil }
        for case .extent(let extent) in try pieces(layout.wholeClusters(block..<block + 1)) {
            return try layout.place(of: block, beside: UInt64(extent.first.rawValue), at: extent.start)
        }
        return nil
    }

    /// Throws what the search for shared clusters would (`Volume.free`), after `extent` is no longer mapped.
    func checkClusters(of extent: Extent, _ layout: VolumeLayout) throws(Ext4Error) {
        let blocks = UInt64(extent.first.rawValue)..<extent.end, whole = layout.wholeClusters(blocks)
        guard layout.clusterShift > 0 else { return }
        _ = try layout.place(of: blocks.lowerBound, beside: blocks.lowerBound, at: extent.start)
        _ = try pieces(whole.lowerBound..<blocks.lowerBound) + pieces(blocks.upperBound..<whole.upperBound)
    }

    /// Whether any block of a cluster of the file is mapped into the cluster at `start`.
    func isMapped(_ cluster: Range<UInt64>, into start: UInt64) throws(Ext4Error) -> Bool {
        try pieces(cluster).contains { piece in
            guard case .extent(let extent) = piece else { return false }
            let place = extent.part(piece.range.clamped(to: cluster)).start.rawValue
            return (start..<start + UInt64(cluster.count)).contains(place)
        }
    }
}

extension Volume {
    /// Of the clusters that an inode was mapped to in `extent`, and is no longer, those that it has no block of any
    /// more; nil: none. And whether it has blocks of another. `done` is the first block of a cluster that is not asked
    /// for, since it has been dealt with.
    func emptyClusters(
        of extent: Extent, _ inode: Inode, but done: UInt64?
    ) throws(Ext4Error) -> (run: BlockRun?, keepsOthers: Bool) {
        guard layout.clusterShift > 0 else { return (BlockRun(start: extent.start, count: extent.count), false) }
        let unit = UInt64(superBlock.clusterBlockCount), map = FileMap(self, inode)
        let blocks = UInt64(extent.first.rawValue)..<extent.end, file = layout.wholeClusters(blocks)
        let device = layout.wholeClusters(extent.start.rawValue..<extent.start.rawValue + UInt64(extent.count))
        var low = device.lowerBound, high = device.upperBound
        var keepsOthers = false
        if low == done {
            low += unit
        } else if file.lowerBound < blocks.lowerBound,
            try map.isMapped(file.lowerBound..<file.lowerBound + unit, into: low)
        {
            low += unit
            keepsOthers = true
        }
        if blocks.upperBound < file.upperBound, low < high,
            try map.isMapped(file.upperBound - unit..<file.upperBound, into: high - unit)
        {
            high -= unit
            keepsOthers = true
        }
        return (low < high ? BlockRun(start: FSBlock(low), count: UInt32(high - low)) : nil, keepsOthers)
    }

    /// Notes that an inode gives up blocks of a cluster that it keeps.
    func noteCutCluster(of inode: Inode, in handle: borrowing Handle) {
        let number = inode.number.rawValue, transaction = handle.transaction
        guard cutClusters.withLock({ $0.updateValue(transaction, forKey: number) }) != transaction else { return }
        handle.onCommit { [cutClusters] in
            cutClusters.withLock { if $0[number] == transaction { $0[number] = nil } }
        }
    }

    /// Returns when what an inode gave up of its clusters is given up on the medium. Blocks go back to all through the
    /// allocator, after a commit; those of a cluster that is kept do not, and what is written to them before would show
    /// after a crash in the data that was there. No handle is open.
    func settleCutClusters(of inode: Inode) throws(Ext4Error) {
        guard let transaction = cutClusters.withLock({ $0[inode.number.rawValue] }) else { return }
        try journal?.makeDurable(transaction)
    }
}
