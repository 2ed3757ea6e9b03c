internal import Allocator
internal import Ext4Format
internal import Journal

/// The mapping core: whoever moves file data asks these three functions, and nobody else computes a device address.
///
///     begin   what lies where; for a write, blocks for the holes, taken from the allocator's in-core map alone
///     end     what was promised and not used goes back: `StagedWrite` does so when it is dropped
///     ioend   the data is on the device (not yet flushed): one handle sets the bitmap bits, maps the blocks as
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
            /// Promised to this write: nothing on disk names it yet. With clusters, all of those that it touches are.
            case staged(FSBlock)
            /// A hole in a cluster that the file has: written where it belongs there, and mapped at ioend.
            case implied(FSBlock)
            /// Written since a batch began: the batch publishes it.
            case batched(FSBlock)
        }
        var range: Range<UInt64>
        var target: Target

        /// The part that covers `range`, which lies inside.
        func part(_ range: Range<UInt64>) -> Mapping {
            Mapping(range: range, target: target.advanced(by: range.lowerBound - self.range.lowerBound))
        }

        /// Both as one, when the other follows at once in the file and on the device.
        func merged(with next: Mapping) -> Mapping? {
            guard range.upperBound == next.range.lowerBound, range.count + next.range.count <= Extent.maximumUnwritten,
                target.advanced(by: UInt64(range.count)) == next.target
            else { return nil }
            return Mapping(range: range.lowerBound..<next.range.upperBound, target: target)
        }
    }

    /// Where a write puts what is there already. Holes get new blocks in any case.
    enum Placement {
        case inPlace
        /// To new blocks, but for what is unwritten: nobody can read that before ioend.
        case outOfPlace
        /// To new blocks, all of it: a batch may be dropped.
        case allNew
    }

    /// For reads. The caller holds a range lock on what it is about to read.
    func begin(reading range: Range<UInt64>) throws(Ext4Error) -> [Mapping] {
        let mappings = try published(range)
        return inode.batch?.covering(mappings) ?? mappings
    }

    /// As the running transaction has it.
    private func published(_ range: Range<UInt64>) throws(Ext4Error) -> [Mapping] {
        try inode.mapping.withReadLock { () throws(Ext4Error) in
            var result: [Mapping] = []
            for piece in try FileMap(volume, inode).pieces(range) {
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

    /// The run that a block belongs to, cut at neither end: an extent, or a hole up to the next one. Past the caller's
    /// range lock it may have changed.
    func run(at block: UInt64) throws(Ext4Error) -> Mapping {
        try inode.mapping.withReadLock { () throws(Ext4Error) in
            let piece = try FileMap(volume, inode).find(FileBlock(UInt32(block)))
            guard case .extent(let extent) = piece else { return Mapping(range: piece.range, target: .hole) }
            try checkTarget(extent.start, count: UInt64(extent.count))
            return Mapping(
                range: piece.range, target: extent.isUnwritten ? .unwritten(extent.start) : .mapped(extent.start))
        }
    }

    /// Where a block of metadata lies, so that the next one who asks need not look; nil for a hole, and what was never
    /// written.
    func findAndRemember(_ block: FileBlock) throws(Ext4Error) -> FSBlock? {
        try inode.mapping.withReadLock { () throws(Ext4Error) in
            guard case .extent(let extent) = try FileMap(volume, inode).find(block), !extent.isUnwritten else {
                return nil
            }
            try checkTarget(extent.start, count: UInt64(extent.count))
            inode.places.remember(extent)
            return extent.start + UInt64(block.rawValue - extent.first.rawValue)
        }
    }

    /// No file maps bitmaps, inode tables, descriptors or the log: an image that says so would have them overwritten.
    private func checkTarget(_ start: FSBlock, count: UInt64) throws(Ext4Error) {
        guard inode.number != .journal, volume.blocks.isSystemBlock(BlockRun(start: start, count: UInt32(count))) else {
            return
        }
        throw .corrupt("extent", where: "inode \(inode.number.rawValue) maps the system block \(start.rawValue)")
    }

    /// For writes: what gets new blocks gets staged ones. ENOSPC is decided here. The caller holds the range lock
    /// exclusively, of whole clusters, and keeps it until ioend. `isGrowing`: data, and where they go past the end of
    /// the file more is likely to follow. What is only unwritten has its room, and must not be refused for that of the
    /// map: it is `upkeep` in any case.
    func begin(
        writing range: Range<UInt64>, _ placement: Placement, privileged: Bool, upkeep: Bool = false,
        isGrowing: Bool = false
    ) throws(Ext4Error) -> StagedWrite {
        try volume.requireWritable()
        let (old, before) = try look(at: range, placement)
        if old.contains(where: \.target.isImplied) { try volume.settleCutClusters(of: inode) }
        let parts = Self.joined(old, placement)
        let needed = parts.reduce(0) { $0 + ($1.target == .hole ? volume.layout.clusterCount(of: $1.range) : 0) }
        let map = FileMap(volume, inode)
        let cost = try inode.mapping.withReadLock { () throws(Ext4Error) in try map.cost }
        let isOverwrite = needed == 0 && !old.contains(where: \.target.isPublished)
        let nodes = isOverwrite ? 0 : cost.nodesToWrite(range, pieces: old.count)
        let space = try volume.reserve(
            needed + nodes, for: inode, privileged: privileged, upkeep: upkeep || needed == 0)
        let write = StagedWrite(volume.blocks, space: space, cost: cost, replacing: old)
        var goal = goal(behind: before)
        for part in parts {
            guard part.target == .hole else {
                write.mappings.append(part)
                if let start = part.target.dataStart { goal = start + UInt64(part.range.count) }
                continue
            }
            let ahead = isGrowing ? clustersAhead(of: part.range, goesOn: before != nil) : nil
            try stage(part.range, ahead: ahead, into: write, &goal)
        }
        if needed > 0 {
            // How many extents it takes is known only now.
            let more = cost.nodesToWrite(range, pieces: old.count + write.mappings.count) - nodes
            if more > 0 { space.absorb(try volume.reserve(more, for: inode, privileged: true, upkeep: true)) }
        }
        return write
    }

    /// What lies in `range`, and where the block before it lies: one look into the map for both as a rule.
    private func look(
        at range: Range<UInt64>, _ placement: Placement
    ) throws(Ext4Error) -> (old: [Mapping], before: FSBlock?) {
        guard range.lowerBound > 0, volume.layout.clusterShift == 0 else {
            let old = placement == .inPlace ? try piecesToWrite(range) : try begin(reading: range)
            return (old, try start(before: range.lowerBound))
        }
        var old = try begin(reading: range.lowerBound - 1..<range.upperBound)
        let first = old.removeFirst(), before = first.part(first.range.lowerBound..<range.lowerBound).target.start
        if first.range.upperBound > range.lowerBound {
            old.insert(first.part(range.lowerBound..<first.range.upperBound), at: 0)
        }
        return (old, before)
    }

    /// `mappings` with all that gets new blocks as holes. Neighbours of these are one, wherever they lay before.
    private static func joined(_ mappings: [Mapping], _ placement: Placement) -> [Mapping] {
        var result: [Mapping] = []
        result.reserveCapacity(mappings.count)
        for mapping in mappings {
            guard mapping.target.needsStaging(placement) else {
                result.append(mapping)
                continue
            }
            if let last = result.last, last.target == .hole {
                result[result.count - 1].range = last.range.lowerBound..<mapping.range.upperBound
            } else {
                result.append(Mapping(range: mapping.range, target: .hole))
            }
        }
        return result
    }

    /// How many clusters to keep for what follows a write: as many as the file has, when it goes on at its end. The
    /// first write of a file is often the only one.
    private func clustersAhead(of range: Range<UInt64>, goesOn: Bool) -> UInt32 {
        let unit = UInt64(volume.blockByteCount)
        guard goesOn, range.upperBound > (inode.size + unit - 1) / unit else { return 0 }
        let blocks = min(max(range.upperBound, Self.leastAhead / unit), Self.mostAhead / unit)
        return UInt32(blocks) >> volume.layout.clusterShift
    }
    private static let leastAhead: UInt64 = 64 << 10, mostAhead: UInt64 = 64 << 20

    private func stage(
        _ range: Range<UInt64>, ahead: UInt32?, into write: StagedWrite, _ goal: inout FSBlock
    ) throws(Ext4Error) {
        let layout = volume.layout
        var next = range.lowerBound
        while next < range.upperBound {
            // Where the cluster begins, of which this is the first block to be written.
            let first = layout.wholeClusters(next..<next).lowerBound
            let longest = write.cost.longestMapping(at: next) & ~UInt64(layout.superBlock.clusterBlockCount - 1)
            let count = UInt32(layout.clusterCount(of: first..<min(range.upperBound, first + longest)))
            let run: BlockRun
            if let ahead {
                run = try volume.blocks.stage(
                    upTo: count, ahead: ahead, for: inode.number, at: first, goal: goal, from: write.space)
            } else {
                run = try volume.blocks.stage(upTo: count, goal: goal, from: write.space)
            }
            let end = min(range.upperBound, first + UInt64(run.count))
            write.mappings.append(Mapping(range: next..<end, target: .staged(run.start + (next - first))))
            next = end
            goal = run.start + UInt64(run.count)
        }
    }

    /// Behind the extent before the write; else the group of the inode.
    func goal(before block: UInt64) throws(Ext4Error) -> FSBlock { goal(behind: try start(before: block)) }

    /// Where the block before a block of the file lies; nil when it has no place.
    private func start(before block: UInt64) throws(Ext4Error) -> FSBlock? {
        block == 0 ? nil : try begin(reading: block - 1..<block).first?.target.start
    }

    private func goal(behind before: FSBlock?) -> FSBlock {
        if let before { return before + 1 }
        let group = volume.layout.place(of: inode.number)?.group ?? GroupNumber(0)
        return volume.layout.firstBlock(of: group)
    }

    /// Publishes what has been written: everything staged, up to `end` bytes of the file. One handle as long as the
    /// changes fit one; a write that the allocator had to scatter further is published front to back.
    ///
    /// `asUnwritten`: nothing has been written, the staged blocks become unwritten extents (fallocate).
    func ioend(_ write: StagedWrite, endOfData end: UInt64, asUnwritten: Bool = false) throws(Ext4Error) {
        let changes = write.mappings.filter { asUnwritten ? $0.target.isNew : $0.target.isPublished }
        if volume.options.kernelKeepsTimes, changes.isEmpty, end <= inode.size { return }
        var rest = changes[...]
        repeat {
            let fitting = write.partForOneHandle(rest, of: volume)
            // One mapping goes into a handle whatever it takes.
            let part = rest.prefix(max(1, fitting.count))
            let credits = fitting.count > 0 ? fitting.credits : write.credits(for: part, of: volume)
            rest = rest.dropFirst(part.count)
            let published = rest.first.map { $0.range.lowerBound * UInt64(volume.blockByteCount) } ?? end
            let now = volume.now()
            try volume.withHandle(credits: 1 + credits) { handle throws(Ext4Error) in
                try inode.mapping.withWriteLock { () throws(Ext4Error) in
                    for mapping in part { try publish(mapping, write, asUnwritten: asUnwritten, in: handle) }
                }
                let grows = published > inode.size
                try inode.update(in: handle, volume, isData: grows || !part.isEmpty) { record throws(Ext4Error) in
                    record.size = max(record.size, min(published, end))
                    volume.stampChange(of: &record, now)
                }
            }
        } while !rest.isEmpty
    }

    /// One mapping of a write, under the mapping lock for writing. `extents`: what of it is mapped then, if not all.
    func publish(
        _ mapping: Mapping, _ write: StagedWrite, as extents: [Extent]? = nil, asUnwritten: Bool = false,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        let count = UInt32(mapping.range.count)
        guard let start = mapping.target.start else { preconditionFailure("a hole is not published") }
        let isStaged = mapping.target == .staged(start)
        if isStaged {
            try volume.blocks.publish(BlockRun(start: start, count: count), in: handle)
            // At once: when what follows fails, the blocks are no longer staged and must not be given back.
            write.markPublished(mapping)
        }
        let whole = Extent(
            first: FileBlock(UInt32(mapping.range.lowerBound)), count: count, start: start, isUnwritten: asUnwritten)
        let map = FileMap(volume, inode)
        let replaced = try map.replace(mapping.range, with: extents ?? [whole], from: write.space, in: handle)
        if isStaged {
            let freed = try volume.free(replaced, of: inode, in: handle)
            let taken = Int64(volume.layout.clusterCount(of: mapping.range))
            guard taken != freed else { return }
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                record.addClusters(taken - freed, volume.superBlock)
            }
        }
    }
}

extension MappingCore.Mapping.Target {
    func needsStaging(_ placement: MappingCore.Placement) -> Bool {
        switch self {
        case .hole: true
        case .mapped: placement != .inPlace
        case .unwritten: placement == .allNew
        case .staged, .implied, .batched: false
        }
    }

    var isStaged: Bool { if case .staged = self { true } else { false } }

    var isImplied: Bool { if case .implied = self { true } else { false } }

    /// Whether nothing on disk maps it yet.
    var isNew: Bool {
        switch self {
        case .staged, .implied: true
        case .hole, .mapped, .unwritten, .batched: false
        }
    }

    /// Whether ioend has something to say about it.
    var isPublished: Bool {
        switch self {
        case .staged, .implied, .unwritten: true
        case .hole, .mapped, .batched: false
        }
    }

    /// Where data can be read.
    var dataStart: FSBlock? {
        switch self {
        case .mapped(let start), .batched(let start): start
        case .hole, .unwritten, .staged, .implied: nil
        }
    }

    /// What lies so many blocks further.
    func advanced(by count: UInt64) -> Self {
        switch self {
        case .hole: .hole
        case .mapped(let start): .mapped(start + count)
        case .unwritten(let start): .unwritten(start + count)
        case .staged(let start): .staged(start + count)
        case .implied(let start): .implied(start + count)
        case .batched(let start): .batched(start + count)
        }
    }

    var start: FSBlock? {
        switch self {
        case .hole: nil
        case .mapped(let start), .unwritten(let start), .staged(let start), .implied(let start), .batched(let start):
            start
        }
    }
}
