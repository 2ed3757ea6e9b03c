internal import Allocator
internal import Ext4Format
internal import Journal

/// The map of an inode without extents (ext2, ext3). The caller holds the mapping lock: for reading in what looks, for
/// writing in what changes.
///
/// Every number is checked where it is followed. The levels are fixed, so each walk ends, whatever an image says.
struct IndirectMap {
    typealias Piece = FileMap.Piece

    let volume: Volume
    let inode: Inode
    let geometry: IndirectGeometry

    init(volume: Volume, inode: Inode) {
        self.volume = volume
        self.inode = inode
        geometry = IndirectGeometry(blockByteCount: volume.blockByteCount)
    }

    // MARK: Reading

    /// The piece that holds `block`, as far as the numbers beside it tell.
    func find(_ block: FileBlock) throws(Ext4Error) -> Piece {
        let target = UInt64(block.rawValue)
        guard target < geometry.end else { return .hole(target..<FileBlock.end) }
        let (steps, missing) = try way(to: target)
        if missing > 0 { return .hole(target..<min(endOfPart(target, under: missing), FileBlock.end)) }
        guard let step = steps.last else {
            return try inode.record.withArea { area throws(Ext4Error) in
                try piece(in: area, Int(target)..<Int(IndirectGeometry.directCount), at: target)
            }
        }
        return try step.node.withBytes { bytes throws(Ext4Error) in
            try piece(in: bytes, step.slot..<Int(geometry.perBlock), at: target)
        }
    }

    /// An indirect block on the way from the inode, and the number in it that is followed.
    private struct Step {
        let node: CachedBlock
        let slot: Int
    }

    /// The way to one block. `missing` levels of it are not there: 0 when it leads to the number of the block.
    private func way(to block: UInt64) throws(Ext4Error) -> (steps: [Step], missing: Int) {
        guard let top = geometry.level(of: block), top > 0 else { return ([], 0) }
        var steps: [Step] = []
        var (next, level, rest) = (rootNumber(top), top, block - geometry.base(top))
        while next != 0, level > 0 {
            let node = try node(next)
            guard !steps.contains(where: { $0.node === node }) else {
                throw damage("the indirect block \(next) leads to itself")
            }
            level -= 1
            let step = Step(node: node, slot: Int(rest / geometry.span(level)))
            steps.append(step)
            next = try number(in: node, step.slot)
            rest %= geometry.span(level)
        }
        return (steps, level)
    }

    /// The end of the part around `block` that one number so many levels up stands for.
    private func endOfPart(_ block: UInt64, under level: Int) -> UInt64 {
        guard let top = geometry.level(of: block) else { preconditionFailure("past the end of the map") }
        let span = geometry.span(level)
        return block - (block - geometry.base(top)) % span + span
    }

    /// The last piece before file block `end` that takes blocks: a run, or the hole under an indirect block that holds
    /// no number at all.
    func last(before end: UInt64) throws(Ext4Error) -> Piece? {
        let end = min(end, geometry.end)
        for top in IndirectGeometry.levels.reversed() where geometry.base(top) < end {
            let number = rootNumber(top)
            guard number != 0 else { continue }
            if let found = try last(under: number, top, from: geometry.base(top), before: end) { return found }
        }
        let count = Int(min(end, IndirectGeometry.directCount))
        return try inode.record.withArea { area throws(Ext4Error) in try lastRun(in: area, count, from: 0) }
    }

    /// The same under one indirect block, whose first number stands for the file block `base`.
    private func last(
        under number: UInt32, _ level: Int, from base: UInt64, before end: UInt64
    ) throws(Ext4Error) -> Piece? {
        let node = try node(number), span = geometry.span(level - 1)
        let count = Int(min((end - base + span - 1) / span, geometry.perBlock))
        if level == 1 {
            let run = try node.withBytes { bytes throws(Ext4Error) in try lastRun(in: bytes, count, from: base) }
            if let run { return run }
        } else {
            for slot in (0..<count).reversed() {
                let child = try self.number(in: node, slot)
                guard child != 0 else { continue }
                let childBase = base + UInt64(slot) * span
                if let found = try last(under: child, level - 1, from: childBase, before: end) { return found }
            }
        }
        return try isEmpty(node) ? .hole(base..<min(base + geometry.span(level), geometry.end)) : nil
    }

    /// The indirect blocks on the way to `block`, from the inode on, as far as there are any.
    func nodes(to block: UInt64) throws(Ext4Error) -> [FSBlock] {
        try way(to: block).steps.map { $0.node.number }
    }

    private static func entry(_ slot: Int) -> LE<UInt32> { LE(4 * slot) }

