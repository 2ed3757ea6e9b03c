internal import Allocator
internal import Ext4Format
internal import Journal
internal import Threads

// FALLOC_FL_COLLAPSE_RANGE and FALLOC_FL_INSERT_RANGE: what lies behind moves. A kernel does not forward them through
// FUSE, so only users of the library come here.

extension Preallocation {
    /// Takes whole clusters out of the middle of a file, and what follows moves up. In one transaction: ENOSPC when it
    /// takes more than one can hold. EINVAL unless the range is of whole clusters and ends before the end of the file.
    func collapse(_ range: Range<UInt64>) throws(Ext4Error) {
        let lease = leaseToShift(from: range.lowerBound)
        defer { lease.release() }
        let blocks = try wholeBlocks(range)
        guard range.upperBound < inode.size else { throw .posix(Errno.invalid) }
        let shift = ExtentTree.Shift(start: blocks.upperBound, distance: -Int64(blocks.count))
        try change(shift, freeing: blocks, size: inode.size - UInt64(range.count))
    }

    /// Makes room for whole clusters in the middle of a file, a hole, and what follows moves down. In one transaction:
    /// ENOSPC when it takes more than one can hold. EINVAL unless the range is of whole clusters and begins before the
    /// end of the file; EFBIG when the file would be too long.
    func insert(_ range: Range<UInt64>) throws(Ext4Error) {
        let lease = leaseToShift(from: range.lowerBound)
        defer { lease.release() }
        let blocks = try wholeBlocks(range), size = inode.size
        guard range.lowerBound < size else { throw .posix(Errno.invalid) }
        guard UInt64(range.count) <= FileData.maximumSize(volume, inode) - size else {
            throw .posix(Errno.fileTooBig)
        }
        let shift = ExtentTree.Shift(start: blocks.lowerBound, distance: Int64(blocks.count))
        try change(shift, freeing: blocks.lowerBound..<blocks.lowerBound, size: size + UInt64(range.count))
    }

    private func leaseToShift(from offset: UInt64) -> RangeLock.Lease {
        volume.blocks.giveBackWindow(of: inode.number)
        return lease(from: offset)
    }

    /// The blocks of a range. Those of part of a cluster cannot move away from the others.
    private func wholeBlocks(_ range: Range<UInt64>) throws(Ext4Error) -> Range<UInt64> {
        let cluster = volume.clusterByteCount
        guard range.lowerBound % cluster == 0, range.upperBound % cluster == 0 else { throw .posix(Errno.invalid) }
        return range.lowerBound / unit..<range.upperBound / unit
    }

    /// One handle: what lies in `freed` goes, the rest is shifted, and the size is set.
    private func change(_ shift: ExtentTree.Shift, freeing freed: Range<UInt64>, size: UInt64) throws(Ext4Error) {
        let tree = ExtentTree(volume: volume, inode: inode)
        let limit = (volume.journal?.maximumCredits ?? 0) / 2
        let (credits, depth) = try inode.mapping.withReadLock { () throws(Ext4Error) in
            (try self.credits(for: shift, freeing: freed, tree, limit: limit), try tree.depth)
        }
        guard credits <= limit else { throw .posix(Errno.noSpace) }
        let space = try volume.blocks.reserve(2 * ExtentTree.nodesNeeded(depth: depth), privileged: true, upkeep: true)
        let now = volume.now()
        try volume.withHandle(credits: credits) { handle throws(Ext4Error) in
            try inode.mapping.withWriteLock { () throws(Ext4Error) in
                let gone = freed.isEmpty ? [] : try tree.replace(freed, with: [], from: space, in: handle)
                try volume.release(gone, of: inode, in: handle)
                try shiftAll(tree, shift, space, in: handle)
            }
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                record.size = size
                volume.stampChange(of: &record, now)
            }
        }
    }

    /// An extent across the start is cut in two: its second part is taken out, and comes back where it has moved to.
    private func shiftAll(
        _ tree: ExtentTree, _ shift: ExtentTree.Shift, _ space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let piece = try tree.find(FileBlock(UInt32(shift.start)))
        guard case .extent(let extent) = piece, UInt64(extent.first.rawValue) < shift.start else {
            return try tree.apply(shift, in: handle)
        }
        let rest = shift.start..<extent.end
        var second = extent.part(rest)
        _ = try tree.replace(rest, with: [], from: space, in: handle)
        try tree.apply(shift, in: handle)
        let low = UInt64(Int64(rest.lowerBound) + shift.distance)
        second.first = FileBlock(UInt32(low))
        _ = try tree.replace(low..<low + UInt64(rest.count), with: [second], from: space, in: handle)
    }

    private func credits(
        for shift: ExtentTree.Shift, freeing freed: Range<UInt64>, _ tree: ExtentTree, limit: Int
    ) throws(Ext4Error) -> Int {
        if let last = try tree.last(before: FileBlock.end), last.end > shift.start,
            Int64(last.end) + shift.distance > Int64(UInt32.max)
        {
            throw .posix(Errno.fileTooBig)
        }
        var credits = 1 + 3 * ExtentTree.creditsNeeded(depth: try tree.depth + 1)
        credits += try tree.nodeCount(in: min(shift.start, freed.lowerBound)..<FileBlock.end, limit: limit)
        var next = freed.lowerBound
        while next < freed.upperBound, credits <= limit {
            let piece = try tree.find(FileBlock(UInt32(next)))
            if case .extent = piece {
                try FileMap.extents(tree).checkFreeable(piece.range.clamped(to: freed), of: piece)
                // Bitmap and descriptor of the groups that an extent may reach into.
                credits += 6
            }
            next = piece.range.upperBound
        }
        return credits
    }
}
