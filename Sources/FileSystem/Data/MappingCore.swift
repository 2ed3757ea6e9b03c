internal import Allocator
internal import Ext4Format
internal import Journal

/// The mapping core: whoever moves file data asks these three functions, and nobody else computes a device address.
///
///     begin   what lies where; for a write, blocks for the holes, taken from the allocator's in-core map alone
///     end     what was promised and not used goes back: `StagedWrite` does so when it is dropped
///     ioend   the data is on the device (not yet flushed): one handle sets the bitmap bits, inserts the extents as
///             written, frees what they replace and moves the size
///
/// So a crash leaks nothing and shows no stale byte: until ioend, nothing on disk names a new block.
struct MappingCore {
    let volume: Volume
    let inode: Inode

    /// One run of a file, in blocks.
    struct Mapping: Equatable {
        enum Target: Equatable {
            case hole
            /// Holds data.
            case mapped(FSBlock)
            /// Allocated and reads as zeros; written in place and converted at ioend.
            case unwritten(FSBlock)
            /// Promised to this write: nothing on disk names it yet.
            case staged(FSBlock)
        }
        var range: Range<UInt64>
        var target: Target
    }

    /// For reads. The caller holds a range lock on what it is about to read.
    func begin(reading range: Range<UInt64>) throws(Ext4Error) -> [Mapping] {
        try inode.mapping.withReadLock { () throws(Ext4Error) in
            var result: [Mapping] = []
            for piece in try pieces(range) {
                let part = piece.range.clamped(to: range)
                guard case .extent(let extent) = piece else {
                    result.append(Mapping(range: part, target: .hole))
                    continue
                }
                let start = extent.part(part).start
                try checkTarget(start, count: UInt64(part.count))
                result.append(Mapping(range: part, target: extent.isUnwritten ? .unwritten(start) : .mapped(start)))
            }
            return result
        }
    }

    /// No file maps bitmaps, inode tables, descriptors or the log: an image that says so would have them overwritten.
    private func checkTarget(_ start: FSBlock, count: UInt64) throws(Ext4Error) {
        guard inode.number != .journal, volume.blocks.isSystemBlock(BlockRun(start: start, count: UInt32(count))) else {
            return
        }
        throw .corrupt("extent", where: "inode \(inode.number.rawValue) maps the system block \(start.rawValue)")
    }

    private func pieces(_ range: Range<UInt64>) throws(Ext4Error) -> [ExtentTree.Piece] {
        if inode.hasExtents { return try ExtentTree(volume: volume, inode: inode).pieces(range) }
        let map = BlockMap(volume: volume, inode: inode)
        var result: [ExtentTree.Piece] = []
        var next = range.lowerBound
        while next < range.upperBound, next < 1 << 32 {
            let piece = try map.find(FileBlock(UInt32(next)))
            result.append(piece)
            next = piece.range.upperBound
        }
        return result
    }

    /// For writes: holes of `range` get staged blocks, and with `outOfPlace` mapped blocks get new ones too. ENOSPC is
    /// decided here. The caller holds the range lock exclusively and keeps it until ioend.
    func begin(writing range: Range<UInt64>, outOfPlace: Bool, privileged: Bool) throws(Ext4Error) -> StagedWrite {
        try volume.requireWritable()
        guard inode.hasExtents else { throw .posix(Errno.notSupported) }
        let old = try begin(reading: range)
        let needed = old.filter { $0.target.needsStaging(outOfPlace) }.reduce(0) { $0 + UInt64($1.range.count) }
        let tree = ExtentTree(volume: volume, inode: inode)
        let depth = try inode.mapping.withReadLock { () throws(Ext4Error) in try tree.depth }
        let isOverwrite = needed == 0 && !old.contains { if case .unwritten = $0.target { true } else { false } }
        let nodes =
            isOverwrite
            ? 0 : ExtentTree.nodesNeeded(depth: depth) + (needed + UInt64(old.count)) / Self.extentsPerNewLeaf
        let space = try volume.blocks.reserve(needed + nodes, privileged: privileged)
        let write = StagedWrite(volume.blocks, space: space, depth: depth)
        var goal = try goal(before: range.lowerBound, old)
        for mapping in old {
            guard mapping.target.needsStaging(outOfPlace) else {
                write.mappings.append(mapping)
                if case .mapped(let start) = mapping.target { goal = start + UInt64(mapping.range.count) }
                continue
            }
            var next = mapping.range.lowerBound
            while next < mapping.range.upperBound {
                // Whatever the blocks become, written or unwritten, one extent holds a run.
                let limit = UInt64(Extent.maximumUnwritten)
                let count = UInt32(min(mapping.range.upperBound - next, limit))
                let run = try volume.blocks.stage(upTo: count, goal: goal, from: space)
                write.mappings.append(Mapping(range: next..<next + UInt64(run.count), target: .staged(run.start)))
                next += UInt64(run.count)
                goal = run.start + UInt64(run.count)
            }
        }
        return write
    }