    /// The number of the top indirect block with so many levels; 0: there is none.
    private func rootNumber(_ top: Int) -> UInt32 { inode.record.withArea { $0[Self.entry(Self.rootSlot(top))] } }
    private static func rootSlot(_ top: Int) -> Int { Int(IndirectGeometry.directCount) + top - 1 }

    private func node(_ number: UInt32) throws(Ext4Error) -> CachedBlock {
        let block = FSBlock(UInt64(number))
        // The journal is looked for before it is known what belongs to it, and is itself among the system blocks.
        let isWrong =
            inode.number == .journal
            ? block.rawValue >= volume.superBlock.blockCount
            : volume.blocks.isSystemBlock(BlockRun(start: block, count: 1))
        if isWrong { throw damage("an indirect block at \(number)") }
        return try volume.cache.block(block)
    }

    private func damage(_ what: String) -> Ext4Error {
        .corrupt("block map", where: "inode \(inode.number.rawValue): \(what)")
    }

    private func number(in node: CachedBlock, _ slot: Int) throws(Ext4Error) -> UInt32 {
        try node.withBytes { bytes throws(Ext4Error) in bytes[Self.entry(slot)] }
    }

    private func isEmpty(_ node: CachedBlock) throws(Ext4Error) -> Bool {
        try node.withBytes { bytes throws(Ext4Error) in
            (0..<Int(geometry.perBlock)).allSatisfy { bytes[Self.entry($0)] == 0 }
        }
    }

    /// What begins at the first of `slots`, which stands for the file block `block`.
    private func piece(in bytes: RawSpan, _ slots: Range<Int>, at block: UInt64) throws(Ext4Error) -> Piece {
        let start = bytes[Self.entry(slots.lowerBound)]
        let end = slots.first { slot in
            let wanted = start == 0 ? 0 : UInt64(start) + UInt64(slot - slots.lowerBound)
            return UInt64(bytes[Self.entry(slot)]) != wanted
        }
        let count = (end ?? slots.upperBound) - slots.lowerBound
        if start == 0 { return .hole(block..<min(block + UInt64(count), FileBlock.end)) }
        return .extent(try run(start, count, at: block))
    }

    /// The last run among the first `count` numbers.
    private func lastRun(in bytes: RawSpan, _ count: Int, from base: UInt64) throws(Ext4Error) -> Piece? {
        guard let end = (0..<count).last(where: { bytes[Self.entry($0)] != 0 }) else { return nil }
        var first = end, start = bytes[Self.entry(end)]
        while first > 0, start > 1, bytes[Self.entry(first - 1)] == start - 1 {
            first -= 1
            start -= 1
        }
        return .extent(try run(start, end + 1 - first, at: base + UInt64(first)))
    }

    private func run(_ start: UInt32, _ count: Int, at block: UInt64) throws(Ext4Error) -> Extent {
        guard UInt64(start) + UInt64(count) <= volume.superBlock.blockCount, block + UInt64(count) <= geometry.end
        else { throw damage("\(count) blocks at \(start) for file block \(block)") }
        return Extent(first: FileBlock(UInt32(block)), count: UInt32(count), start: FSBlock(UInt64(start)))
    }

    // MARK: Changing

