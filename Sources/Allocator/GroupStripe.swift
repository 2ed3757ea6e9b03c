internal import Ext4Format

/// What the lock of a stripe guards: the loaded groups that share it, and which of its groups are out of use.
struct GroupStripe {
    /// Loaded block maps by group number.
    var blocks: [UInt32: BlockGroup] = [:]
    /// No inode below this index is free in the group; absent: nothing known.
    var lowestFreeInode: [UInt32: UInt32] = [:]
    /// Groups whose block bitmap or descriptor is damaged.
    var withoutBlocks: Set<UInt32> = []
    /// Groups whose inode bitmap or descriptor is damaged.
    var withoutInodes: Set<UInt32> = []
    private var clock: UInt64 = 0

    /// The hints kept per stripe; a hint that is gone costs one scan of a bitmap.
    private static let hintLimit = 256

    mutating func touch(_ group: BlockGroup) {
        clock += 1
        group.lastUse = clock
    }

    /// Makes room for one more loaded group. Groups with staged blocks or pending frees stay: their index alone knows.
    /// One that is out of use stays that.
    mutating func evict(above limit: Int) {
        while blocks.count >= limit {
            guard let victim = blocks.filter({ $0.value.isClean }).min(by: { $0.value.lastUse < $1.value.lastUse })
            else { return }
            if victim.value.isOutOfUse { withoutBlocks.insert(victim.key) }
            blocks[victim.key] = nil
        }
    }

    mutating func setLowestFreeInode(_ index: UInt32, of group: UInt32) {
        if lowestFreeInode.count >= Self.hintLimit { lowestFreeInode.removeAll(keepingCapacity: true) }
        lowestFreeInode[group] = index
    }
}

/// The in-core view of one group: what may be given out now. Guarded by the group's lock.
final class BlockGroup {
    var index: BuddyIndex
    /// Taken out of `index`, not yet set in the bitmap: staged or kept in a window.
    var stagedCount = 0
    /// Clear in the bitmap, not yet back in `index`: the transaction that freed them is not durable.
    var pendingCount = 0
    /// The order under which the group is listed.
    var listedOrder: Int?
    var lastUse: UInt64 = 0
    /// Its bitmap or descriptor was found damaged after it had been loaded: nothing more is given out.
    var isOutOfUse = false
    /// The system blocks of the group, while the bitmap on disk was never written.
    var initialBits: [Range<Int>]?

    init(_ index: BuddyIndex, initialBits: [Range<Int>]?) {
        self.index = index
        self.initialBits = initialBits
        listedOrder = index.largestOrder
    }

    var isClean: Bool { stagedCount == 0 && pendingCount == 0 }
}
