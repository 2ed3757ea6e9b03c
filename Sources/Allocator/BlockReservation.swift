internal import Ext4Format
internal import Threads

/// The promise of a number of free clusters. What a reservation did not use goes back when it is dropped.
package final class BlockReservation: Sendable {
    private struct State {
        /// Promised, wherever they lie.
        var promised: UInt64
        /// Staged already, since it matters where they lie: on volumes where a cluster is a block.
        var held: [BlockRun] = []
    }
    private let allocator: BlockAllocator
    private let state: Monitor<State>

    init(_ count: UInt64, of allocator: BlockAllocator) {
        self.allocator = allocator
        state = Monitor(State(promised: count))
    }

    deinit {
        let left = state.withLock { $0 }
        allocator.giveBack(left.promised)
        for run in left.held { allocator.unstage(run) }
    }

    /// Clusters that can still be staged from it.
    package var remaining: UInt64 {
        state.withLock { state in state.held.reduce(state.promised) { $0 + UInt64($1.count) } }
    }

    /// Up to `count` clusters of the promise, for the caller to use or to put back.
    func claim(upTo count: UInt64) -> UInt64 {
        state.withLock { state in
            let claimed = min(count, state.promised)
            state.promised -= claimed
            return claimed
        }
    }

    /// Takes over what is left of another promise of the same allocator.
    package func absorb(_ other: BlockReservation) {
        putBack(other.claim(upTo: .max))
        let held = other.state.withLock { state in
            defer { state.held = [] }
            return state.held
        }
        state.withLock { $0.held += held }
    }

    /// Gives up what is left of the promise beyond `count`.
    package func giveBack(keeping count: UInt64) {
        let surplus = state.withLock { state in
            let surplus = state.promised - min(state.promised, count)
            state.promised -= surplus
            return surplus
        }
        allocator.giveBack(surplus)
    }

    func putBack(_ count: UInt64) { state.withLock { $0.promised += count } }

    // MARK: Held blocks

    /// Keeps a run that has been staged for it.
    func hold(_ run: BlockRun) { state.withLock { $0.held.append(run) } }

    /// Up to `count` adjacent blocks of those it keeps, which are the caller's then.
    func takeHeld(upTo count: UInt32) -> BlockRun? {
        state.withLock { state -> BlockRun? in
            guard let first = state.held.first else { return nil }
            let taken = min(count, first.count)
            state.held[0] = BlockRun(start: first.start + UInt64(taken), count: first.count - taken)
            if state.held[0].count == 0 { state.held.removeFirst() }
            return BlockRun(start: first.start, count: taken)
        }
    }
}