    /// Unmaps `range` and maps `extents` (sorted, inside the range) instead. Answers the runs that are no longer
    /// mapped, without emptied indirect blocks, which it frees itself. New ones come from `space`; `i_blocks` follows
    /// indirect blocks only. `.corrupt` may come after changes, unless the range was looked at before.
    func replace(
        _ range: Range<UInt64>, with extents: [Extent], from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> [Extent] {
        inode.places.forget()
        var removed: [Extent] = []
        var next = range.lowerBound
        for extent in extents {
            try unmap(next..<UInt64(extent.first.rawValue), &removed, in: handle)
            try map(extent, &removed, from: space, in: handle)
            next = extent.end
        }
        try unmap(next..<range.upperBound, &removed, in: handle)
        return removed
    }

    private func map(
        _ extent: Extent, _ removed: inout [Extent], from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        precondition(extent.end <= geometry.end && !extent.isUnwritten, "not for an indirect map")
        var next = UInt64(extent.first.rawValue)
        while next < extent.end {
            let part = extent.part(next..<min(extent.end, geometry.endOfNeighbours(of: next)))
            guard part.start.rawValue + UInt64(part.count) <= IndirectGeometry.reachableBlocks else {
                throw .posix(Errno.noSpace)
            }
            let step = try grow(to: next, near: part.start, from: space, in: handle)
            removed += try exchange(step, next, Int(part.count), with: UInt32(part.start.rawValue), in: handle)
            next = part.end
        }
    }

    /// Makes the indirect blocks that lead to `block`. Answers the last one; nil for the inode itself.
    private func grow(
        to block: UInt64, near goal: FSBlock, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> Step? {
        var (steps, missing) = try way(to: block)
        while missing > 0 {
            let number = try volume.blocks.allocate(goal: goal, from: space, in: handle)
            guard let value = UInt32(exactly: number.rawValue) else { throw .posix(Errno.noSpace) }
            try adjustBlockCount(by: 1, in: handle)
            let node = try handle.create(number)
            try setNumber(value, under: steps.last, of: block, in: handle)
            missing -= 1
            steps.append(Step(node: node, slot: slot(of: block, missing)))
        }
        return steps.last
    }

    /// Which number of an indirect block leads to `block`, where the numbers are `level` levels above the data.
    private func slot(of block: UInt64, _ level: Int) -> Int {
        guard let top = geometry.level(of: block) else { preconditionFailure("past the end of the map") }
        return Int((block - geometry.base(top)) / geometry.span(level) % geometry.perBlock)
    }

    /// Changes the number that leads to the next indirect block on the way to `block`.
    private func setNumber(
        _ value: UInt32, under step: Step?, of block: UInt64, in handle: borrowing Handle
    ) throws(Ext4Error) {
        if let step {
            return try handle.modify(step.node) { bytes throws(Ext4Error) in bytes[Self.entry(step.slot)] = value }
        }
        guard let top = geometry.level(of: block), top > 0 else { preconditionFailure("no indirect block leads there") }
        try inode.update(in: handle, volume) { record throws(Ext4Error) in
            record.withMutableArea { $0[Self.entry(Self.rootSlot(top))] = value }
        }
    }

    /// Puts the numbers from `start` on (0: none) in the place of `count` numbers. Answers the runs that were there.
    private func exchange(
        _ step: Step?, _ block: UInt64, _ count: Int, with start: UInt32, in handle: borrowing Handle
    ) throws(Ext4Error) -> [Extent] {
        let first = step?.slot ?? Int(block)
        let look = { (bytes: RawSpan) throws(Ext4Error) in try runs(in: bytes, first..<first + count, block) }
        let old = if let step { try step.node.withBytes(look) } else { try inode.record.withArea(look) }
        if start == 0 && old.isEmpty { return old }
        let write = { (bytes: inout MutableRawSpan) in
            for index in 0..<count { bytes[Self.entry(first + index)] = start == 0 ? 0 : start + UInt32(index) }
        }
        if let step {
            try handle.modify(step.node) { bytes throws(Ext4Error) in write(&bytes) }
        } else {
            try inode.update(in: handle, volume) { record throws(Ext4Error) in record.withMutableArea(write) }
        }
        return old
    }

    private func runs(in bytes: RawSpan, _ slots: Range<Int>, _ block: UInt64) throws(Ext4Error) -> [Extent] {
        var result: [Extent] = []
        var next = slots.lowerBound
        while next < slots.upperBound {
            let piece = try piece(in: bytes, next..<slots.upperBound, at: block + UInt64(next - slots.lowerBound))
            if case .extent(let extent) = piece { result.append(extent) }
            next += piece.range.count
        }
        return result
    }

    private func unmap(
        _ range: Range<UInt64>, _ removed: inout [Extent], in handle: borrowing Handle
    ) throws(Ext4Error) {
        let end = min(range.upperBound, geometry.end)
        var next = range.lowerBound
        while next < end {
            let (steps, missing) = try way(to: next)
            let stop: UInt64
            if missing > 0 {
                stop = endOfPart(next, under: missing)
            } else {
                stop = min(end, geometry.endOfNeighbours(of: next))
                removed += try exchange(steps.last, next, Int(stop - next), with: 0, in: handle)
            }
            try prune(steps, next, in: handle)
            next = stop
        }
    }

    /// Frees the indirect blocks at the end of a way that hold no number any more.
    private func prune(_ steps: [Step], _ block: UInt64, in handle: borrowing Handle) throws(Ext4Error) {
        var steps = steps
        while let step = steps.popLast(), try isEmpty(step.node) {
            try handle.revoke(step.node.number)
            try volume.free(BlockRun(start: step.node.number, count: 1), in: handle)
            try adjustBlockCount(by: -1, in: handle)
            try setNumber(0, under: steps.last, of: block, in: handle)
        }
    }

    private func adjustBlockCount(by blocks: Int64, in handle: borrowing Handle) throws(Ext4Error) {
        try inode.update(in: handle, volume) { record throws(Ext4Error) in
            record.addClusters(blocks, volume.superBlock)
        }
    }
}
