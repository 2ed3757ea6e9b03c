internal import Ext4Format

/// Where the free clusters of the volume stand. All in clusters.
struct BlockCounts: Sendable {
    /// Clear bits in the bitmaps as the running transaction has them.
    var durable: UInt64
    /// Of these, taken out of the in-core map and not yet set in a bitmap.
    var staged: UInt64 = 0
    /// Of these, freed by a transaction that is not durable yet.
    var pending: UInt64 = 0
    /// Of these, in groups that are out of use.
    var lost: UInt64 = 0
    /// Promised to reservations and not yet staged.
    var reserved: UInt64 = 0
    /// Pending frees that have ever become free.
    var released: UInt64 = 0

    init(durable: UInt64) { self.durable = durable }

    /// What can be promised now. The super block's count may be wrong on a damaged volume, hence no underflow.
    var available: UInt64 {
        let taken = staged + pending + lost + reserved
        return taken < durable ? durable - taken : 0
    }
}
