internal import Allocator
internal import Ext4Format
internal import Threads

/// What one file owes to a kernel that moves its data itself: blocks that were promised or given out and of which the
/// kernel has not said yet that they are written. Nothing on disk names them, so a crash leaks none.
///
/// It lives as long as the kernel refers to the inode. Who changes what is promised for blocks holds the range lock of
/// these, exclusively; the state has a leaf lock of its own.
final class Delegation: Sendable {
    let inode: Inode
    /// For what is delayed, and for the tree nodes that publishing may need: decided when a write begins, so that
    /// writeback never meets a full volume.
    let space: BlockReservation
    private let allocator: BlockAllocator

    struct State {
        /// What the page cache will write back, and what it is writing back.
        var delayed = Promises(), writeback = Promises()
        /// What direct writes were given. Apart from the others: one overtakes the other.
        var direct = Promises()
        /// Blocks that are being published.
        var publishing: UInt64 = 0
        /// What lies behind the end of the file has been looked at.
        var isTailClear = false
        /// The deepest that the extent tree has been seen.
        var depth: UInt16 = 0

        fileprivate var blockCount: UInt64 {
            delayed.blockCount + writeback.blockCount + direct.blockCount + publishing
        }

        /// How much of the reservation may be needed.
        fileprivate var needed: UInt64 {
            blockCount == 0 ? 0 : delayed.delayedCount + Delegation.nodesNeeded(depth: depth, blocks: blockCount)
        }
    }
    private let state = Monitor(State())

    init(of inode: Inode, _ volume: Volume) throws(Ext4Error) {
        self.inode = inode
        allocator = volume.blocks
        space = try volume.blocks.reserve(0, privileged: true)
    }

    deinit { drop(0..<UInt64.max) }

    /// Tree nodes for blocks that are published one by one, in any order: each may make two extents more, and a leaf
    /// that was split has room for forty (1 KiB blocks). Two at once may each split a whole path.
    static func nodesNeeded(depth: UInt16, blocks: UInt64) -> UInt64 {
        2 * ExtentTree.nodesNeeded(depth: depth + 1) + blocks / 20
    }

    func withState<R>(_ body: (inout State) -> R) -> R {
        state.withLock { state in
            defer { space.giveBack(keeping: state.needed) }
            return body(&state)
        }
    }

    // MARK: Promising

    /// Promises what is not promised yet. ENOSPC is decided here.
    func promise(
        _ kind: Promises.Kind, _ range: Range<UInt64>, depth: UInt16, privileged: Bool
    ) throws(Ext4Error) {
        let missing = withState { state in
            let same = state.delayed.within(range).filter { $0.kind == kind }
            return UInt64(range.count) - same.reduce(0) { $0 + UInt64($1.range.count) }
        }
        let data = kind == .delayed ? missing : 0
        let nodes = Self.nodesNeeded(depth: depth, blocks: missing)
        // Nodes again at each: what is too much goes back at once.
        let more = try allocator.reserve(
            missing == 0 ? 0 : data + nodes, privileged: privileged, upkeep: data == 0)
        withState { state in
            space.absorb(more)
            state.depth = max(state.depth, depth)
            var next = range.lowerBound
            for old in state.delayed.remove(range) {
                state.delayed.insert(Promises.Promise(range: next..<old.range.lowerBound, kind: kind, isFresh: true))
                state.delayed.insert(Promises.Promise(range: old.range, kind: kind))
                next = old.range.upperBound
            }
            state.delayed.insert(Promises.Promise(range: next..<range.upperBound, kind: kind, isFresh: true))
        }
    }

    // MARK: Giving back

    /// Nothing of a range will be written any more, or somebody else knows.
    func drop(_ range: Range<UInt64>) {
        withState { state in
            _ = state.delayed.remove(range)
            giveBack(state.writeback.remove(range))
            giveBack(state.direct.remove(range))
        }
    }

    /// A write did not come to this part of what it had begun. What others have asked for as well stays.
    func dropUnused(_ range: Range<UInt64>, isDirect: Bool) {
        withState { state in
            guard !isDirect else { return giveBack(state.direct.remove(range)) }
            for promise in state.delayed.within(range) where promise.isFresh { _ = state.delayed.remove(promise.range) }
        }
    }

    /// What was given out and could not be written. What has been written to the page cache since stays promised, but
    /// not what that has given up.
    func dropFailed(_ range: Range<UInt64>, isDirect: Bool, isGivenUp: Bool) {
        withState { state in
            if isGivenUp { _ = state.delayed.remove(range) }
            giveBack(isDirect ? state.direct.remove(range) : state.writeback.remove(range))
        }
    }

    private func giveBack(_ promises: [Promises.Promise]) {
        for promise in promises {
            guard case .staged(let start) = promise.kind else { continue }
            allocator.unstage(BlockRun(start: start, count: UInt32(promise.range.count)))
        }
    }
}
