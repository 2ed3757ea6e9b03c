internal import Ext4Format

/// One part of the cache's table, with its clock hand. Its monitor is the only lock.
struct CacheShard {
    private struct Slot {
        var block: CachedBlock?
        /// Used since the hand last passed.
        var isRecent = false
    }
    private let capacity: Int
    private var index: [UInt64: Int] = [:]
    private var slots: [Slot] = []
    private var free: [Int] = []
    private var hand = 0

    /// How far the hand goes for one insertion: it must not walk a shard full of dirty blocks under the lock.
    private static let stepsPerInsertion = 64

    init(capacity: Int) { self.capacity = capacity }

    var count: Int { index.count }

    mutating func lookUp(_ number: UInt64) -> CachedBlock? {
        guard let slot = index[number] else { return nil }
        slots[slot].isRecent = true
        return slots[slot].block
    }

    /// The number is not in the table.
    mutating func insert(_ block: CachedBlock) {
        if index.count >= capacity { evict() }
        let slot: Int
        if let unused = free.popLast() {
            slot = unused
        } else {
            slot = slots.count
            slots.append(Slot())
        }
        slots[slot] = Slot(block: block, isRecent: true)
        index[block.number.rawValue] = slot
    }

    mutating func remove(_ number: UInt64) {
        guard let slot = index.removeValue(forKey: number) else { return }
        slots[slot].block = nil
        free.append(slot)
    }

    mutating func removeUnused(_ number: UInt64) {
        guard let slot = index[number], isEvictable(slot) else { return }
        remove(number)
    }

    mutating func removeUnused(in range: Range<UInt64>) {
        for number in index.keys where range.contains(number) { removeUnused(number) }
    }

    /// Only the table holds it, and nobody can take a reference while the shard is locked.
    private mutating func isEvictable(_ slot: Int) -> Bool { isKnownUniquelyReferenced(&slots[slot].block) }

    /// Makes room for one block, and for one more while the table is past its capacity, so that it shrinks again after
    /// a burst of dirty blocks.
    private mutating func evict() {
        var wanted = index.count > capacity ? 2 : 1
        for _ in 0..<min(Self.stepsPerInsertion, slots.count * 2) {
            hand = hand + 1 < slots.count ? hand + 1 : 0
            if slots[hand].block == nil { continue }
            if slots[hand].isRecent {
                slots[hand].isRecent = false
            } else if isEvictable(hand), let block = slots[hand].block {
                remove(block.number.rawValue)
                wanted -= 1
                if wanted == 0 { return }
            }
        }
    }
}
