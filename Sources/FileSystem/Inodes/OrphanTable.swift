internal import Ext4Format
internal import Journal
internal import Threads

/// The inodes that a crash must not forget: without a name but in use, or half truncated. Recovery finishes them.
///
/// They stand in the orphan file (`s_orphan_file_inum`, one 32-bit slot each) where the volume has one with room, else
/// on the list that starts at `s_last_orphan` and goes on through each inode's deletion time.
/// Lock: its own mutex, taken under an open handle, above the record of any inode.
final class OrphanTable: Sendable {
    /// One block of the orphan file and what its checksum needs.
    private struct SlotBlock {
        let block: CachedBlock
        let seed: UInt32
    }
    private struct State {
        /// From the head on: each one's deletion time names the next.
        var list: [InodeNumber] = []
        var slots: [InodeNumber: Int] = [:]
        /// In runs, as most are free; the next one to be used is the first of the last run.
        var freeSlots: [Range<Int>] = []
        var slotBlocks: [SlotBlock] = []

        mutating func takeFreeSlot() -> Int? {
            guard let run = freeSlots.popLast() else { return nil }
            if run.count > 1 { freeSlots.append(run.dropFirst()) }
            return run.lowerBound
        }
    }
    private let state = Monitor(State())
    private let slotsPerBlock: Int

    /// `ob_magic`, in the tail of each block of the orphan file.
    private static let magic: UInt32 = 0x0B10_CA04
    private static let tailByteCount = 8

    init(blockByteCount: Int) { slotsPerBlock = (blockByteCount - Self.tailByteCount) / 4 }

    /// Credits that `add` or `remove` may need besides the inode's own block.
    static let credits = 2

    /// Marks the inode. The caller has decided so under the inode lock; an inode is added once.
    func add(_ inode: Inode, _ volume: Volume, in handle: borrowing Handle) throws(Ext4Error) {
        try state.withLock { state throws(Ext4Error) in
            // A truncate that could not finish has left it here: once is enough.
            if state.slots[inode.number] != nil || state.list.contains(inode.number) { return }
            if let slot = state.takeFreeSlot() {
                try setSlot(slot, to: inode.number.rawValue, &state, volume, in: handle)
                state.slots[inode.number] = slot
                return
            }
            let next = state.list.first?.rawValue ?? 0
            try volume.modifySuperBlock(in: handle) { $0[SuperBlock.Layout.lastOrphan] = inode.number.rawValue }
            try inode.update(in: handle, volume) { record throws(Ext4Error) in record.deletionTime = next }
            state.list.insert(inode.number, at: 0)
        }
    }

    /// Takes the mark away. `previous` gives the inode object before it on the list.
    func remove(
        _ inode: Inode, _ volume: Volume, _ inodes: InodeCache, in handle: borrowing Handle
    ) throws(Ext4Error) {
        try state.withLock { state throws(Ext4Error) in
            if let slot = state.slots.removeValue(forKey: inode.number) {
                try setSlot(slot, to: 0, &state, volume, in: handle)
                state.freeSlots.append(slot..<slot + 1)
                return
            }
            guard let index = state.list.firstIndex(of: inode.number) else { return }
            let next = index + 1 < state.list.count ? state.list[index + 1].rawValue : 0
            if index == 0 {
                try volume.modifySuperBlock(in: handle) { $0[SuperBlock.Layout.lastOrphan] = next }
            } else {
                let previous = try inodes.inode(state.list[index - 1], volume)
                try previous.update(in: handle, volume) { record throws(Ext4Error) in record.deletionTime = next }
            }
            try inode.update(in: handle, volume) { record throws(Ext4Error) in record.deletionTime = 0 }
            state.list.remove(at: index)
        }
    }

    private func setSlot(
        _ slot: Int, to value: UInt32, _ state: inout State, _ volume: Volume, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let place = state.slotBlocks[slot / slotsPerBlock]
        try handle.modify(place.block) { bytes throws(Ext4Error) in
            bytes[LE<UInt32>(slot % slotsPerBlock * 4)] = value
            guard volume.hasChecksums else { return }
            let checksum = self.checksum(bytes.bytes, place)
            bytes[LE<UInt32>(slotsPerBlock * 4 + 4)] = checksum
        }
    }

