package import Ext4Format
internal import Glibc
package import Journal
internal import Synchronization
internal import Threads

/// Which inodes are free. The inode bitmaps, changed through a handle, are the only view: a number that was freed may
/// be used again at once, in the same transaction too.
///
/// Within a group the lowest free number is taken, so that the part of a table that was never written
/// (`bg_itable_unused`) stays as long as it can. Safe from many threads; takes one group lock at a time.
package final class InodeAllocator: Sendable {
    let layout: VolumeLayout
    let cache: MetadataCache
    let groups: GroupTable
    private let freeCount: Monitor<UInt32>
    private let topLevelCount = Atomic<UInt32>(0)

    /// How many groups a search for a directory's place compares.
    private static let sampleCount: UInt32 = 8

    /// `freeInodeCount` is the sum of the descriptors (`GroupTable.sum`) or the super block's count.
    package init(layout: VolumeLayout, cache: MetadataCache, groups: GroupTable, freeInodeCount: UInt32) {
        self.layout = layout
        self.cache = cache
        self.groups = groups
        freeCount = Monitor(freeInodeCount)
    }

    /// Clear bits of all inode bitmaps as the running transaction has them: for statfs and the super block.
    package var freeInodeCount: UInt32 { freeCount.withLock { $0 } }

    /// Starts the count anew from the descriptors. At mount only.
    package func recount() throws(Ext4Error) {
        let sum = try groups.sum()
        freeCount.withLock { $0 = sum.freeInodes }
    }

    // MARK: Allocation

    /// Takes an inode: ENOSPC before any change. A file goes to the group of its parent or the next with room. A
    /// directory stays near its parent too, unless that group is poor; one at the top level starts a new neighbourhood
    /// where there are few (Orlov). Credits: 2 (bitmap, descriptor).
    package func allocate(
        parent: InodeNumber, isDirectory: Bool, isTopLevel: Bool, in handle: borrowing Handle
    ) throws(Ext4Error) -> InodeNumber {
        let home = layout.place(of: parent)?.group ?? GroupNumber(0)
        let first = !isDirectory ? home : isTopLevel ? newNeighbourhood() : richNeighbour(of: home)
        if let inode = try take(in: first, isDirectory, handle) { return inode }
        while true {
            if let number = groups.withOrders({ $0.nearestWithInodes(from: first.rawValue) }) {
                if let inode = try take(in: GroupNumber(number), isDirectory, handle) { return inode }
            } else if !groups.discover(near: first) {
                throw .posix(ENOSPC)
            }
        }
    }

    /// Takes exactly this inode: for a log that says which. `.corrupt` before any change when it is reserved, out of
    /// range or in use. Credits: 2. Answers the inodes before it in the table that were never written and count as
    /// such no more: the caller clears their slots.
    package func allocate(
        exactly inode: InodeNumber, isDirectory: Bool, in handle: borrowing Handle
    ) throws(Ext4Error) -> [InodeNumber] {
        guard let place = layout.place(of: inode), inode.rawValue >= layout.superBlock.firstInode else {
            throw .corrupt("inode number to be used", where: "inode \(inode.rawValue)")
        }
        let exposed = try groups.withLock(place.group) { _ throws(Ext4Error) -> Range<UInt32> in
            let table = try groups.table(of: place.group)
            let descriptor = try groups.lockedDescriptor(place.group, table)
            let bitmap = try bitmap(of: place.group, descriptor)
            let isUsed = try bitmap?.withBytes { bytes throws(Ext4Error) in bytes.bit(Int(place.index)) } ?? false
            guard !isUsed, descriptor.freeInodeCount > 0 else {
                throw .corrupt("inode bitmap", where: "inode \(inode.rawValue) is already in use")
            }
            try markUsed(
                Found(table: table, descriptor: descriptor, bitmap: bitmap, index: place.index), place.group,
                isDirectory, handle)
            if descriptor.freeInodeCount == 1 { groups.withOrders { $0.setHasInodes(false, of: place.group.rawValue) } }
            guard layout.superBlock.hasGroupChecksums, !descriptor.flags.contains(.inodeTableZeroed) else {
                return 0..<0
            }
            let count = layout.superBlock.inodesPerGroup
            let written =
                bitmap == nil ? reservedCount(in: place.group) : count - min(descriptor.unusedInodeCount, count)
            return min(written, place.index)..<place.index
        }
        freeCount.withLock { $0 -= min($0, 1) }
        return exposed.map { layout.inode($0, in: place.group) }
    }

    /// Nil when the group has no free inode, or is out of use; then it is in no list any more.
    private func take(
        in group: GroupNumber, _ isDirectory: Bool, _ handle: borrowing Handle
    ) throws(Ext4Error) -> InodeNumber? {
        var damage: Ext4Error?
        let index = try groups.withLock(group) { stripe throws(Ext4Error) -> UInt32? in
            var found: Found?
            do throws(Ext4Error) {
                let isOutOfUse = stripe.withoutInodes.contains(group.rawValue)
                found = isOutOfUse ? nil : try findFree(group, isDirectory, stripe)
            } catch {
                stripe.withoutInodes.insert(group.rawValue)
                damage = error
            }
            guard let found else {
                groups.withOrders { $0.setHasInodes(false, of: group.rawValue) }
                return nil
            }
            try markUsed(found, group, isDirectory, handle)
            stripe.setLowestFreeInode(found.index + 1, of: group.rawValue)
            if found.descriptor.freeInodeCount > 1 { return found.index }
            groups.withOrders { $0.setHasInodes(false, of: group.rawValue) }
            return found.index
        }
        if let damage { groups.note(damage) }
        guard let index else { return nil }
        freeCount.withLock { $0 -= min($0, 1) }
        return layout.inode(index, in: group)
    }

    private struct Found {
        let table: CachedBlock
        let descriptor: GroupDescriptor
        /// Nil when the bitmap on disk was never written.
        let bitmap: CachedBlock?
        let index: UInt32
    }

    private func findFree(
        _ group: GroupNumber, _ isDirectory: Bool, _ stripe: GroupStripe
    ) throws(Ext4Error) -> Found? {
        let table = try groups.table(of: group)
        let descriptor = try groups.lockedDescriptor(group, table)
        guard descriptor.freeInodeCount > 0 else { return nil }
        guard !isDirectory || descriptor.directoryCount < layout.superBlock.inodesPerGroup else {
            throw .corrupt("group descriptor", where: "group \(group.rawValue): directory count")
        }
        let bitmap = try bitmap(of: group, descriptor)
        let lowest = max(stripe.lowestFreeInode[group.rawValue] ?? 0, reservedCount(in: group))
        let end = layout.superBlock.inodesPerGroup
        let index =
            if let bitmap {
                try bitmap.withBytes { bytes throws(Ext4Error) -> Int? in
                    lowest < end ? bytes.firstClearBit(in: Int(lowest)..<Int(end)) : nil
                }
            } else {
                lowest < end ? Int(lowest) : nil
            }
        guard let index else {
            guard bitmap != nil else { return nil }
            throw .corrupt(
                "inode bitmap",
                where: "group \(group.rawValue): full, the descriptor says \(descriptor.freeInodeCount) free")
        }
        // The new inode is written there once it counts as used: too late to find out that this cannot be read.
        let byte = index * layout.superBlock.inodeByteCount
        _ = try cache.block(descriptor.inodeTable + UInt64(byte / layout.blockByteCount))
        return Found(table: table, descriptor: descriptor, bitmap: bitmap, index: UInt32(index))
    }

    private func markUsed(
        _ found: Found, _ group: GroupNumber, _ isDirectory: Bool, _ handle: borrowing Handle
    ) throws(Ext4Error) {
        var descriptor = found.descriptor
        let count = layout.superBlock.inodesPerGroup
        if layout.superBlock.hasGroupChecksums {
            let used = found.bitmap == nil ? 0 : count - descriptor.unusedInodeCount
            if found.index >= used { descriptor.unusedInodeCount = count - found.index - 1 }
        }
        let block: CachedBlock
        if let bitmap = found.bitmap { block = bitmap } else { block = try handle.create(descriptor.inodeBitmap) }
        descriptor.inodeBitmapChecksum = try handle.modify(block) { bytes throws(Ext4Error) in
            if found.bitmap == nil {
                bytes.setBits(0..<Int(reservedCount(in: group)), true)
                bytes.setBits(Int(count)..<layout.blockByteCount * 8, true)
            }
            bytes.setBits(Int(found.index)..<Int(found.index) + 1, true)
            return checksum(of: bytes.bytes)
        }
        descriptor.flags.remove(.inodesUninitialized)
        descriptor.freeInodeCount -= 1
        if isDirectory { descriptor.directoryCount += 1 }
        try groups.store(descriptor, of: group, to: found.table, in: handle)
    }

    // MARK: Freeing

    /// Gives an inode back: `.corrupt` before any change when it is reserved, out of range or free already. Credits: 2.
    package func free(_ inode: InodeNumber, wasDirectory: Bool, in handle: borrowing Handle) throws(Ext4Error) {
        let place = try placeToFree(inode), bit = Int(place.index)
        try groups.withLock(place.group) { stripe throws(Ext4Error) in
            var (table, descriptor, bitmap) = try freeable(inode, at: place, wasDirectory)
            descriptor.inodeBitmapChecksum = try handle.modify(bitmap) { bytes throws(Ext4Error) in
                bytes.setBits(bit..<bit + 1, false)
                return checksum(of: bytes.bytes)
            }
            descriptor.freeInodeCount += 1
            if wasDirectory { descriptor.directoryCount -= 1 }
            try groups.store(descriptor, of: place.group, to: table, in: handle)
            if let lowest = stripe.lowestFreeInode[place.group.rawValue], lowest > place.index {
                stripe.setLowestFreeInode(place.index, of: place.group.rawValue)
            }
            groups.withOrders { $0.setHasInodes(true, of: place.group.rawValue) }
        }
        freeCount.withLock { $0 += $0 < layout.superBlock.inodeCount ? 1 : 0 }
    }

    /// Throws what `free` would: so that damage is found before an operation changes anything.
    package func checkFreeable(_ inode: InodeNumber, wasDirectory: Bool) throws(Ext4Error) {
        let place = try placeToFree(inode)
        try groups.withLock(place.group) { _ throws(Ext4Error) in _ = try freeable(inode, at: place, wasDirectory) }
    }

    private func placeToFree(_ inode: InodeNumber) throws(Ext4Error) -> (group: GroupNumber, index: UInt32) {
        guard let place = layout.place(of: inode), inode.rawValue >= layout.superBlock.firstInode else {
            throw .corrupt("inode number to be freed", where: "inode \(inode.rawValue)")
        }
        return (place.group, place.index)
    }

    /// What of the group changes when the inode is freed. The lock of the group is held.
    private func freeable(
        _ inode: InodeNumber, at place: (group: GroupNumber, index: UInt32), _ wasDirectory: Bool
    ) throws(Ext4Error) -> (table: CachedBlock, descriptor: GroupDescriptor, bitmap: CachedBlock) {
        let table = try groups.table(of: place.group)
        let descriptor = try groups.lockedDescriptor(place.group, table)
        guard let bitmap = try bitmap(of: place.group, descriptor),
            try bitmap.withBytes({ bytes throws(Ext4Error) in bytes.bit(Int(place.index)) })
        else { throw .corrupt("inode bitmap", where: "inode \(inode.rawValue) is already free") }
        guard descriptor.freeInodeCount < layout.superBlock.inodesPerGroup,
            !wasDirectory || descriptor.directoryCount > 0
        else { throw .corrupt("group descriptor", where: "group \(place.group.rawValue): inode counts") }
        return (table, descriptor, bitmap)
    }

    /// Whether the bitmap says that the inode is in use. `.corrupt` for numbers that no inode has.
    package func isAllocated(_ inode: InodeNumber) throws(Ext4Error) -> Bool {
        guard let place = layout.place(of: inode) else {
            throw .corrupt("inode number", where: "inode \(inode.rawValue) of \(layout.superBlock.inodeCount)")
        }
        return try groups.withLock(place.group) { _ throws(Ext4Error) in
            let descriptor = try groups.lockedDescriptor(place.group, try groups.table(of: place.group))
            let bitmap = try bitmap(of: place.group, descriptor)
            return try bitmap?.withBytes { bytes throws(Ext4Error) in bytes.bit(Int(place.index)) } ?? false
        }
    }

    // MARK: Bitmaps

    /// The bitmap, its checksum verified when it was read; nil when it was never written. The lock is held.
    private func bitmap(
        of group: GroupNumber, _ descriptor: GroupDescriptor
    ) throws(Ext4Error) -> CachedBlock? {
        if layout.superBlock.hasGroupChecksums && descriptor.flags.contains(.inodesUninitialized) { return nil }
        let block = try cache.block(descriptor.inodeBitmap)
        try block.verifyOnce { bytes throws(Ext4Error) in
            guard layout.superBlock.hasMetadataChecksums else { return }
            guard checksum(of: bytes) == descriptor.inodeBitmapChecksum else {
                throw .corrupt("inode bitmap", where: "group \(group.rawValue): checksum")
            }
        }
        return block
    }

    private func checksum(of bitmap: RawSpan) -> UInt32 {
        guard layout.superBlock.hasMetadataChecksums else { return 0 }
        return GroupDescriptor.bitmapChecksum(
            of: bitmap, bitCount: layout.superBlock.inodesPerGroup, superBlock: layout.superBlock)
    }

    /// Inodes of a group that are never given out.
    private func reservedCount(in group: GroupNumber) -> UInt32 {
        group.rawValue == 0 ? layout.superBlock.firstInode - 1 : 0
    }

    // MARK: Places for directories

    /// A poor place has less than the average of the volume. The block average is that of the mount: a hint.
    private func isRich(_ descriptor: GroupDescriptor, _ share: UInt64) -> Bool {
        let count = UInt64(layout.groupCount)
        return UInt64(descriptor.freeInodeCount) * share >= UInt64(freeInodeCount) / count
            && UInt64(descriptor.freeBlockCount) * share >= layout.superBlock.freeBlockCount / count
            && descriptor.freeInodeCount > 0
    }

    /// The rich group with the fewest directories among a sample of the starts of flex groups. Each call begins the
    /// sample elsewhere, so that neighbourhoods spread over the volume.
    private func newNeighbourhood() -> GroupNumber {
        let isFlexible = layout.superBlock.features.incompatible.contains(.flexibleGroups)
        let shift = isFlexible ? UInt32(layout.superBlock.logGroupsPerFlex) : 0
        let flexCount = (layout.groupCount - 1) >> shift + 1
        let turn = topLevelCount.wrappingAdd(1, ordering: .relaxed).oldValue
        // Multiples of the golden ratio land far from all before them, whatever the number of groups.
        let start = UInt32((UInt64(turn &* 0x9E37_79B9) &* UInt64(flexCount)) >> 32)
        var best: (group: GroupNumber, directories: UInt32, blocks: UInt32)?
        for step in 0..<min(Self.sampleCount, flexCount) {
            let group = GroupNumber(((start + step) % flexCount) << shift)
            guard let facts = try? groups.descriptor(group), isRich(facts, 1) else { continue }
            let isBetter = best.map {
                facts.directoryCount < $0.directories
                    || facts.directoryCount == $0.directories && facts.freeBlockCount > $0.blocks
            }
            if isBetter ?? true { best = (group, facts.directoryCount, facts.freeBlockCount) }
        }
        return best?.group ?? GroupNumber(start << shift)
    }

    /// The parent's group or one of the next few, unless it has less than a quarter of the average.
    private func richNeighbour(of home: GroupNumber) -> GroupNumber {
        for step in 0..<min(Self.sampleCount, layout.groupCount) {
            let number = UInt32((UInt64(home.rawValue) + UInt64(step)) % UInt64(layout.groupCount))
            if let facts = try? groups.descriptor(GroupNumber(number)), isRich(facts, 4) { return GroupNumber(number) }
        }
        return home
    }
}
