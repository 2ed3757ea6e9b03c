package import Ext4Format
internal import Glibc
package import Journal
internal import Threads

/// Which blocks are free, and who gets which.
///
/// Two views. The in-core one decides: a buddy index per group, loaded on demand, from which staged blocks and pending
/// frees are missing. The durable one is the bitmaps, changed only through a handle: `publish` sets bits of staged
/// blocks, `free` clears bits, and the in-core map gets the blocks when the transaction is durable.
///
/// It gives out whole clusters: with bigalloc a bit of a bitmap stands for several blocks, else for one. Runs are in
/// blocks; what is promised, counted and asked for is in clusters. A block of metadata takes one.
///
/// Safe from many threads. Takes group locks and, below these, its own leaf locks; no I/O under any but a group's.
package final class BlockAllocator: Sendable {
    let layout: VolumeLayout
    let cache: MetadataCache
    let groups: GroupTable
    private let zone: SystemZone
    let counts: Monitor<BlockCounts>
    let windows = Monitor(FileWindows())
    /// Held while blocks are out of the in-core map and in no window yet, or out of a window and not back in the map.
    let windowGate = ReaderWriterLock()
    private let commitToFree: @Sendable () throws(Ext4Error) -> Void
    private let loadedLimit: Int
    /// Clusters that only upkeep may take: what needs little, and must not fail for want of room.
    package let keptForUpkeep: UInt64

    /// Memory for the indexes of loaded groups, and the most groups loaded whatever their size.
    private static let loadedByteLimit = 16 << 20, loadedGroupLimit = 1024
    /// A search asks for no free run longer than 2^10 clusters, and settles for less after as many groups or descriptor
    /// blocks: a fragmented volume costs reads once, not on every call.
    private static let largestWantedOrder = 10, attemptLimit = 16, discoverLimit = 8

    /// Commits that one reservation may cause: others may take what the first one has freed.
    private static let commitLimit = 3

    /// `freeBlockCount` is the sum of the descriptors (`GroupTable.sum`) or the super block's count, as
    /// `durableFreeBlockCount` goes on from it: blocks. `commitToFree` makes the running transaction durable; it is
    /// called by `reserve` only, when frees that wait for a commit could help. `keptForUpkeep`: clusters.
    package init(
        layout: VolumeLayout, cache: MetadataCache, groups: GroupTable, freeBlockCount: UInt64,
        keptForUpkeep: UInt64 = 0,
        commitToFree: @escaping @Sendable () throws(Ext4Error) -> Void = { () throws(Ext4Error) in }
    ) {
        self.layout = layout
        self.cache = cache
        self.groups = groups
        self.keptForUpkeep = keptForUpkeep
        self.commitToFree = commitToFree
        zone = SystemZone(groups: groups)
        counts = Monitor(BlockCounts(durable: freeBlockCount >> UInt64(layout.clusterShift)))
        let perStripe = Self.loadedByteLimit / GroupTable.stripeCount / (2 * layout.blockByteCount)
        loadedLimit = min(max(perStripe, 2), Self.loadedGroupLimit / GroupTable.stripeCount)
    }

    // MARK: Counts

    /// For statfs, in blocks: free or soon to be free, and not staged. Promised blocks still count as free.
    package var freeBlockCount: UInt64 {
        counts.withLock { $0.durable - min($0.durable, $0.staged + $0.lost) } << UInt64(layout.clusterShift)
    }
    /// Blocks behind the clear bits of all bitmaps as the running transaction has them: what goes into the super block.
    package var durableFreeBlockCount: UInt64 { counts.withLock { $0.durable } << UInt64(layout.clusterShift) }
    /// Clusters freed by transactions that are not durable yet.
    package var pendingFreeCount: UInt64 { counts.withLock { $0.pending } }
    /// What could be promised now; clusters.
    var unpromisedBlockCount: UInt64 { counts.withLock { $0.available } }
    /// Promised and not yet staged; clusters.
    package var reservedBlockCount: UInt64 { counts.withLock { $0.reserved } }

    /// Starts the durable count anew from the descriptors. Only while nothing is staged, freed or promised: at mount.
    package func recount() throws(Ext4Error) {
        let sum = try groups.sum()
        counts.withLock {
            precondition($0.staged == 0 && $0.pending == 0 && $0.reserved == 0)
            $0.durable = sum.freeClusters
        }
    }

    // MARK: System blocks

    /// Whether a block of the run belongs to the file system itself (copies of the super block and descriptors,
    /// bitmaps, inode tables, what `protect` added) or shares a cluster with one, or lies outside of the volume. Takes
    /// group locks.
    package func isSystemBlock(_ run: BlockRun) -> Bool { zone.contains(run) }

    /// Counts runs, such as those of the journal, as system blocks from now on.
    package func protect(_ runs: [BlockRun]) {
        zone.protect(runs.compactMap { run in run.count > 0 ? run.end.map { run.start.rawValue..<$0.rawValue } : nil })
    }

    // MARK: Reservations

    /// Promises `count` clusters: ENOSPC is decided here and only here. `privileged` callers may use the reserved
    /// blocks, and `upkeep` all. Waits for a commit when frees are pending and could help, so no handle may be open.
    package func reserve(
        _ count: UInt64, privileged: Bool, upkeep: Bool = false
    ) throws(Ext4Error) -> BlockReservation {
        let reserved = privileged ? 0 : layout.superBlock.reservedBlockCount >> UInt64(layout.clusterShift)
        let keep = upkeep ? 0 : keptForUpkeep + reserved
        for _ in 0..<Self.commitLimit {
            let before = counts.withLock { counts -> (isPromised: Bool, released: UInt64, pending: UInt64) in
                (Self.promise(count, keep, &counts), counts.released, counts.pending)
            }
            if before.isPromised { return BlockReservation(count, of: self) }
            guard before.pending > 0 else { throw .posix(ENOSPC) }
            try commitToFree()
            // The commit is durable, but the thread that did it may still be busy with giving the blocks back.
            let isPromised = counts.wait(milliseconds: 10_000) { counts -> Bool? in
                if Self.promise(count, keep, &counts) { return true }
                return counts.released &- before.released >= before.pending ? false : nil
            }
            if isPromised == true { return BlockReservation(count, of: self) }
        }
        throw .posix(ENOSPC)
    }

    /// As `reserve`, with blocks whose numbers are less than `limit`. On a volume that has others they are staged at
    /// once, so that nobody else can take the last of them.
    package func reserve(
        _ count: UInt64, privileged: Bool, upkeep: Bool = false, below limit: UInt64
    ) throws(Ext4Error) -> BlockReservation {
        guard limit < layout.superBlock.blockCount else {
            return try reserve(count, privileged: privileged, upkeep: upkeep)
        }
        precondition(layout.clusterShift == 0, "extents, which clusters need, reach every block")
        for isLast in [false, true] {
            let reservation = try reserve(count, privileged: privileged, upkeep: upkeep)
            if try hold(reservation, below: limit) { return reservation }
            guard !isLast, pendingFreeCount > 0 else { break }
            try commitToFree()
        }
        throw .posix(ENOSPC)
    }

    /// Stages all that is promised; false when there are not so many blocks below the limit.
    private func hold(_ reservation: BlockReservation, below limit: UInt64) throws(Ext4Error) -> Bool {
        let usable = limit - min(limit, UInt64(layout.superBlock.firstDataBlock))
        let groups = UInt32(usable / UInt64(layout.superBlock.blocksPerGroup))
        while reservation.claim(upTo: 1) == 1 {
            let count = 1 + reservation.claim(upTo: UInt64(layout.superBlock.blocksPerGroup) - 1)
            let found = groups == 0 ? nil : try findBelow(groups, UInt32(count))
            reservation.putBack(count - UInt64(found?.count ?? 0))
            guard let found else { return false }
            counts.withLock {
                $0.staged += UInt64(found.count)
                $0.reserved -= UInt64(found.count)
            }
            reservation.hold(found)
        }
        return true
    }

    private func findBelow(_ groups: UInt32, _ count: UInt32) throws(Ext4Error) -> BlockRun? {
        if let run = try find(count, GroupNumber(0), bit: 0, before: groups) { return run }
        return try withoutWindows { () throws(Ext4Error) in
            try find(count, GroupNumber(0), bit: 0, before: groups)
        }
    }

    private static func promise(_ count: UInt64, _ keep: UInt64, _ counts: inout BlockCounts) -> Bool {
        let (needed, overflow) = count.addingReportingOverflow(keep)
        guard !overflow, needed <= counts.available || count == 0 else { return false }
        counts.reserved += count
        return true
    }

    func giveBack(_ count: UInt64) {
        if count > 0 { counts.withLock { $0.reserved -= count } }
    }

    // MARK: Staging

    /// Takes up to `count` adjacent clusters near `goal` out of the in-core map and out of the reservation: at least
    /// one, maybe fewer than asked, all in one group. Nothing on disk changes. ENOSPC only when the reservation is used
    /// up. `.corrupt` when the volume has fewer free blocks than it says, `.io` when others may be in bitmaps that
    /// cannot be read.
    package func stage(
        upTo count: UInt32, goal: FSBlock, from reservation: BlockReservation
    ) throws(Ext4Error) -> BlockRun {
        try stage(upTo: count, from: reservation) { claimed throws(Ext4Error) in try findAndTake(claimed, near: goal) }
    }

    /// `find` takes up to so many clusters out of the in-core map.
    func stage(
        upTo count: UInt32, from reservation: BlockReservation, _ find: (UInt32) throws(Ext4Error) -> BlockRun
    ) throws(Ext4Error) -> BlockRun {
        if let held = reservation.takeHeld(upTo: count) { return held }
        let claimed = reservation.claim(upTo: UInt64(count))
        guard claimed > 0 else { throw .posix(ENOSPC) }
        do throws(Ext4Error) {
            let run = try find(UInt32(claimed)), found = UInt64(run.count >> layout.clusterShift)
            counts.withLock {
                $0.staged += found
                $0.reserved -= found
            }
            if claimed > found { reservation.putBack(claimed - found) }
            return run
        } catch {
            reservation.putBack(claimed)
            throw error
        }
    }

    /// Takes exactly this run, which is of whole clusters, out of the in-core map, promise or not: for a log that says
    /// where the blocks are. `.corrupt` when one of them is not free, or belongs to the file system itself; nothing has
    /// changed then.
    package func stage(exactly run: BlockRun) throws(Ext4Error) {
        guard run.count > 0 else { return }
        guard !isSystemBlock(run) else { throw Self.notFree(run) }
        var taken: UInt32 = 0
        do throws(Ext4Error) {
            for part in Self.parts(of: run, layout) {
                try withGroup(part.group) { state throws(Ext4Error) in
                    let found = state.index.run(at: part.bits.lowerBound, limit: part.bits.count)
                    guard !state.isOutOfUse, found == part.bits else { throw Self.notFree(run) }
                    state.index.take(part.bits)
                    state.stagedCount += part.bits.count
                    relist(part.group, state)
                }
                counts.withLock { $0.staged += UInt64(part.bits.count) }
                taken += UInt32(part.bits.count) << layout.clusterShift
            }
        } catch {
            unstage(BlockRun(start: run.start, count: taken))
            throw error
        }
    }

    private static func notFree(_ run: BlockRun) -> Ext4Error {
        .corrupt("blocks to be used", where: "\(run.count) blocks at block \(run.start.rawValue) are not all free")
    }

    /// The clusters of staged blocks that were not published go back to the free ones (not to the reservation).
    package func unstage(_ run: BlockRun) {
        for part in Self.parts(of: run, layout) {
            putBack(part)
            counts.withLock { $0.staged -= UInt64(part.bits.count) }
        }
    }

    /// Into the in-core map, which the blocks were taken from. The counts are the caller's.
    func putBack(_ part: Part) {
        groups.withLoadedGroup(part.group) { state in
            state.stagedCount -= part.bits.count
            giveBack(part, state)
        }
    }

    /// stage + publish of one cluster for metadata. Answers its first block; the caller makes what it uses of them with
    /// `handle.create`.
    package func allocate(
        goal: FSBlock, from reservation: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> FSBlock {
        let run = try stage(upTo: 1, goal: goal, from: reservation)
        do throws(Ext4Error) {
            try publish(run, in: handle)
        } catch {
            unstage(run)
            throw error
        }
        return run.start
    }

    // MARK: Search

    func findAndTake(_ count: UInt32, near goal: FSBlock) throws(Ext4Error) -> BlockRun {
        if let run = try search(count, near: goal) { return run }
        return try withoutWindows { () throws(Ext4Error) in
            if let run = try search(count, near: goal) { return run }
            // A bitmap that cannot be read is no damage of the volume.
            if let failure = groups.unreadable { throw failure }
            throw .corrupt("free block count", where: "blocks promised by the counts are in no bitmap")
        }
    }

    /// Takes what is found of `count` clusters out of the in-core map. Nil when nothing is free there. A goal within a
    /// cluster, behind blocks of a file that end there, means the next one.
    func search(_ count: UInt32, near goal: FSBlock) throws(Ext4Error) -> BlockRun? {
        let place = layout.place(of: goal + UInt64(layout.superBlock.clusterBlockCount - 1)) ?? (GroupNumber(0), 0)
        return try find(count, place.group, bit: Int(place.bit), before: layout.groupCount)
    }

    /// Takes clusters in one of the groups before `limit`, which `goal` is, and best there from `bit` on.
    private func find(
        _ count: UInt32, _ goal: GroupNumber, bit: Int, before limit: UInt32
    ) throws(Ext4Error) -> BlockRun? {
        let order = min(BuddyIndex.order(for: Int(count)), Self.largestWantedOrder)
        if let run = try take(count, in: goal, near: bit, minimumOrder: order) { return run }
        var attempts = 0, discovered = 0
        while attempts < Self.attemptLimit {
            if let group = nearest(order, goal, limit) {
                attempts += 1
                if let run = try take(count, in: group, near: 0, minimumOrder: order) { return run }
            } else if discovered < Self.discoverLimit, groups.discover(near: goal) {
                discovered += 1
            } else {
                break
            }
        }
        for smaller in (0...order).reversed() {
            while let group = nearest(smaller, goal, limit) {
                if let run = try take(count, in: group, near: 0, minimumOrder: 0) { return run }
            }
        }
        while groups.discover(near: goal) {
            while let group = nearest(0, goal, limit) {
                if let run = try take(count, in: group, near: 0, minimumOrder: 0) { return run }
            }
        }
        return nil
    }

    private func nearest(_ order: Int, _ group: GroupNumber, _ limit: UInt32) -> GroupNumber? {
        groups.withOrders { $0.nearest(order: order, from: group.rawValue, before: limit) }.map { GroupNumber($0) }
    }

    /// Nil when the group has no run of the order wanted, or is out of use (the damage has been noted).
    private func take(
        _ count: UInt32, in group: GroupNumber, near bit: Int, minimumOrder: Int
    ) throws(Ext4Error) -> BlockRun? {
        do throws(Ext4Error) {
            return try withGroup(group) { state throws(Ext4Error) -> BlockRun? in
                guard !state.isOutOfUse,
                    let found = state.index.find(Int(count), near: bit, minimumOrder: minimumOrder)
                else { return nil }
                state.index.take(found)
                state.stagedCount += found.count
                relist(group, state)
                return run(Part(group: group, bits: found))
            }
        } catch {
            if case .aborted = error { throw error }
            return nil
        }
    }

    /// Blocks become free in the in-core view. Those of a group out of use are lost like the others of it.
    func giveBack(_ part: Part, _ state: BlockGroup) {
        // Two groups of a damaged image may share a bitmap block: what one of them freed may be free in the other's
        // view.
        guard !state.index.isAnyFree(in: part.bits) else { return takeOutOfUse(part.group, state) }
        state.index.give(part.bits)
        if state.isOutOfUse { counts.withLock { $0.lost += UInt64(part.bits.count) } }
        relist(part.group, state)
    }

    /// Nothing of the group is given out any more. Its lock is held.
    func takeOutOfUse(_ group: GroupNumber, _ state: BlockGroup) {
        guard !state.isOutOfUse else { return }
        state.isOutOfUse = true
        groups.withOrders { $0.setOrder(nil, of: group.rawValue) }
        counts.withLock { $0.lost += UInt64(state.index.freeCount) }
    }

    /// Lists the group anew when its largest free run has changed its order.
    func relist(_ group: GroupNumber, _ state: BlockGroup) {
        let order = state.index.largestOrder
        guard order != state.listedOrder, !state.isOutOfUse else { return }
        state.listedOrder = order
        groups.withOrders { $0.setOrder(order, of: group.rawValue) }
    }

    // MARK: Groups

    /// The clusters of a run that lie in one group, as bits of its bitmap.
    struct Part {
        let group: GroupNumber
        let bits: Range<Int>
        /// For messages.
        var name: String { "group \(group.rawValue), bits \(bits.lowerBound)..<\(bits.upperBound)" }
    }

    /// Also the clusters that the run fills in part. It lies within the volume.
    static func parts(of run: BlockRun, _ layout: VolumeLayout) -> [Part] {
        var parts: [Part] = []
        let blocks = layout.wholeClusters(run.start.rawValue..<run.start.rawValue + UInt64(run.count))
        var start = FSBlock(blocks.lowerBound), left = blocks.count >> Int(layout.clusterShift)
        while left > 0 {
            guard let place = layout.place(of: start) else { preconditionFailure("a run past the end of the volume") }
            let count = min(left, Int(layout.clusterCount(of: place.group)) - Int(place.bit))
            parts.append(Part(group: place.group, bits: Int(place.bit)..<Int(place.bit) + count))
            start = start + UInt64(count << Int(layout.clusterShift))
            left -= count
        }
        return parts
    }

    /// The blocks behind the bits.
    func run(_ part: Part) -> BlockRun {
        BlockRun(
            start: layout.firstBlock(of: part.group) + UInt64(part.bits.lowerBound << Int(layout.clusterShift)),
            count: UInt32(part.bits.count) << layout.clusterShift)
    }

    /// Runs `body` on the in-core view of a group with its lock held, loading it first when needed. A group whose
    /// descriptor or bitmap cannot be read or trusted is out of use from then on, and every call says so.
    func withGroup<R>(
        _ group: GroupNumber, _ body: (BlockGroup) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        let loaded = try groups.withLock(group) { stripe throws(Ext4Error) -> R? in
            guard let state = stripe.blocks[group.rawValue] else { return nil }
            stripe.touch(state)
            return try body(state)
        }
        if let loaded { return loaded }
        // Whatever takes a transfer is brought into the cache before the lock is taken.
        let warm = (try? groups.descriptor(group)).flatMap {
            isUninitialized($0) ? nil : try? cache.block($0.blockBitmap)
        }
        let system = zone.bits(in: group)
        var failure: Ext4Error?
        var isNew = false
        let result = try groups.withLock(group) { stripe throws(Ext4Error) -> R? in
            if let state = stripe.blocks[group.rawValue] { return try body(state) }
            do throws(Ext4Error) {
                guard !stripe.withoutBlocks.contains(group.rawValue) else { throw Self.outOfUse(group) }
                let state = try load(group, system)
                stripe.evict(above: loadedLimit)
                stripe.touch(state)
                stripe.blocks[group.rawValue] = state
                groups.withOrders { $0.setOrder(state.listedOrder, of: group.rawValue) }
            } catch {
                failure = error
                isNew = stripe.withoutBlocks.insert(group.rawValue).inserted
                return nil
            }
            guard let state = stripe.blocks[group.rawValue] else { return nil }
            return try body(state)
        }
        withExtendedLifetime(warm) {}
        if let result { return result }
        let error = failure ?? Self.outOfUse(group)
        if isNew { takeOutOfUse(group, error) }
        throw error
    }

    static func outOfUse(_ group: GroupNumber) -> Ext4Error {
        .corrupt("block group", where: "group \(group.rawValue) is out of use")
    }

    /// The free blocks of the group leave the counts, as far as its descriptor can be believed.
    private func takeOutOfUse(_ group: GroupNumber, _ error: Ext4Error) {
        groups.noteUnreadable(error)
        let count = (try? groups.descriptor(group))?.freeBlockCount ?? 0
        groups.withOrders { $0.setOrder(nil, of: group.rawValue) }
        counts.withLock { $0.lost += UInt64(count) }
        groups.note(error)
    }
}
