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
            let clusters = UInt64(layout.clusterCount(of: GroupNumber(group))) - UInt64(markedBlocks.count(index))
            let inodes = UInt64(superBlock.inodesPerGroup) - UInt64(markedInodes.count(index))
            check(.groupFreeBlocks, group, UInt64(descriptor.freeBlockCount), clusters)
            check(.groupFreeInodes, group, UInt64(descriptor.freeInodeCount), inodes)
            check(.groupDirectories, group, UInt64(descriptor.directoryCount), UInt64(directoryCounts[index]))
            freeBlocks += clusters << UInt64(layout.clusterShift)
            freeInodes += inodes
        }
        check(.freeBlockCount, nil, superBlock.freeBlockCount, freeBlocks)
        check(.freeInodeCount, nil, UInt64(superBlock.freeInodeCount), freeInodes)
    }

    private func check(_ rule: Finding.Rule, _ group: UInt32?, _ stored: UInt64, _ found: UInt64) {
        if stored != found { report(rule, group: group, "\(stored) instead of \(found)") }
    }

    private func checkOwners(_ group: UInt32) {
        if let bit = owned.first(Int(group), notIn: markedBlocks) {
            report(.blockNotMarked, block: block(of: bit, in: group), group: group, "it is free by the bitmap")
        }
        if let bit = markedBlocks.first(Int(group), notIn: owned) {
            report(.blockLeaked, block: block(of: bit, in: group), group: group, "nobody has it")
        }
    }
}
