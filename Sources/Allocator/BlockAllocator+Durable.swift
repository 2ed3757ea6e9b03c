package import Ext4Format
package import Journal
internal import Threads

// The durable view: block bitmaps and the counts of their descriptors, verified when first read and changed only
// through a handle.

extension BlockAllocator {
    /// Sets the bitmap bits and counts of a staged run through the handle: 2 credits per group touched. `.corrupt`
    /// before any change when the bitmap has a bit set already.
    package func publish(_ run: BlockRun, in handle: borrowing Handle) throws(Ext4Error) {
        let parts = Self.parts(of: run, layout)
        if parts.count > 1 { for part in parts { try check(part, areUsed: false) } }
        for part in parts {
            try change(part, toUsed: true, in: handle) { state in
                precondition(state.stagedCount >= part.bits.count, "a run was published that was not staged")
                state.stagedCount -= part.bits.count
            }
            counts.withLock {
                $0.staged -= UInt64(part.bits.count)
                $0.durable -= min($0.durable, UInt64(part.bits.count))
            }
        }
    }

    /// Clears the bits of all clusters in which blocks of the run lie through the handle now: 2 credits per group
    /// touched. They can be given out again when the transaction is durable, and `before` that has run. Freeing a free
    /// block or a system block is `.corrupt`, before any change.
    package func free(
        _ run: BlockRun, in handle: borrowing Handle, before: (@Sendable () -> Void)? = nil
    ) throws(Ext4Error) {
        guard run.count > 0 else { return }
        guard !isSystemBlock(run) else {
            throw .corrupt("block number to be freed", where: "\(run.count) blocks at block \(run.start.rawValue)")
        }
        let parts = Self.parts(of: run, layout)
        if parts.count > 1 { for part in parts { try check(part, areUsed: true) } }
        for (index, part) in parts.enumerated() {
            try change(part, toUsed: false, in: handle) { $0.pendingCount += part.bits.count }
            // Not earlier: a handle that has changed nothing may go on, and the blocks are still in use.
            if index == 0, let before { handle.onCommit(before) }
            counts.withLock {
                $0.durable += UInt64(part.bits.count)
                $0.pending += UInt64(part.bits.count)
            }
            handle.onCommit { [self] in release(part) }
        }
    }

    /// Throws what `free` would: so that damage is found before an operation changes anything.
    package func checkFreeable(_ run: BlockRun) throws(Ext4Error) {
        guard run.count > 0 else { return }
        guard !isSystemBlock(run) else {
            throw .corrupt("block number to be freed", where: "\(run.count) blocks at block \(run.start.rawValue)")
        }
        for part in Self.parts(of: run, layout) { try check(part, areUsed: true) }
    }

    /// The transaction that freed the blocks is durable: they can be given out.
    private func release(_ part: Part) {
        groups.withLoadedGroup(part.group) { state in
            state.pendingCount -= part.bits.count
            giveBack(part, state)
        }
        counts.withLock {
            $0.pending -= UInt64(part.bits.count)
            $0.released &+= UInt64(part.bits.count)
        }
        counts.notifyAll()
    }

    // MARK: Bitmaps

    /// Whether the flags of a descriptor say that the bitmap on disk was never written.
    func isUninitialized(_ descriptor: GroupDescriptor) -> Bool {
        layout.superBlock.hasGroupChecksums && descriptor.flags.contains(.blocksUninitialized)
    }

    /// Builds the in-core view from the bitmap, or from the layout where that was never written. The lock is held;
    /// `system` is what lies in the group of the file system's own.
    func load(_ group: GroupNumber, _ system: [Range<Int>]) throws(Ext4Error) -> BlockGroup {
        let descriptor = try groups.lockedDescriptor(group, try groups.table(of: group))
        let bitCount = Int(layout.clusterCount(of: group))
        let index: BuddyIndex
        if isUninitialized(descriptor) {
            let bytes = initialBitmap(bitCount, system)
            index = unsafe BuddyIndex(bitCount: bitCount, used: bytes.span.bytes)
        } else {
            let block = try bitmap(of: group, descriptor)
            index = try block.withBytes { bytes throws(Ext4Error) in BuddyIndex(bitCount: bitCount, used: bytes) }
            guard !system.contains(where: { index.isAnyFree(in: $0) }) else {
                throw .corrupt("block bitmap", where: "group \(group.rawValue): a system block is free")
            }
        }
        let told = descriptor.freeBlockCount
        guard index.freeCount == Int(told) else {
            throw .corrupt("block bitmap", where: "group \(group.rawValue): \(index.freeCount) free, not \(told)")
        }
        return BlockGroup(index, initialBits: isUninitialized(descriptor) ? system : nil)
    }

