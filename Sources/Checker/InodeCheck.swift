internal import Ext4Format

/// The inode tables, slot by slot.
extension Survey {
    func checkInodes() {
        let perBlock = UInt32(layout.blockByteCount / superBlock.inodeByteCount)
        for group in 0..<layout.groupCount where Int(group) < descriptors.count {
            let descriptor = descriptors[Int(group)]
            let count = scannedInodeCount(group, descriptor)
            for first in stride(from: 0, to: count, by: Int(perBlock)) {
                let block = descriptor.inodeTable.rawValue + UInt64(first / perBlock)
                guard isInVolume(block) else { break }
                attempt(.readable, block: block, group: group) { () throws(Ext4Error) in
                    try withBlock(block) { bytes in
                        for index in first..<min(first + perBlock, count) {
                            let at = Int(index - first) * superBlock.inodeByteCount
                            checkSlot(
                                bytes.extracting(at..<at + superBlock.inodeByteCount), group, index, block)
                        }
                    }
                }
            }
        }
    }

    /// How many inodes of the group may have been used. The others have no bit, and nobody reads them.
    private func scannedInodeCount(_ group: UInt32, _ descriptor: GroupDescriptor) -> UInt32 {
        let all = superBlock.inodesPerGroup
        guard superBlock.hasGroupChecksums else { return all }
        if descriptor.flags.contains(.inodesUninitialized) { return 0 }
        guard descriptor.unusedInodeCount <= all else {
            report(.unusedInodes, group: group, "\(descriptor.unusedInodeCount) unused of \(all)")
            return all
        }
        let used = all - descriptor.unusedInodeCount
        if let late = (used..<all).first(where: { markedInodes.contains(Int(group), Int($0)) }) {
            let inode = layout.inode(late, in: GroupNumber(group))
            report(.unusedInodes, inode: inode, group: group, "behind the \(used) that may be in use")
        }
        return used
    }

    private func checkSlot(_ slot: RawSpan, _ group: UInt32, _ index: UInt32, _ block: UInt64) {
        let inode = layout.inode(index, in: GroupNumber(group))
        let isMarked = markedInodes.contains(Int(group), Int(index))
        // What was never used is zeros, without even a checksum.
        if !isMarked, Self.isZero(slot) { return }
        attempt(.attributes, inode: inode, block: block) { () throws(Ext4Error) in
            let record = try InodeRecord(decoding: slot)
            let checksum = InodeChecksum(
                volumeSeed: superBlock.checksumSeed, inode: inode, generation: record.generation)
            let isReserved = inode.rawValue < superBlock.firstInode && inode != .root
            if superBlock.hasMetadataChecksums, !checksum.isRight(slot), !(isReserved && Self.isZero(slot)) {
                report(.inodeChecksum, inode: inode, block: block, "wrong checksum")
            }
            if isReserved { return checkReserved(inode, record, checksum) }
            guard isMarked else { return checkFree(inode, record) }
            try checkUsed(inode, record, slot, checksum)
        }
    }

    private static func isZero(_ slot: RawSpan) -> Bool {
        stride(from: 0, to: slot.byteCount, by: 8).allSatisfy { slot[LE<UInt64>($0)] == 0 }
    }

    private func checkFree(_ inode: InodeNumber, _ record: InodeRecord) {
        if record.linkCount != 0 {
            report(.inodeNotMarked, inode: inode, "\(record.linkCount) links")
        } else if record.mode != 0, record.deletionTime == 0 {
            report(.deletionTime, inode: inode, "deleted without a time")
        }
    }

    private func checkUsed(
        _ inode: InodeNumber, _ record: InodeRecord, _ slot: RawSpan, _ checksum: InodeChecksum
    ) throws(Ext4Error) {
        guard record.linkCount > 0 else {
            return report(.inodeLeaked, inode: inode, "mode \(String(record.mode, radix: 8)), no links")
        }
        if record.deletionTime != 0 { report(.deletionTime, inode: inode, "deleted at \(record.deletionTime)") }
        kinds[Int(inode.rawValue)] = UInt8(record.mode >> 12)
        linkCounts[Int(inode.rawValue)] = record.linkCount
        checkFlags(inode, record)
        var clusterCount: UInt64 = 0
        switch record.mode >> 12 {
        case 8: clusterCount = checkFile(inode, record, checksum)
        case 4: clusterCount = checkDirectoryInode(inode, record, checksum)
        case 10: clusterCount = checkSymlink(inode, record, checksum)
        case 1, 2, 6, 12: checkDevice(inode, record)
        default: report(.inodeMode, inode: inode, "mode \(String(record.mode, radix: 8))")
        }
        clusterCount += try checkAttributes(inode, record, slot)
        checkBlockCount(inode, record, clusters: clusterCount)
    }

