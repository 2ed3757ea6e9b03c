internal import Allocator
internal import BlockIO
internal import Ext4Format
internal import Journal

/// Changes of a file's size, and the freeing of its blocks. The caller holds the inode lock for writing.
struct Truncation {
    let volume: Volume
    let inode: Inode
    let orphans: OrphanTable
    let inodes: InodeCache
    private var unit: UInt64 { UInt64(volume.blockByteCount) }

    /// Sets the size. Growing makes a hole. What lies behind the end goes even where the size stays. Shrinking is one
    /// operation after a crash as well: if the blocks do not fit one handle, the inode is an orphan while they go, and
    /// recovery finishes the work. `attributes` and `fields` change in the handle of the size.
    func setSize(
        to size: UInt64, _ attributes: AttributeChange?, _ fields: (inout InodeRecord, Timestamp) -> Void
    ) throws(Ext4Error) {
        guard size <= FileData.maximumSize(volume, inode) else { throw .posix(Errno.fileTooBig) }
        let old = inode.size
        let cluster = volume.clusterByteCount
        let lease = inode.ranges.acquire(min(old, size) / cluster * cluster..<UInt64.max, exclusive: true)
        defer { lease.release() }
        // A kernel that writes itself has dropped its pages by now, and waited for what was on its way.
        inode.delegation?.drop((size + unit - 1) / unit..<UInt64.max)
        // Asked again under the range lock: a write in flight may have moved the end.
        guard size <= inode.size else { return try grow(to: size, attributes, fields) }
        volume.blocks.giveBackWindow(of: inode.number)
        let tail = size < inode.size ? try stageTail(size) : nil
        let first = (size + unit - 1) / unit
        let steps = try stepsPerHandle()
        let fits = try countSteps(from: first, limit: steps.count) <= steps.count
        let now = volume.now()
        let credits =
            2 + OrphanTable.credits + (tail?.credits ?? 0) + (fits ? steps.credits : 0) + (attributes?.credits ?? 0)
        var isDone = false
        try volume.withHandle(credits: credits) { handle throws(Ext4Error) in
            if let tail { try publish(tail, in: handle) }
            try attributes?.apply(in: handle)
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                record.size = size
                volume.stampChange(of: &record, now)
                fields(&record, now)
            }
            isDone = fits ? try freeSteps(from: first, steps.count, in: handle) : false
            if !isDone { try orphans.add(inode, volume, in: handle) }
        }
        if !isDone { try finishCut() }
    }

    /// Frees what lies behind the size, in as many handles as it takes, and with the last the inode is an orphan no
    /// more; but one that is open without a name stays one until it is closed.
    func finishCut() throws(Ext4Error) {
        try finish(from: (inode.size + unit - 1) / unit) { handle throws(Ext4Error) in
            guard inode.field({ $0.linkCount }) > 0 else { return }
            try orphans.remove(inode, volume, inodes, in: handle)
        }
    }

    private func grow(
        to size: UInt64, _ attributes: AttributeChange?, _ fields: (inout InodeRecord, Timestamp) -> Void
    ) throws(Ext4Error) {
        if size > inode.size { try FileData(volume, inode).clearTail(behind: inode.size) }
        let now = volume.now()
        try volume.withHandle(credits: 1 + (attributes?.credits ?? 0)) { handle throws(Ext4Error) in
            try attributes?.apply(in: handle)
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                record.size = size
                volume.stampChange(of: &record, now)
                fields(&record, now)
            }
        }
    }

    // MARK: The tail

    /// A last block of which only a part stays is written anew, out of place, with zeros behind: bytes past the end
    /// must read as zeros when the file grows again, and zeroing in place would show after a crash that keeps the old
    /// size. What comes before it in its cluster moves along, for blocks of a cluster stay together, and what comes
    /// behind it there goes at once: no cluster of a file is in two places.
    private struct Tail {
        let write: StagedWrite
        let extents: [Extent]
        let credits: Int
    }

    private func stageTail(_ size: UInt64) throws(Ext4Error) -> Tail? {
        guard size % unit != 0 else { return nil }
        let core = MappingCore(volume: volume, inode: inode)
        let block = size / unit
        guard case .mapped = try core.begin(reading: block..<block + 1).first?.target else { return nil }
        let cluster = volume.layout.wholeClusters(block..<block + 1)
        let write = try core.begin(writing: cluster, .allNew, privileged: true, upkeep: true)
        guard let new = write.mappings.first?.target.start else { preconditionFailure("one cluster, one mapping") }
        let moved = cluster.lowerBound..<block + 1
        try copy(moved, to: new, upTo: size)
        return Tail(
            write: write, extents: try extents(of: moved, at: new), credits: try credits(for: write, cluster))
    }

    /// The many pieces of a large cluster lie in few nodes.
    private func credits(for write: StagedWrite, _ cluster: Range<UInt64>) throws(Ext4Error) -> Int {
        let most = write.credits(for: write.mappings[...], of: volume)
        guard volume.layout.clusterShift > 0 else { return most }
        let nodes = try inode.mapping.withReadLock { () throws(Ext4Error) in
            try ExtentTree(volume: volume, inode: inode).nodeCount(in: cluster, limit: most)
        }
        // And the bitmaps and descriptors of the cluster that it has and of the one that it gets.
        return min(most, write.cost.creditsToWrite(cluster, after: nil, pieces: 1 + nodes) + 4)
    }

    /// Blocks of the file as they are mapped, in another place.
    private func extents(of blocks: Range<UInt64>, at new: FSBlock) throws(Ext4Error) -> [Extent] {
        let core = MappingCore(volume: volume, inode: inode)
        let mappings = try core.begin(reading: blocks).filter { $0.target != .hole }
        // Of too many all become data, which has been written: the holes as zeros.
        guard mappings.count <= ExtentTree.replacementLimit else {
            return [Extent(first: FileBlock(UInt32(blocks.lowerBound)), count: UInt32(blocks.count), start: new)]
        }
        return mappings.map {
            Extent(
                first: FileBlock(UInt32($0.range.lowerBound)), count: UInt32($0.range.count),
                start: new + ($0.range.lowerBound - blocks.lowerBound), isUnwritten: $0.target.dataStart == nil)
        }
    }

    /// Copies blocks of the file to other blocks of the volume: holes, and what lies behind byte `size` of the file, as
    /// zeros.
    private func copy(_ blocks: Range<UInt64>, to new: FSBlock, upTo size: UInt64) throws(Ext4Error) {
        let core = MappingCore(volume: volume, inode: inode)
        let blocksAtOnce = min(UInt64(blocks.count), max(Self.copiedAtOnce / unit, 1))
        let buffer = AlignedBuffer(byteCount: Int(blocksAtOnce * unit))
        for first in stride(from: blocks.lowerBound, to: blocks.upperBound, by: Int(blocksAtOnce)) {
            let range = first..<min(first + blocksAtOnce, blocks.upperBound)
            let mappings = try core.begin(reading: range)
            try buffer.withMutableBytes { bytes throws(Ext4Error) in
                bytes.fill(0..<bytes.byteCount, with: 0)
                for mapping in mappings {
                    guard let start = mapping.target.dataStart else { continue }
                    let low = Int((mapping.range.lowerBound - first) * unit)
                    var part = bytes._mutatingExtracting(low..<low + mapping.range.count * Int(unit))
                    try volume.device.read(into: &part, at: volume.offset(of: start))
                }
                let kept = Int(min(size - first * unit, UInt64(bytes.byteCount)))
                bytes.fill(kept..<bytes.byteCount, with: 0)
                try volume.device.write(
                    bytes.bytes.extracting(0..<range.count * Int(unit)),
                    at: volume.offset(of: new + (first - blocks.lowerBound)), mode: .cached)
            }
        }
    }
    private static let copiedAtOnce: UInt64 = 1 << 20

    private func publish(_ tail: Tail, in handle: borrowing Handle) throws(Ext4Error) {
        try inode.mapping.withWriteLock { () throws(Ext4Error) in
            for mapping in tail.write.mappings {
                try MappingCore(volume: volume, inode: inode).publish(
                    mapping, tail.write, as: tail.extents, in: handle)
            }
        }
    }

    // MARK: Freeing from the end

    private static let mostStepsPerHandle = 8
    /// So that one step touches three groups at the most.
    private var blocksPerStep: UInt64 { 2 * UInt64(volume.superBlock.blocksPerGroup) }

    /// How many steps one handle takes, and what they cost. A small journal allows fewer, but always one; half of what
    /// it allows is left to the rest of the operation.
    private func stepsPerHandle() throws(Ext4Error) -> (count: Int, credits: Int) {
        let map = FileMap(volume, inode)
        let cost = try inode.mapping.withReadLock { () throws(Ext4Error) in try map.cost }
        let revokes = inode.holdsMetadata ? Int(stepLimit) : 0
        let each = 6 + cost.toUnmap.credits + revokes
        let count = max(1, min(Self.mostStepsPerHandle, (volume.journal?.maximumCredits ?? 0) / 2 / each))
        return (count, count * each)
    }
    private static let metadataBlocksPerStep: UInt64 = 16

    /// How many steps it takes to free everything from `first` on, counted no further than behind `limit`.
    private func countSteps(from first: UInt64, limit: Int) throws(Ext4Error) -> Int {
        try inode.mapping.withReadLock { () throws(Ext4Error) in
            let map = FileMap(volume, inode)
            var count = 0
            var end = FileBlock.end
            while count <= limit, let last = try map.last(before: end), last.range.upperBound > first {
                let part = last.range.clamped(to: first..<end)
                try map.checkFreeable(part, of: last)
                count += Int(steps(in: last, part))
                end = part.lowerBound
            }
            return count
        }
    }

    private var stepLimit: UInt64 {
        inode.holdsMetadata ? min(blocksPerStep, Self.metadataBlocksPerStep) : blocksPerStep
    }

    private func steps(in piece: FileMap.Piece, _ part: Range<UInt64>) -> UInt64 {
        switch piece {
        case .extent: (UInt64(part.count) + stepLimit - 1) / stepLimit
        case .hole: 1
        }
    }

    /// Frees from the end of the file, down to `first`, as much as one handle may. True when nothing is left.
    private func freeSteps(from first: UInt64, _ count: Int, in handle: borrowing Handle) throws(Ext4Error) -> Bool {
        try inode.mapping.withWriteLock { () throws(Ext4Error) in
            let map = FileMap(volume, inode)
            let space = try volume.blocks.reserve(0, privileged: true)
            for step in 0..<count {
                let next: (piece: FileMap.Piece, range: Range<UInt64>)?
                do throws(Ext4Error) {
                    next = try freeable(in: map, from: first)
                } catch {
                    // Found out in the first step, damage has changed nothing yet; later, the next handle will.
                    if step > 0 { return false }
                    throw error
                }
                guard let (piece, range) = next else { return true }
                let removed = try map.replace(range, with: [], from: space, in: handle)
                if case .extent = piece, removed.isEmpty {
                    throw .corrupt("map", where: "inode \(inode.number.rawValue): the last piece is not found")
                }
                try volume.release(removed, of: inode, in: handle)
            }
            do throws(Ext4Error) {
                return try map.last().map { $0.range.upperBound <= first } ?? true
            } catch {
                return false
            }
        }
    }

    /// The last piece of the file, and as much of it as one step frees; nil when nothing is left from `first` on.
    /// Throws what freeing it would.
    private func freeable(
        in map: FileMap, from first: UInt64
    ) throws(Ext4Error) -> (piece: FileMap.Piece, range: Range<UInt64>)? {
        guard let last = try map.last(), last.range.upperBound > first else { return nil }
        let end = last.range.upperBound
        let low = max(last.range.lowerBound, first, end > stepLimit ? end - stepLimit : 0)
        try map.checkFreeable(low..<end, of: last)
        return (last, low..<end)
    }

    /// Frees everything from `first` on, in as many handles as it takes, and runs `last` in the final one.
    func finish(
        from first: UInt64, lastCredits: Int = OrphanTable.credits + 1,
        _ last: (borrowing Handle) throws(Ext4Error) -> Void
    ) throws(Ext4Error) {
        var isDone = false
        while !isDone {
            let steps = try stepsPerHandle()
            try volume.withHandle(credits: steps.credits + 1 + lastCredits) { handle throws(Ext4Error) in
                isDone = try freeSteps(from: first, steps.count, in: handle)
                if isDone { try last(handle) }
            }
        }
    }
}