    /// The bitmap block, checksum verified when it was read. The lock is held.
    private func bitmap(of group: GroupNumber, _ descriptor: GroupDescriptor) throws(Ext4Error) -> CachedBlock {
        let block = try cache.block(descriptor.blockBitmap)
        try block.verifyOnce { bytes throws(Ext4Error) in
            guard layout.superBlock.hasMetadataChecksums else { return }
            guard checksum(of: bytes) == descriptor.blockBitmapChecksum else {
                throw .corrupt("block bitmap", where: "group \(group.rawValue): checksum")
            }
        }
        return block
    }

    private func checksum(of bitmap: RawSpan) -> UInt32 {
        GroupDescriptor.bitmapChecksum(
            of: bitmap, bitCount: layout.superBlock.clustersPerGroup, superBlock: layout.superBlock)
    }

    /// A bitmap as mke2fs would have written it: system blocks and everything behind the end of the group in use.
    private func initialBitmap(_ bitCount: Int, _ system: [Range<Int>]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: layout.blockByteCount)
        var span = bytes.mutableSpan
        var raw = unsafe span.mutableBytes
        for range in system { raw.setBits(range, true) }
        raw.setBits(bitCount..<layout.blockByteCount * 8, true)
        return bytes
    }

    /// What is changed together, verified.
    private struct Verified {
        let table: CachedBlock
        var descriptor: GroupDescriptor
        /// Nil for a bitmap that was never written.
        let bitmap: CachedBlock?
    }

    /// Reads descriptor and bitmap, from the cache as a rule. Damage puts the group out of use. The lock is held.
    private func verified(_ group: GroupNumber, _ state: BlockGroup) throws(Ext4Error) -> Verified {
        do throws(Ext4Error) {
            let table = try groups.table(of: group)
            let descriptor = try groups.lockedDescriptor(group, table)
            return Verified(
                table: table, descriptor: descriptor,
                bitmap: isUninitialized(descriptor) ? nil : try bitmap(of: group, descriptor))
        } catch {
            if !state.isOutOfUse {
                takeOutOfUse(group, state)
                groups.note(error)
            }
            throw error
        }
    }

    private func check(_ part: Part, areUsed: Bool) throws(Ext4Error) {
        try withGroup(part.group) { state throws(Ext4Error) in
            let found = try verified(part.group, state)
            try check(part, areUsed: areUsed, found.descriptor, found.bitmap)
        }
    }

    /// Whether the bits and the count of a part allow the change. `block` is nil for a bitmap that was never written.
    private func check(
        _ part: Part, areUsed: Bool, _ descriptor: GroupDescriptor, _ block: CachedBlock?
    ) throws(Ext4Error) {
        let isRight =
            try block?.withBytes { bytes throws(Ext4Error) in bytes.areBits(part.bits, areUsed) } ?? !areUsed
        guard isRight else {
            throw .corrupt("block bitmap", where: "\(part.name): " + (areUsed ? "already free" : "already in use"))
        }
        let count = Int(descriptor.freeBlockCount), limit = Int(layout.clusterCount(of: part.group))
        guard areUsed ? count + part.bits.count <= limit : count >= part.bits.count else {
            throw .corrupt("group descriptor", where: "\(part.name): \(count) free blocks")
        }
    }

    /// Checks, then changes the bits, then the descriptor, then runs `note` on the in-core view: all with the lock.
    private func change(
        _ part: Part, toUsed: Bool, in handle: borrowing Handle, _ note: (BlockGroup) -> Void
    ) throws(Ext4Error) {
        try withGroup(part.group) { state throws(Ext4Error) in
            var found = try verified(part.group, state)
            try check(part, areUsed: !toUsed, found.descriptor, found.bitmap)
            let block: CachedBlock, initial: [UInt8]?
            if let bitmap = found.bitmap {
                block = bitmap
                initial = nil
            } else {
                guard let system = state.initialBits else { throw Self.outOfUse(part.group) }
                initial = initialBitmap(Int(layout.clusterCount(of: part.group)), system)
                block = try handle.create(found.descriptor.blockBitmap)
            }
            found.descriptor.blockBitmapChecksum = try handle.modify(block) { bytes throws(Ext4Error) in
                if let initial { bytes.copy(initial, at: 0) }
                bytes.setBits(part.bits, toUsed)
                return layout.superBlock.hasMetadataChecksums ? checksum(of: bytes.bytes) : 0
            }
            found.descriptor.flags.remove(.blocksUninitialized)
            found.descriptor.freeBlockCount -= toUsed ? UInt32(part.bits.count) : 0
            found.descriptor.freeBlockCount += toUsed ? 0 : UInt32(part.bits.count)
            try groups.store(found.descriptor, of: part.group, to: found.table, in: handle)
            state.initialBits = nil
            note(state)
        }
    }
}
