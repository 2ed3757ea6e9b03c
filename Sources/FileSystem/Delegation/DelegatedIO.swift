internal import Allocator
internal import Ext4Format
internal import Threads

/// The mapping core for a kernel that moves the data itself: what `FileData` does in one call is here in three, with
/// any time between them. No lock is held meanwhile; the promises of `Delegation` are.
struct DelegatedIO {
    let volume: Volume
    let delegation: Delegation
    let isOutOfPlace: Bool
    /// May use the reserved blocks.
    let isPrivileged: Bool
    private var inode: Inode { delegation.inode }
    private var core: MappingCore { MappingCore(volume: volume, inode: inode) }
    private var unit: UInt64 { UInt64(volume.blockByteCount) }

    private typealias Mapping = MappingCore.Mapping

    /// Blocks that are looked at together: writeback stages for what is dirty behind as well, so that runs are long;
    /// a large write into a nearly full volume takes what there is.
    private static let windowBlockCount: UInt64 = 4096
    /// What is shorter is not worth being remembered.
    private static let leastRemembered: UInt64 = 16

    /// See `FileSystem.beginDelegated`.
    func begin(
        _ bytes: Range<UInt64>, for use: DelegatedUse, _ remember: (DelegatedRun) -> Void
    ) throws(Ext4Error) -> DelegatedMapping? {
        let blocks = bytes.lowerBound / unit..<(bytes.upperBound + unit - 1) / unit
        let window = blocks.lowerBound..<max(blocks.upperBound, blocks.lowerBound + Self.windowBlockCount)
        let isLook = use == .read || use == .report
        if !isLook { try clearTailOnce() }
        let lease = lease(window, exclusive: !isLook)
        defer { lease.release() }
        guard !inode.isDeleted else { throw .posix(Errno.stale) }
        switch use {
        case .report: return try report(blocks)
        case .writeback: return try writeBack(blocks)
        case .zero: return try zero(blocks)
        case .directWrite(isAtomic: true): return try writeDirect(bytes, blocks, isAtomic: true)
        case .directWrite(isAtomic: false):
            let found = try writeDirect(bytes, blocks, isAtomic: false)
            if let found { tell(found, window, remember) }
            return found
        case .read, .bufferedWrite:
            let first = blocks.lowerBound
            let found = use == .read ? answer(try core.run(at: first), from: first) : try writeBuffered(blocks)
            tell(found, window, remember)
            return found
        }
    }

    /// Data that are overwritten where they lie may be remembered, as far as the range lock holds them.
    private func tell(_ found: DelegatedMapping, _ window: Range<UInt64>, _ remember: (DelegatedRun) -> Void) {
        guard !isOutOfPlace, found.write == nil, case .mapped = found.read.kind else { return }
        var run = found.read
        run.range = run.range.clamped(to: 0..<window.upperBound * unit)
        if run.range.upperBound - run.range.lowerBound >= Self.leastRemembered * unit { remember(run) }
    }

    private func lease(_ blocks: Range<UInt64>, exclusive: Bool) -> RangeLock.Lease {
        inode.ranges.acquire(blocks.lowerBound * unit..<blocks.upperBound * unit, exclusive: exclusive)
    }

    /// Before the first write: an append that was written in place and lost in a crash may have left bytes behind the
    /// end. Later they are the kernel's to zero, and may be data that it is about to report.
    private func clearTailOnce() throws(Ext4Error) {
        guard !delegation.withState({ $0.isTailClear }) else { return }
        let lease = inode.ranges.acquire(0..<UInt64.max, exclusive: true)
        defer { lease.release() }
        guard !delegation.withState({ $0.isTailClear }) else { return }
        try FileData(volume, inode).clearTail(behind: inode.size)
        delegation.withState { $0.isTailClear = true }
    }

    // MARK: Looking