    /// A split leaf has room for this many extents at the least (1 KiB blocks). A write over many full leaves may split
    /// each of them, but then it also meets the extents in them: so old pieces count like new blocks.
    private static let extentsPerNewLeaf: UInt64 = 40

    /// Behind the extent before the write; else the group of the inode.
    private func goal(before block: UInt64, _ old: [Mapping]) throws(Ext4Error) -> FSBlock {
        if block > 0, let before = try begin(reading: block - 1..<block).first, case .mapped(let start) = before.target
        {
            return start + 1
        }
        let group = volume.layout.place(of: inode.number)?.group ?? GroupNumber(0)
        return volume.layout.firstBlock(of: group)
    }

    /// Publishes what has been written: everything staged, up to `end` bytes of the file. One handle as long as the
    /// runs fit one; a write that the allocator had to scatter further is published front to back.
    ///
    /// `asUnwritten`: nothing has been written, the staged blocks become unwritten extents (fallocate).
    func ioend(_ write: StagedWrite, endOfData end: UInt64, asUnwritten: Bool = false) throws(Ext4Error) {
        let changes = write.mappings.filter { asUnwritten ? $0.target.isStaged : $0.target.isPublished }
        let creditsEach = 4 + ExtentTree.creditsNeeded(depth: write.depth + 1)
        let most = max(1, min(16, (volume.journal?.maximumCredits ?? 0) / 2 / creditsEach))
        var rest = changes[...]
        repeat {
            let part = rest.prefix(most)
            rest = rest.dropFirst(part.count)
            let published = rest.first.map { $0.range.lowerBound * UInt64(volume.blockByteCount) } ?? end
            let now = volume.now()
            try volume.withHandle(credits: 1 + part.count * creditsEach) { handle throws(Ext4Error) in
                try inode.mapping.withWriteLock { () throws(Ext4Error) in
                    for mapping in part { try publish(mapping, write, asUnwritten: asUnwritten, in: handle) }
                }
                let grows = published > inode.size
                try inode.update(in: handle, volume, isData: grows || !part.isEmpty) { record throws(Ext4Error) in
                    record.size = max(record.size, min(published, end))
                    record.modification = now
                    record.change = now
                }
            }
        } while !rest.isEmpty
    }

    /// One mapping of a write, under the mapping lock for writing.
    func publish(
        _ mapping: Mapping, _ write: StagedWrite, asUnwritten: Bool = false, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let count = UInt32(mapping.range.count)
        guard let start = mapping.target.start else { preconditionFailure("a hole is not published") }
        let isNew = mapping.target == .staged(start)
        if isNew {
            try volume.blocks.publish(BlockRun(start: start, count: count), in: handle)
            // At once: when what follows fails, the blocks are no longer staged and must not be given back.
            write.markPublished(mapping)
        }
        let extent = Extent(
            first: FileBlock(UInt32(mapping.range.lowerBound)), count: count, start: start, isUnwritten: asUnwritten)
        let tree = ExtentTree(volume: volume, inode: inode)
        let replaced = try tree.replace(mapping.range, with: [extent], from: write.space, in: handle)
        if isNew {
            let before = replaced.reduce(0) { $0 + Int64($1.count) }
            for old in replaced { try volume.free(BlockRun(start: old.start, count: old.count), in: handle) }
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                record.addBlocks(Int64(count) - before, volume.blockByteCount)
            }
        }
    }
}

extension MappingCore.Mapping.Target {
    func needsStaging(_ outOfPlace: Bool) -> Bool {
        switch self {
        case .hole: true
        case .mapped, .unwritten: outOfPlace
        case .staged: false
        }
    }

    var isStaged: Bool { if case .staged = self { true } else { false } }

    /// Whether ioend has something to say about it.
    var isPublished: Bool {
        switch self {
        case .staged, .unwritten: true
        case .hole, .mapped: false
        }
    }

    var start: FSBlock? {
        switch self {
        case .hole: nil
        case .mapped(let start), .unwritten(let start), .staged(let start): start
        }
    }
}

/// What `begin` promised to one write. Staged runs that were not published go back when this is dropped.
/// Used by one thread at a time.
final class StagedWrite {
    fileprivate(set) var mappings: [MappingCore.Mapping] = []
    fileprivate let space: BlockReservation
    let depth: UInt16
    private let allocator: BlockAllocator
    private var published: Set<UInt64> = []

    fileprivate init(_ allocator: BlockAllocator, space: BlockReservation, depth: UInt16) {
        self.allocator = allocator
        self.space = space
        self.depth = depth
    }

    fileprivate func markPublished(_ mapping: MappingCore.Mapping) { published.insert(mapping.range.lowerBound) }

    deinit {
        for mapping in mappings where !published.contains(mapping.range.lowerBound) {
            guard case .staged(let start) = mapping.target else { continue }
            allocator.unstage(BlockRun(start: start, count: UInt32(mapping.range.count)))
        }
    }
}