    /// `ob_checksum`: the orphan file's inode seed, the block's number, the slots.
    private func checksum(_ bytes: RawSpan, _ place: SlotBlock) -> UInt32 {
        var crc = CRC32C(seed: place.seed)
        crc.update(littleEndian: place.block.number.rawValue)
        crc.update(bytes.extracting(0..<slotsPerBlock * 4))
        return crc.value
    }

    // MARK: At mount

    /// Reads what a crash left. Answers the orphans, those of the file first. The list is bounded and may not repeat.
    func load(_ volume: Volume, _ inodes: InodeCache, listHead: UInt32) throws(Ext4Error) -> [InodeNumber] {
        let inFile = try loadFile(volume, inodes)
        var list: [InodeNumber] = []
        var seen: Set<UInt32> = []
        var next = listHead
        while next != 0 {
            guard next <= volume.superBlock.inodeCount, next >= volume.superBlock.firstInode, seen.insert(next).inserted
            else {
                throw .corrupt("orphan list", where: "inode \(next)")
            }
            let inode = try inodes.inode(InodeNumber(next), volume)
            list.append(inode.number)
            next = inode.field { $0.deletionTime }
        }
        state.withLock { $0.list = list }
        return inFile + list
    }

    private func loadFile(_ volume: Volume, _ inodes: InodeCache) throws(Ext4Error) -> [InodeNumber] {
        let number = volume.superBlock.orphanFileInode
        guard number != 0 else { return [] }
        let blocks = try slotBlocks(of: try inodes.inode(InodeNumber(number), volume), volume)
        var found: [InodeNumber: Int] = [:]
        var free: [Range<Int>] = []
        var freeStart = 0
        for (index, place) in blocks.enumerated() {
            try place.block.withBytes { bytes throws(Ext4Error) in
                try check(bytes, place, volume)
                for slot in 0..<slotsPerBlock {
                    let value = bytes[LE<UInt32>(slot * 4)]
                    if value == 0 { continue }
                    let position = index * slotsPerBlock + slot
                    guard value <= volume.superBlock.inodeCount, value >= volume.superBlock.firstInode,
                        found.updateValue(position, forKey: InodeNumber(value)) == nil
                    else { throw .corrupt("orphan file", where: "slot \(position): inode \(value)") }
                    if freeStart < position { free.append(freeStart..<position) }
                    freeStart = position + 1
                }
            }
        }
        let slotCount = blocks.count * slotsPerBlock
        if freeStart < slotCount { free.append(freeStart..<slotCount) }
        let result = found.sorted { $0.value < $1.value }.map(\.key)
        let (slots, freeSlots) = (found, Array(free.reversed()))
        state.withLock { state in
            state.slots = slots
            state.freeSlots = freeSlots
            state.slotBlocks = blocks
        }
        return result
    }

    private func slotBlocks(of file: Inode, _ volume: Volume) throws(Ext4Error) -> [SlotBlock] {
        let count = file.size / UInt64(volume.blockByteCount)
        guard count <= Self.maximumBlocks else { throw .corrupt("orphan file", where: "\(count) blocks") }
        var blocks: [SlotBlock] = []
        for mapping in try MappingCore(volume: volume, inode: file).begin(reading: 0..<count) {
            guard case .mapped(let start) = mapping.target else {
                let hole = mapping.range.lowerBound
                throw .corrupt("orphan file", where: "inode \(file.number.rawValue): hole at block \(hole)")
            }
            for index in 0..<UInt64(mapping.range.count) {
                blocks.append(SlotBlock(block: try volume.cache.block(start + index), seed: file.checksum.seed))
            }
        }
        return blocks
    }

    /// mke2fs makes 512 at the most.
    private static let maximumBlocks: UInt64 = 512

    /// Whether the orphan file still names an inode.
    var hasSlotsInUse: Bool { state.withLock { !$0.slots.isEmpty } }

    private func check(_ bytes: RawSpan, _ place: SlotBlock, _ volume: Volume) throws(Ext4Error) {
        let tail = slotsPerBlock * 4
        guard bytes[LE<UInt32>(tail)] == Self.magic else {
            throw .corrupt("orphan file", where: "block \(place.block.number.rawValue): magic")
        }
        guard !volume.hasChecksums || bytes[LE<UInt32>(tail + 4)] == checksum(bytes, place) else {
            throw .corrupt("orphan file", where: "block \(place.block.number.rawValue): checksum")
        }
    }
}
