internal import Allocator
internal import Ext4Format
internal import Journal

/// What maps the blocks of one inode. The caller holds the mapping lock: for writing in `replace`, for reading in all
/// else.
enum FileMap {
    case extents(ExtentTree)
    case indirect(IndirectMap)
    /// Of an inode with its data inside, which is about to be mapped: it maps nothing.
    case nothing(Volume, Inode)

    init(_ volume: Volume, _ inode: Inode) {
        if inode.isInline {
            self = .nothing(volume, inode)
            return
        }
        self =
            inode.hasExtents
            ? .extents(ExtentTree(volume: volume, inode: inode)) : .indirect(IndirectMap(volume: volume, inode: inode))
    }

    /// What lies at a file block: blocks, or a hole up to the next ones.
    enum Piece: Equatable {
        case extent(Extent)
        /// Ends at 2^32 when nothing follows.
        case hole(Range<UInt64>)

        var range: Range<UInt64> {
            switch self {
            case .extent(let extent): UInt64(extent.first.rawValue)..<extent.end
            case .hole(let range): range
            }
        }
    }

    /// The piece that holds `block`.
    func find(_ block: FileBlock) throws(Ext4Error) -> Piece {
        switch self {
        case .extents(let tree): try tree.find(block)
        case .indirect(let map): try map.find(block)
        case .nothing: .hole(UInt64(block.rawValue)..<FileBlock.end)
        }
    }

    /// The pieces that touch `range`, in order, cut at neither end.
    func pieces(_ range: Range<UInt64>) throws(Ext4Error) -> [Piece] {
        var result: [Piece] = []
        var next = range.lowerBound
        while next < range.upperBound, next < FileBlock.end {
            if case .extents(let tree) = self {
                try tree.appendPieces(from: &next, to: range.upperBound, &result)
            } else {
                let piece = try find(FileBlock(UInt32(next)))
                result.append(piece)
                next = piece.range.upperBound
            }
        }
        return result
    }

    /// The last piece before file block `end` that takes blocks, cut there; a hole is one whose indirect block holds
    /// nothing. Nil when there is none.
    func last(before end: UInt64 = FileBlock.end) throws(Ext4Error) -> Piece? {
        switch self {
        case .extents(let tree): try tree.last(before: end).map { .extent($0) }
        case .indirect(let map): try map.last(before: end)
        case .nothing: nil
        }
    }

    /// Unmaps `range` and maps `extents` (sorted, inside the range) instead. Answers the runs that are no longer
    /// mapped, without those of the map itself, which it frees. What the map needs comes from `space`; `i_blocks`
    /// follows that alone.
    func replace(
        _ range: Range<UInt64>, with extents: [Extent], from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> [Extent] {
        switch self {
        case .extents(let tree): try tree.replace(range, with: extents, from: space, in: handle)
        case .indirect(let map): try map.replace(range, with: extents, from: space, in: handle)
        case .nothing: preconditionFailure("inline data moves out before anything is mapped")
        }
    }

    /// Throws what freeing `range`, which lies in one piece, would: so that damage is found before anything changes.
    func checkFreeable(_ range: Range<UInt64>, of piece: Piece) throws(Ext4Error) {
        let (volume, nodes): (Volume, [FSBlock])
        switch self {
        case .extents(let tree): (volume, nodes) = (tree.volume, try tree.nodes(to: range.lowerBound))
        case .indirect(let map): (volume, nodes) = (map.volume, try map.nodes(to: range.lowerBound))
        case .nothing(let own, _): (volume, nodes) = (own, [])
        }
        for node in nodes { try volume.blocks.checkFreeable(BlockRun(start: node, count: 1)) }
        guard case .extent(let extent) = piece else { return }
        let run = extent.part(range)
        for node in nodes where run.start <= node && node < run.start + UInt64(run.count) {
            throw .corrupt("block map", where: "block \(node.rawValue) is a block of the map and data")
        }
        try volume.blocks.checkFreeable(BlockRun(start: run.start, count: run.count))
        try checkClusters(of: run, volume.layout)
    }

    var cost: MapCost {
        get throws(Ext4Error) {
            switch self {
            case .extents(let tree): .extents(depth: try tree.depth)
            case .indirect(let map): .indirect(map.geometry)
            case .nothing(let volume, let inode):
                volume.superBlock.features.incompatible.contains(.extents)
                    ? .extents(depth: 0) : .indirect(IndirectMap(volume: volume, inode: inode).geometry)
            }
        }
    }
}

extension InodeRecord {
    /// A file without blocks, mapped as new files of the volume are.
    mutating func makeEmptyMap(_ superBlock: SuperBlock) {
        // A map of indirect blocks without any is zeros, as a new record is.
        if superBlock.features.incompatible.contains(.extents) { makeEmptyExtentRoot() }
    }
}

extension Volume {
    /// Promises clusters for the data of an inode and for its map, as `BlockAllocator.reserve` does.
    func reserve(
        _ count: UInt64, for inode: Inode, privileged: Bool, upkeep: Bool = false
    ) throws(Ext4Error) -> BlockReservation {
        let limit = inode.hasExtents || superBlock.hasClusters ? .max : IndirectGeometry.reachableBlocks
        return try deletions.retry { () throws(Ext4Error) in
            try blocks.reserve(count, privileged: privileged, upkeep: upkeep, below: limit)
        }
    }
}