    /// A run from `block` on, to `end` at most.
    private func answer(_ run: Mapping, from block: UInt64, to end: UInt64 = .max) -> DelegatedMapping {
        let part = run.part(block..<min(run.range.upperBound, max(end, block + 1)))
        let range = part.range.lowerBound * unit..<part.range.upperBound * unit
        let kind: DelegatedRun.Kind =
            switch part.target {
            case .hole: .hole
            case .mapped(let start), .batched(let start): .mapped(volume.offset(of: start))
            case .unwritten(let start), .staged(let start), .implied(let start): .unwritten(volume.offset(of: start))
            }
        return DelegatedMapping(read: DelegatedRun(range: range, kind: kind))
    }

    /// For who wants to know where data are: what is only promised is there, and nowhere.
    private func report(_ blocks: Range<UInt64>) throws(Ext4Error) -> DelegatedMapping {
        let first = blocks.lowerBound
        let run = try core.run(at: first)
        guard case .hole = run.target else { return answer(run, from: first) }
        let (promised, next) = delegation.withState { state in
            let all = [state.delayed, state.writeback, state.direct]
            let ends = all.compactMap { $0.promise(at: first)?.range.upperBound }
            return (ends.max(), all.compactMap { $0.next(from: first) }.min())
        }
        var found = answer(run, from: first, to: promised ?? next ?? .max)
        if promised != nil { found.read.kind = .delayed }
        return found
    }

    private func depth() throws(Ext4Error) -> UInt16 {
        try inode.mapping.withReadLock { () throws(Ext4Error) in
            try ExtentTree(volume: volume, inode: inode).depth
        }
    }

    // MARK: The page cache

    private func writeBuffered(_ blocks: Range<UInt64>) throws(Ext4Error) -> DelegatedMapping {
        let first = blocks.lowerBound
        let run = try core.run(at: first)
        let end = min(run.range.upperBound, blocks.upperBound, first + Self.windowBlockCount)
        var found = answer(run, from: first, to: end)
        switch run.target {
        case .mapped where !isOutOfPlace: return answer(run, from: first)
        case .unwritten: try promise(.converting, first..<end)
        default: try promise(.delayed, first..<end)
        }
        if case .mapped = run.target {
            found.write = DelegatedRun(range: found.read.range, kind: .delayed, isShared: true)
        } else if run.target == .hole {
            found.read.kind = .delayed
        }
        return found
    }

    private func promise(_ kind: Promises.Kind, _ range: Range<UInt64>) throws(Ext4Error) {
        try delegation.promise(kind, range, depth: try depth(), privileged: isPrivileged)
    }

    /// Zeros over what reads as zeros take nothing, unless the page cache knows better.
    private func zero(_ blocks: Range<UInt64>) throws(Ext4Error) -> DelegatedMapping {
        let first = blocks.lowerBound
        let run = try core.run(at: first)
        switch run.target {
        case .hole:
            let (isPromised, next) = delegation.withState { state in
                let all = [state.delayed, state.writeback]
                let isPromised = all.contains { $0.promise(at: first) != nil }
                return (isPromised, all.compactMap { $0.next(from: first) }.min())
            }
            return isPromised ? try writeBuffered(first..<first + 1) : answer(run, from: first, to: next ?? .max)
        case .unwritten: return answer(run, from: first)
        default: return try writeBuffered(blocks)
        }
    }

    /// Never a hole: the kernel would drop the data. Takes no space that was not promised before.
    private func writeBack(_ blocks: Range<UInt64>) throws(Ext4Error) -> DelegatedMapping {
        let first = blocks.lowerBound
        let run = try core.run(at: first)
        let (given, next) = delegation.withState { ($0.writeback.promise(at: first), $0.writeback.next(from: first)) }
        if let given {
            let end = min(given.range.upperBound, run.range.upperBound)
            delegation.withState { _ = $0.delayed.remove(first..<min(end, blocks.upperBound)) }
            guard case .staged(let start) = given.kind else { return answer(run, from: first, to: end) }
            return staged(start, first..<end, over: run)
        }
        if case .mapped = run.target {
            let promised = delegation.withState { $0.delayed.next(from: first) }
            // What was not promised a new place was written before the file was said to go out of place.
            if !isOutOfPlace || promised != first {
                let last = isOutOfPlace ? min(promised ?? .max, blocks.upperBound) : .max
                let end = min(run.range.upperBound, next ?? .max, last)
                delegation.withState { _ = $0.delayed.remove(first..<min(end, blocks.upperBound)) }
                return answer(run, from: first, to: end)
            }
        }
        let isConversion: Bool = if case .unwritten = run.target { true } else { false }
        let most = min(run.range.upperBound, next ?? .max, max(blocks.upperBound, first + Self.windowBlockCount))
        var end = min(most, blocks.upperBound)
        try promise(isConversion ? .converting : .delayed, first..<end)
        // What follows and was promised alike is dirty as well.
        if let more = delegation.withState({ $0.delayed.promise(at: end) }),
            (more.kind == .converting) == isConversion
        {
            end = min(most, more.range.upperBound)
        }
        guard isConversion else { return try stageForWriteback(first..<end, over: run) }
        delegation.withState { state in
            _ = state.delayed.remove(first..<end)
            state.writeback.insert(Promises.Promise(range: first..<end, kind: .converting))
        }
        return answer(run, from: first, to: end)
    }

