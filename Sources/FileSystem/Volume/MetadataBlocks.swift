internal import Allocator
internal import Ext4Format
internal import Journal

// Blocks of an inode that hold metadata: directories, slow symlinks.
extension Volume {
    /// The block behind one block of such an inode, in the cache, not verified. A hole is `.corrupt`.
    func metadataBlock(_ inode: Inode, _ block: FileBlock, _ kind: String) throws(Ext4Error) -> CachedBlock {
        if let start = inode.places.start(of: block) { return try cache.block(start) }
        guard let start = try MappingCore(volume: self, inode: inode).findAndRemember(block) else {
            throw .corrupt(kind, where: "inode \(inode.number.rawValue): hole at block \(block.rawValue)")
        }
        return try cache.block(start)
    }

    /// The block behind one block of a directory, or what stands for it where the names lie in the inode. A hole or a
    /// block past the end is `.corrupt`.
    func directoryBlock(_ inode: Inode, _ block: FileBlock) throws(Ext4Error) -> CachedBlock {
        if inode.isInline, block.rawValue == 0,
            let names = try InlineData(volume: self, inode: inode).directoryBlock()
        {
            return names
        }
        guard (UInt64(block.rawValue) + 1) * UInt64(blockByteCount) <= inode.size else {
            throw .corrupt(
                "directory", where: "inode \(inode.number.rawValue): block \(block.rawValue) is past its end")
        }
        return try metadataBlock(inode, block, "directory")
    }

    /// Adds one zero-filled block at the end of a directory: allocated, mapped, counted.
    func appendDirectoryBlock(
        to inode: Inode, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> (number: FileBlock, block: CachedBlock) {
        let index = inode.size / UInt64(blockByteCount)
        let number = FileBlock(UInt32(index))
        let block = try appendMetadataBlock(to: inode, at: number, from: space, in: handle)
        try inode.update(in: handle, self) { record throws(Ext4Error) in
            record.size = (index + 1) * UInt64(blockByteCount)
        }
        return (number, block)
    }

    /// A new block of metadata mapped at `place`; the size is the caller's matter.
    func appendMetadataBlock(
        to inode: Inode, at place: FileBlock, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> CachedBlock {
        let map = FileMap(self, inode)
        return try inode.mapping.withWriteLock { () throws(Ext4Error) in
            let group = layout.place(of: inode.number)?.group ?? GroupNumber(0)
            var goal = layout.firstBlock(of: group)
            if case .extent(let last) = try map.last() { goal = last.start + UInt64(last.count) }
            let file = UInt64(place.rawValue)
            let implied = try map.impliedPlace(of: file, layout)
            let block: FSBlock
            if let implied {
                block = implied
            } else {
                let start = try blocks.allocate(goal: goal, from: space, in: handle)
                block = start + (file - layout.wholeClusters(file..<file).lowerBound)
            }
            let extent = Extent(first: place, count: 1, start: block)
            _ = try map.replace(file..<file + 1, with: [extent], from: space, in: handle)
            if implied == nil {
                try inode.update(in: handle, self) { record throws(Ext4Error) in record.addClusters(1, superBlock) }
            }
            return try handle.create(block)
        }
    }

    /// What appending `count` blocks may take besides them for the map, and may change.
    func spaceForAppend(to inode: Inode, blocks count: UInt64) throws(Ext4Error) -> (blocks: UInt64, credits: Int) {
        if count == 0 { return (0, 0) }
        let map = FileMap(self, inode), next = inode.size / UInt64(blockByteCount)
        let cost = try inode.mapping.withReadLock { () throws(Ext4Error) in try map.cost }
        let needed = cost.toAppend(next..<next + count)
        // Each block: itself, its bitmap and descriptor.
        return (count + needed.blocks, 3 * Int(count) + needed.credits)
    }
}