    func checkBlockCount(_ inode: InodeNumber, _ record: InodeRecord, clusters: UInt64) {
        let blocks = clusters << UInt64(layout.clusterShift)
        let unit = record.flags.contains(.hugeFile) ? 1 : UInt64(layout.blockByteCount / 512)
        if record.blockCount != blocks * unit {
            report(.blockCount, inode: inode, "\(record.blockCount) instead of \(blocks * unit)")
        }
    }

    private func checkFlags(_ inode: InodeNumber, _ record: InodeRecord) {
        let features = superBlock.features
        var wrong: InodeRecord.Flags = [.encrypted, .verity, .attributeInode, .inlineData, .casefold]
        if record.mode >> 12 != 4 || !features.compatible.contains(.directoryIndex) { wrong.insert(.index) }
        if !features.incompatible.contains(.extents) { wrong.insert(.extents) }
        if !features.readOnlyCompatible.contains(.hugeFile) { wrong.insert(.hugeFile) }
        let found = record.flags.intersection(wrong)
        if !found.isEmpty { report(.inodeFlags, inode: inode, "flags 0x\(String(found.rawValue, radix: 16))") }
    }

    // MARK: - By type. Each gives the number of clusters that belong to the inode.

    private func checkFile(_ inode: InodeNumber, _ record: InodeRecord, _ checksum: InodeChecksum) -> UInt64 {
        let isOrphanFile = inode.rawValue == superBlock.orphanFileInode
        let isJournal = inode.rawValue == superBlock.journalInode
        var blocks: [UInt64] = []
        let map = walkMap(inode, record, checksum) { run in
            if isOrphanFile || isJournal && blocks.isEmpty { take(run, into: &blocks) }
        }
        let size = UInt64(layout.blockByteCount)
        if map.writtenEnd > record.size / size + (record.size % size == 0 ? 0 : 1) {
            report(.inodeSize, inode: inode, "\(record.size) bytes, and data up to block \(map.writtenEnd - 1)")
        }
        if record.size >= 1 << 31, !superBlock.features.readOnlyCompatible.contains(.largeFile) {
            report(.inodeSize, inode: inode, "\(record.size) bytes without large_file")
        }
        if isOrphanFile { (orphanBlocks, orphanSeed) = (blocks, checksum.seed) }
        if isJournal { checkJournal(inode, firstBlock: blocks.first, map) }
        return map.clusterCount
    }

    /// What names more blocks than there are names some of them twice, and that is reported: no more is kept of it.
    private func take(_ run: MappedRun, into blocks: inout [UInt64]) {
        if UInt64(blocks.count) < superBlock.blockCount { blocks += run.blocks }
    }

    private func checkDirectoryInode(_ inode: InodeNumber, _ record: InodeRecord, _ checksum: InodeChecksum) -> UInt64 {
        var blocks: [UInt64] = []
        var isWhole = true
        let map = walkMap(inode, record, checksum) { run in
            isWhole = isWhole && run.first == UInt64(blocks.count) && !run.isUnwritten
            take(run, into: &blocks)
        }
        if !isWhole { report(.directoryBlock, inode: inode, "it has a hole or an unwritten block") }
        let size = UInt64(blocks.count * layout.blockByteCount)
        if record.size != size || blocks.isEmpty {
            report(.inodeSize, inode: inode, "\(record.size) bytes in \(blocks.count) blocks")
        }
        let isIndexed = record.flags.contains(.index)
        directories.append(Directory(inode: inode, seed: checksum.seed, isIndexed: isIndexed, blocks: blocks))
        return map.clusterCount
    }

    private func checkSymlink(_ inode: InodeNumber, _ record: InodeRecord, _ checksum: InodeChecksum) -> UInt64 {
        let count = Int(clamping: record.size)
        if count < InodeRecord.areaByteCount, !record.flags.contains(.extents) {
            let length = (0..<InodeRecord.areaByteCount).first { record.blockArea[$0] == 0 }
            if length != count || count == 0 {
                report(.symlink, inode: inode, "\(length ?? InodeRecord.areaByteCount) bytes, size \(count)")
            }
            return 0
        }
        var block: UInt64?
        let map = walkMap(inode, record, checksum) { block = $0.first == 0 ? $0.blocks.lowerBound : nil }
        guard let block, map.writtenEnd == 1, count < layout.blockByteCount else {
            report(.symlink, inode: inode, "\(count) bytes, data up to block \(map.writtenEnd)")
            return map.clusterCount
        }
        attempt(.symlink, inode: inode, block: block) { () throws(Ext4Error) in
            try withBlock(block) { bytes in
                let length = (0..<bytes.byteCount).first { bytes[LE<UInt8>($0)] == 0 } ?? bytes.byteCount
                if length != count || count == 0 {
                    report(.symlink, inode: inode, block: block, "\(length) bytes, size \(count)")
                }
            }
        }
        return map.clusterCount
    }

    private func checkDevice(_ inode: InodeNumber, _ record: InodeRecord) {
        if record.flags.contains(.extents) { report(.device, inode: inode, "it has a mapping") }
        if record.size != 0 { report(.device, inode: inode, "size \(record.size)") }
    }
}
