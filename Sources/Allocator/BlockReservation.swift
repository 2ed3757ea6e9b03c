internal import Threads

/// The promise of a number of free blocks. What a reservation did not use goes back when it is dropped.
package final class BlockReservation: Sendable {
    private let allocator: BlockAllocator
    private let left: Monitor<UInt64>

    init(_ count: UInt64, of allocator: BlockAllocator) {
        self.allocator = allocator
        left = Monitor(count)
    }

    deinit { allocator.giveBack(left.withLock { $0 }) }

    /// Blocks that can still be staged from it.
    package var remaining: UInt64 { left.withLock { $0 } }

    /// Up to `count` blocks of the promise, for the caller to use or to put back.
    func claim(upTo count: UInt64) -> UInt64 {
        left.withLock { left in
            let claimed = min(count, left)
            left -= claimed
            return claimed
        }
    }

    /// Takes over what is left of another promise of the same allocator.
    package func absorb(_ other: BlockReservation) { putBack(other.claim(upTo: .max)) }

    /// Gives up what is left beyond `count`.
    package func giveBack(keeping count: UInt64) {
        let surplus = left.withLock { left in
            let surplus = left - min(left, count)
            left -= surplus
            return surplus
        }
        allocator.giveBack(surplus)
    }

    func putBack(_ count: UInt64) { left.withLock { $0 += count } }
}
