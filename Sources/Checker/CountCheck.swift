internal import Ext4Format

/// The bitmaps against what was found, and the counts against the bitmaps.
extension Survey {
    func checkCounts() {
        var directoryCounts = [UInt32](repeating: 0, count: descriptors.count)
        for directory in directories {
            if let place = layout.place(of: directory.inode) { directoryCounts[Int(place.group.rawValue)] += 1 }
        }
        var freeBlocks: UInt64 = 0, freeInodes: UInt64 = 0
        for (index, descriptor) in descriptors.enumerated() {
            let group = UInt32(index)
            checkOwners(group)
            let blocks = UInt64(layout.blockCount(of: GroupNumber(group))) - UInt64(markedBlocks.count(index))
            let inodes = UInt64(superBlock.inodesPerGroup) - UInt64(markedInodes.count(index))
            check(.groupFreeBlocks, group, UInt64(descriptor.freeBlockCount), blocks)
            check(.groupFreeInodes, group, UInt64(descriptor.freeInodeCount), inodes)
            check(.groupDirectories, group, UInt64(descriptor.directoryCount), UInt64(directoryCounts[index]))
            freeBlocks += blocks
            freeInodes += inodes
        }
        check(.freeBlockCount, nil, superBlock.freeBlockCount, freeBlocks)
        check(.freeInodeCount, nil, UInt64(superBlock.freeInodeCount), freeInodes)
    }

    private func check(_ rule: Finding.Rule, _ group: UInt32?, _ stored: UInt64, _ found: UInt64) {
        if stored != found { report(rule, group: group, "\(stored) instead of \(found)") }
    }

    private func checkOwners(_ group: UInt32) {
        let first = layout.firstBlock(of: GroupNumber(group)).rawValue
        if let bit = owned.first(Int(group), notIn: markedBlocks) {
            report(.blockNotMarked, block: first + UInt64(bit), group: group, "it is free by the bitmap")
        }
        if let bit = markedBlocks.first(Int(group), notIn: owned) {
            report(.blockLeaked, block: first + UInt64(bit), group: group, "nobody has it")
        }
    }
}