    private func stageForWriteback(_ range: Range<UInt64>, over run: Mapping) throws(Ext4Error) -> DelegatedMapping {
        let first = range.lowerBound
        let before = first == 0 ? nil : delegation.withState { $0.writeback.promise(at: first - 1) }
        var goal = try core.goal(before: first)
        if case .staged(let start) = before?.kind { goal = start + 1 }
        let blocks = try volume.blocks.stage(upTo: UInt32(range.count), goal: goal, from: delegation.space)
        let taken = first..<first + UInt64(blocks.count)
        delegation.withState { state in
            _ = state.delayed.remove(taken)
            state.writeback.insert(Promises.Promise(range: taken, kind: .staged(blocks.start)))
        }
        return staged(blocks.start, taken, over: run)
    }

    /// New blocks that read as zeros until they have been written, or in the place of data.
    private func staged(_ start: FSBlock, _ range: Range<UInt64>, over run: Mapping) -> DelegatedMapping {
        guard case .mapped = run.target else {
            return answer(Mapping(range: range, target: .staged(start)), from: range.lowerBound)
        }
        var found = answer(run, from: range.lowerBound, to: range.upperBound)
        found.write = answer(Mapping(range: range, target: .mapped(start)), from: range.lowerBound).read
        found.write?.isShared = true
        return found
    }

    // MARK: Direct writes

    /// Nil where the page cache has to do it: a part of a block that is not overwritten in place, or that another
    /// direct write still has.
    private func writeDirect(
        _ bytes: Range<UInt64>, _ blocks: Range<UInt64>, isAtomic: Bool
    ) throws(Ext4Error) -> DelegatedMapping? {
        let first = blocks.lowerBound
        let run = try core.run(at: first)
        let (isTaken, next) = delegation.withState { state in
            (state.direct.promise(at: first) != nil, state.direct.next(from: first))
        }
        if isTaken { return nil }
        let end = min(run.range.upperBound, blocks.upperBound, next ?? .max, first + Self.windowBlockCount)
        let data: UInt64
        switch run.target {
        case .mapped where !isOutOfPlace && !isAtomic: return answer(run, from: first, to: next ?? .max)
        case .unwritten: data = 0
        case .mapped:
            guard try !isPartial(bytes, blocks) else { return nil }
            data = end - first
        default: data = end - first
        }
        let depth = try depth()
        let nodes = Delegation.nodesNeeded(depth: depth, blocks: end - first)
        let space = try volume.blocks.reserve(data + nodes, privileged: isPrivileged, upkeep: data == 0)
        var promise = Promises.Promise(range: first..<end, kind: .converting)
        if data > 0 {
            let goal = try core.goal(before: first)
            let taken = try volume.blocks.stage(upTo: UInt32(data), goal: goal, from: space)
            promise = Promises.Promise(range: first..<first + UInt64(taken.count), kind: .staged(taken.start))
        }
        delegation.withState { state in
            delegation.space.absorb(space)
            state.depth = max(state.depth, depth)
            state.direct.insert(promise)
        }
        guard case .staged(let start) = promise.kind else { return answer(run, from: first, to: end) }
        return staged(start, promise.range, over: run)
    }

