package import Ext4Format
package import Journal
internal import Synchronization
internal import Threads

/// The group descriptors, through the cache, and one lock per group (striped): whoever changes a bitmap or a
/// descriptor, or decides by them, holds it.
///
/// A descriptor that is damaged takes its own group out of use and no other; nothing of a damaged group is rewritten.
package final class GroupTable: Sendable {
    let layout: VolumeLayout
    let cache: MetadataCache
    private let stripes: [Monitor<GroupStripe>]
    private let orders: Monitor<GroupOrders>
    private let damageList = Monitor<[Ext4Error]>([])
    private let firstUnreadable = Mutex<Ext4Error?>(nil)
    private let onDamage = Mutex<DamageHook?>(nil)
    let descriptorsPerBlock: UInt32
    static let stripeCount = 64
    /// The names kept for `damage`.
    private static let damageLimit = 64

    package init(layout: VolumeLayout, cache: MetadataCache) {
        self.layout = layout
        self.cache = cache
        stripes = (0..<min(Self.stripeCount, max(1, Int(layout.groupCount)))).map { _ in Monitor(GroupStripe()) }
        descriptorsPerBlock = UInt32(layout.blockByteCount / layout.superBlock.groupDescriptorByteCount)
        let bits = Int(layout.superBlock.clustersPerGroup)
        orders = Monitor(
            GroupOrders(
                descriptorBlockCount: layout.descriptorBlockCount,
                orderCount: Int.bitWidth - bits.leadingZeroBitCount))
    }

    /// `body` hears once of every group that is found damaged. Any lock of the volume may be held.
    package func setOnDamage(_ body: @escaping @Sendable (Ext4Error) -> Void) {
        onDamage.withLock { $0 = DamageHook(body: body) }
    }

    /// What has been found damaged since the mount, the first 64 of it.
    package var damage: [Ext4Error] { damageList.withLock { $0 } }

    // MARK: Locks and lists

    /// Runs `body` with the lock of the group. Not recursive, and never two groups at once.
    func withLock<R>(
        _ group: GroupNumber, _ body: (inout GroupStripe) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        try stripes[Int(group.rawValue) % stripes.count].withLock(body)
    }

    /// Runs `body` on a group that is loaded because it has staged blocks or pending frees.
    func withLoadedGroup(_ group: GroupNumber, _ body: (BlockGroup) -> Void) {
        stripes[Int(group.rawValue) % stripes.count].withLock { stripe in
            guard let state = stripe.blocks[group.rawValue] else {
                preconditionFailure("a group with staged blocks or pending frees was dropped")
            }
            body(state)
        }
    }

    /// The lists of groups; a leaf lock, no I/O under it.
    func withOrders<R>(_ body: (inout GroupOrders) -> R) -> R { orders.withLock(body) }

    /// Keeps the name of what is damaged, and reports it the first time.
    func note(_ problem: Ext4Error) {
        let isNew = damageList.withLock { list in
            guard !list.contains(problem) else { return false }
            if list.count < Self.damageLimit { list.append(problem) }
            return true
        }
        guard isNew, let hook = onDamage.withLock({ $0 }) else { return }
        hook.body(problem)
    }

    /// Keeps the first error of a device that hides what a group has free.
    func noteUnreadable(_ error: Ext4Error) {
        if case .io = error { firstUnreadable.withLock { $0 = $0 ?? error } }
    }

    /// Why less may be found than the counts promise, where that is no damage.
    var unreadable: Ext4Error? { firstUnreadable.withLock { $0 } }

    /// Looks at the next descriptor block, nearest to `group`, that no search has looked at, or waits for those who
    /// look at the last ones; false when the lists were complete before the call. No group's lock is held.
    func discover(near group: GroupNumber) -> Bool {
        let wanted = Int(group.rawValue / descriptorsPerBlock)
        var hasWaited = false
        let index = orders.wait { orders -> Int?? in
            switch orders.beginDiscovery(from: wanted) {
            case .block(let index): return .some(index)
            case .complete: return .some(nil)
            case .underWay:
                hasWaited = true
                return nil
            }
        }
        guard let index else { return hasWaited }
        defer {
            withOrders { $0.endDiscovery() }
            orders.notifyAll()
        }
        let first = UInt32(index) * descriptorsPerBlock
        let end = UInt32(min(UInt64(first) + UInt64(descriptorsPerBlock), UInt64(layout.groupCount)))
        // The next ones will be asked for soon in a volume where this one is; one transfer brings them.
        if index % 16 == 0 || index == wanted {
            cache.prefetch(layout.descriptor(of: GroupNumber(first)).block, count: 16)
        }
        for number in first..<end {
            do throws(Ext4Error) {
                let facts = try descriptor(GroupNumber(number))
                withOrders {
                    $0.guess(freeBlockCount: facts.freeBlockCount, of: number)
                    $0.guessHasInodes(facts.freeInodeCount > 0, of: number)
                }
            } catch {
                // It stays out of the lists; whoever needs this very group gets the error.
                noteUnreadable(error)
            }
        }
        return true
    }

    // MARK: Descriptors

    /// The descriptor as the running transaction has it: checksum right, its blocks within the volume. Takes the
    /// group's lock.
    package func descriptor(_ group: GroupNumber) throws(Ext4Error) -> GroupDescriptor {
        guard group.rawValue < layout.groupCount else {
            throw .corrupt("group number", where: "group \(group.rawValue) of \(layout.groupCount)")
        }
        // Read before the lock is taken, so that nobody waits for this transfer.
        let block = try table(of: group)
        return try withLock(group) { _ throws(Ext4Error) in try lockedDescriptor(group, block) }
    }

    /// The block that holds the descriptor.
    func table(of group: GroupNumber) throws(Ext4Error) -> CachedBlock {
        try cache.block(layout.descriptor(of: group).block)
    }

    /// As `descriptor`, for a caller that has the group's lock. `block` is the group's `table`.
    func lockedDescriptor(_ group: GroupNumber, _ block: CachedBlock) throws(Ext4Error) -> GroupDescriptor {
        let range = layout.descriptor(of: group).bytes
        // The whole block is checked once. Where one descriptor of it is bad, each is checked on its own every time.
        let isWholeBlockGood: Bool
        do throws(Ext4Error) {
            try block.verifyOnce { bytes throws(Ext4Error) in try checkAll(bytes, around: group) }
            isWholeBlockGood = true
        } catch { isWholeBlockGood = false }
        return try block.withBytes { bytes throws(Ext4Error) in
            if !isWholeBlockGood { try check(bytes.extracting(range), group) }
            return GroupDescriptor(decoding: bytes.extracting(range))
        }
    }

    /// Writes the counts, flags and checksums of a descriptor into the group's `table` through the handle: 1 credit.
    /// The caller has the lock.
    func store(
        _ descriptor: GroupDescriptor, of group: GroupNumber, to block: CachedBlock, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let range = layout.descriptor(of: group).bytes
        try handle.modify(block) { bytes throws(Ext4Error) in
            var part = bytes._mutatingExtracting(range)
            descriptor.encode(into: &part, group: group, superBlock: layout.superBlock)
        }
    }

    private func checkAll(_ bytes: RawSpan, around group: GroupNumber) throws(Ext4Error) {
        let first = group.rawValue / descriptorsPerBlock * descriptorsPerBlock
        let end = UInt32(min(UInt64(first) + UInt64(descriptorsPerBlock), UInt64(layout.groupCount)))
        for number in first..<end {
            try check(bytes.extracting(layout.descriptor(of: GroupNumber(number)).bytes), GroupNumber(number))
        }
    }

    private func check(_ bytes: RawSpan, _ group: GroupNumber) throws(Ext4Error) {
        guard GroupDescriptor.isChecksumRight(bytes, group: group, superBlock: layout.superBlock) else {
            throw .corrupt("group descriptor", where: "group \(group.rawValue): checksum")
        }
        let descriptor = GroupDescriptor(decoding: bytes)
        let tables: [(name: String, start: FSBlock, count: UInt32)] = [
            ("block bitmap", descriptor.blockBitmap, 1), ("inode bitmap", descriptor.inodeBitmap, 1),
            ("inode table", descriptor.inodeTable, layout.inodeTableBlockCount),
        ]
        for (index, table) in tables.enumerated() {
            let start = table.start.rawValue, end = start &+ UInt64(table.count)
            guard isInside(start, end, of: group), !isHeader(start) else {
                throw .corrupt("group descriptor", where: "group \(group.rawValue): \(table.name) at block \(start)")
            }
            for other in tables[..<index]
            where start < other.start.rawValue + UInt64(other.count) && other.start.rawValue < end {
                throw .corrupt("group descriptor", where: "group \(group.rawValue): \(table.name) on the \(other.name)")
            }
        }
        guard descriptor.freeBlockCount <= layout.clusterCount(of: group),
            descriptor.freeInodeCount <= layout.superBlock.inodesPerGroup,
            descriptor.unusedInodeCount <= layout.superBlock.inodesPerGroup,
            descriptor.directoryCount <= layout.superBlock.inodesPerGroup
        else { throw .corrupt("group descriptor", where: "group \(group.rawValue): counts") }
    }

    /// With flex_bg the bitmaps and tables of a group may lie anywhere on the volume, else within the group.
    private func isInside(_ start: UInt64, _ end: UInt64, of group: GroupNumber) -> Bool {
        var low = UInt64(layout.superBlock.firstDataBlock), high = layout.superBlock.blockCount
        if !layout.superBlock.features.incompatible.contains(.flexibleGroups) {
            low = layout.firstBlock(of: group).rawValue
            high = low + UInt64(layout.blockCount(of: group))
        }
        return start >= low && start < end && end <= high
    }

    /// Whether a block holds a copy of the super block or the descriptors, or is kept for more of these.
    func isHeader(_ block: UInt64) -> Bool {
        guard let place = layout.place(of: FSBlock(block)) else { return true }
        return block - layout.firstBlock(of: place.group).rawValue < UInt64(layout.headerBlockCount(of: place.group))
    }

    // MARK: Sums

    /// The counts of all descriptors, read in large transfers. A damaged descriptor counts as zero and is noted. For
    /// the mount, after recovery: the super block's own counts may be older than the descriptors.
    package func sum() throws(Ext4Error) -> (freeClusters: UInt64, freeInodes: UInt32, directories: UInt32) {
        var clusters: UInt64 = 0, inodes: UInt32 = 0, directories: UInt32 = 0
        let stride = max(1, (1 << 20) / layout.blockByteCount)
        for number in 0..<layout.groupCount {
            if number % (descriptorsPerBlock * UInt32(stride)) == 0 {
                // Behind the last descriptor lies what may be file data or the log.
                let left = (layout.groupCount - number + descriptorsPerBlock - 1) / descriptorsPerBlock
                cache.prefetch(layout.descriptor(of: GroupNumber(number)).block, count: min(stride, Int(left)))
            }
            do throws(Ext4Error) {
                let one = try descriptor(GroupNumber(number))
                clusters += UInt64(one.freeBlockCount)
                // Cannot overflow: each is at most inodesPerGroup, and all groups together have 2^32 - 1 at most.
                inodes += one.freeInodeCount
                directories += one.directoryCount
            } catch {
                guard case .corrupt = error else { throw error }
                note(error)
            }
        }
        return (clusters, inodes, directories)
    }
}

private struct DamageHook: Sendable {
    let body: @Sendable (Ext4Error) -> Void
}
