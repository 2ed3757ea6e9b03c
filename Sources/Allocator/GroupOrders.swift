internal import Ext4Format

/// Which groups have free blocks, by the largest free run, and which have free inodes: what a search asks instead of
/// looking at one group after the other.
///
/// A group is in no list until its descriptor has been looked at once ("discovered", a descriptor block at a time) or
/// its bitmap loaded. A descriptor gives a guess (as if all free blocks were one run); a loaded bitmap the truth. No
/// lock of its own.
struct GroupOrders: Sendable {
    private static let chunkShift: UInt32 = 12, chunkMask: UInt32 = 4095
    /// Groups by order.
    private var lists: [GroupSet]
    /// Of each group: 0 nothing known, 1 no free block (or unusable), 2 + k: in list k. By chunks of 4,096 groups.
    private var known: [UInt32: [UInt8]] = [:]
    private var withInodes = GroupSet()
    private var inodesKnown = GroupSet()
    /// Descriptor blocks not looked at yet, as bits.
    private var undiscovered: [UInt64]
    private var undiscoveredCount: Int
    /// Descriptor blocks that some thread is looking at now: the lists are not complete before it has ended.
    private var underWayCount = 0

    init(descriptorBlockCount: UInt32, orderCount: Int) {
        lists = [GroupSet](repeating: GroupSet(), count: orderCount)
        let count = Int(descriptorBlockCount)
        undiscovered = (0..<(count + 63) / 64).map { wordMask($0, 0..<count) }
        undiscoveredCount = count
    }

    // MARK: Blocks

    /// The truth, from a loaded bitmap: nil is a full or unusable group.
    mutating func setOrder(_ order: Int?, of group: UInt32) {
        let code = UInt8(order.map { $0 + 2 } ?? 1)
        let key = group >> Self.chunkShift, index = Int(group & Self.chunkMask)
        let old = known[key]?[index] ?? 0
        guard old != code else { return }
        if old >= 2 { lists[Int(old) - 2].remove(group) }
        known[key, default: [UInt8](repeating: 0, count: 1 << Int(Self.chunkShift))][index] = code
        if let order { lists[order].insert(group) }
    }

    /// A guess, from a descriptor: does not replace what is known.
    mutating func guess(freeBlockCount: UInt32, of group: UInt32) {
        guard known[group >> Self.chunkShift]?[Int(group & Self.chunkMask)] ?? 0 == 0 else { return }
        let order = freeBlockCount == 0 ? nil : UInt32.bitWidth - 1 - freeBlockCount.leadingZeroBitCount
        setOrder(order.map { min($0, lists.count - 1) }, of: group)
    }

    /// The nearest group before `limit`, from `group` on and then from the start, with a free run of 2^`order` or more.
    func nearest(order: Int, from group: UInt32, before limit: UInt32) -> UInt32? {
        var ahead: UInt32?, behind: UInt32?
        for list in lists[min(order, lists.count)...] {
            if let found = list.next(from: group), found < limit {
                ahead = min(ahead ?? found, found)
            } else if ahead == nil, let found = list.next(from: 0), found < limit {
                behind = min(behind ?? found, found)
            }
        }
        return ahead ?? behind
    }

    // MARK: Inodes

    mutating func setHasInodes(_ value: Bool, of group: UInt32) {
        inodesKnown.insert(group)
        if value { withInodes.insert(group) } else { withInodes.remove(group) }
    }

    mutating func guessHasInodes(_ value: Bool, of group: UInt32) {
        if !inodesKnown.contains(group) { setHasInodes(value, of: group) }
    }

    func nearestWithInodes(from group: UInt32) -> UInt32? { withInodes.next(from: group) ?? withInodes.next(from: 0) }

    // MARK: Discovery

    enum Discovery {
        /// The descriptor block (0 is the first of the table) to look at, with `endDiscovery` afterwards.
        case block(Int)
        /// Others are looking at the last ones.
        case underWay
        case complete
    }

    /// What a search that found nothing in the lists does next: the nearest descriptor block not looked at yet.
    mutating func beginDiscovery(from block: Int) -> Discovery {
        guard undiscoveredCount > 0 else { return underWayCount > 0 ? .underWay : .complete }
        var index = block / 64
        var word = undiscovered[index] & UInt64.max << UInt64(block % 64)
        while word == 0 {
            index = (index + 1) % undiscovered.count
            word = undiscovered[index]
        }
        let bit = word.trailingZeroBitCount
        undiscovered[index] &= ~(1 << UInt64(bit))
        undiscoveredCount -= 1
        underWayCount += 1
        return .block(index * 64 + bit)
    }

    mutating func endDiscovery() { underWayCount -= 1 }
}