    /// Whether a direct write covers a block with data in part: the kernel would not copy the rest of it.
    private func isPartial(_ bytes: Range<UInt64>, _ blocks: Range<UInt64>) throws(Ext4Error) -> Bool {
        if bytes.lowerBound % unit != 0 { return true }
        guard bytes.upperBound % unit != 0 else { return false }
        if case .mapped = try core.run(at: blocks.upperBound - 1).target { return true }
        return false
    }

    // MARK: The end

    /// See `FileSystem.endDelegated`.
    func end(_ bytes: Range<UInt64>, written: UInt64, isDirect: Bool) {
        let first = written == 0 ? bytes.lowerBound / unit : (bytes.lowerBound + written + unit - 1) / unit
        let end = (bytes.upperBound + unit - 1) / unit
        guard first < end else { return }
        let lease = lease(first..<end, exclusive: true)
        defer { lease.release() }
        delegation.dropUnused(first..<end, isDirect: isDirect)
    }

    /// See `FileSystem.finishDelegated`.
    func finish(_ done: DelegatedCompletion) throws(Ext4Error) {
        guard !done.bytes.isEmpty else { return }
        let blocks = done.bytes.lowerBound / unit..<(done.bytes.upperBound + unit - 1) / unit
        let lease = lease(blocks, exclusive: true)
        defer { lease.release() }
        if done.hasFailed {
            return delegation.dropFailed(blocks, isDirect: done.isDirect, isGivenUp: done.isGivenUp)
        }
        let old = try core.begin(reading: blocks)
        let depth = try depth()
        // The page cache is written back block by block, and this range is published now: nobody else has it.
        let taken = take(blocks, done)
        defer { delegation.withState { $0.publishing -= UInt64(blocks.count) } }
        let write = StagedWrite(volume.blocks, space: delegation.space, cost: .extents(depth: depth), replacing: old)
        for promise in taken { try add(promise, to: write, old) }
        guard !write.mappings.isEmpty || done.movesSize && done.bytes.upperBound > inode.size else { return }
        guard !inode.isDeleted else { throw .posix(Errno.stale) }
        try volume.requireWritable()
        try requireNodes(depth)
        let end = done.movesSize ? done.bytes.upperBound : 0
        try core.ioend(write, endOfData: end)
    }

    /// Takes what a completion is about out of the promises.
    private func take(_ blocks: Range<UInt64>, _ done: DelegatedCompletion) -> [Promises.Promise] {
        delegation.withState { state in
            state.publishing += UInt64(blocks.count)
            guard done.publishes else { return [] }
            let given = done.isDirect ? state.direct : state.writeback
            let mine = given.within(blocks).filter { promise in
                guard let address = done.address, case .staged(let start) = promise.kind else { return true }
                let skipped = promise.range.lowerBound - blocks.lowerBound
                return address.isOne(of: volume.offset(of: start), skipping: skipped * unit)
            }
            for promise in mine {
                _ = done.isDirect ? state.direct.remove(promise.range) : state.writeback.remove(promise.range)
            }
            return mine
        }
    }

    /// A conversion is what is still unwritten of it.
    private func add(_ promise: Promises.Promise, to write: StagedWrite, _ old: [Mapping]) throws(Ext4Error) {
        if case .staged(let start) = promise.kind {
            return write.mappings.append(Mapping(range: promise.range, target: .staged(start)))
        }
        for mapping in old where mapping.range.overlaps(promise.range) {
            guard case .unwritten = mapping.target else { continue }
            write.mappings.append(mapping.part(mapping.range.clamped(to: promise.range)))
        }
    }

    /// Before anything changes: there are blocks for the tree nodes of one publication.
    private func requireNodes(_ depth: UInt16) throws(Ext4Error) {
        let needed = ExtentTree.nodesNeeded(depth: depth)
        guard delegation.space.remaining < needed else { return }
        let more = try volume.blocks.reserve(needed, privileged: true, upkeep: true)
        delegation.withState { _ in delegation.space.absorb(more) }
    }
}
