internal import Ext4Format

/// Inodes that belong to the volume and have no name: bad blocks, descriptors in reserve, the journal, the orphans.
extension Survey {
    private static var badBlocks: UInt32 { 1 }
    private static var resize: UInt32 { 7 }

    func checkReserved(_ inode: InodeNumber, _ record: InodeRecord, _ checksum: InodeChecksum) {
        if inode.rawValue == Self.resize, superBlock.features.compatible.contains(.resizeInode) {
            return attempt(.resizeInode, inode: inode) { () throws(Ext4Error) in try checkResizeInode(inode, record) }
        }
        let isJournal = inode.rawValue == superBlock.journalInode
        guard isJournal || inode.rawValue == Self.badBlocks else { return }
        var first: UInt64?
        let map = walkMap(inode, record, checksum) { run in first = first ?? run.blocks.lowerBound }
        checkBlockCount(inode, record, clusters: map.clusterCount)
        guard isJournal else { return }
        if record.mode >> 12 != 8 || record.linkCount == 0 {
            report(.journal, inode: inode, "mode \(String(record.mode, radix: 8)), \(record.linkCount) links")
        }
        checkJournal(inode, firstBlock: first, map)
    }

    // MARK: - The journal

    func checkJournal(_ inode: InodeNumber, firstBlock: UInt64?, _ map: MapSummary) {
        guard let firstBlock else { return report(.journal, inode: inode, "it has no blocks") }
        attempt(.journal, inode: inode, block: firstBlock) { () throws(Ext4Error) in
            try withBlock(firstBlock) { bytes throws(Ext4Error) in
                let journal = try JournalSuperBlock(decoding: bytes.extracting(0..<JournalSuperBlock.byteCount))
                if journal.blockByteCount != UInt32(layout.blockByteCount) || UInt64(journal.blockCount) > map.end {
                    let size = "\(journal.blockCount) blocks of \(journal.blockByteCount) bytes"
                    report(.journal, inode: inode, block: firstBlock, "\(size) in a file of \(map.end) blocks")
                }
                if journal.start != 0 {
                    report(.recovered, inode: inode, "it begins at block \(journal.start)")
                }
            }
        }
    }

    // MARK: - Descriptors in reserve

    /// One block of pointers to blocks of pointers. These are the reserved blocks behind the descriptors themselves,
    /// and each names its copies in the groups that have one.
    private func checkResizeInode(_ inode: InodeNumber, _ record: InodeRecord) throws(Ext4Error) {
        let area = record.blockArea
        let root = UInt64(unsafe area.span.bytes[LE<UInt32>(4 * 13)])
        let isAlone = (0..<InodeRecord.areaByteCount).allSatisfy { 52..<56 ~= $0 || area[$0] == 0 }
        let reserved = UInt64(superBlock.reservedGroupDescriptorBlocks)
        if root == 0, isAlone, reserved == 0 { return }
        guard isInVolume(root), isAlone, !record.flags.contains(.extents) else {
            throw .corrupt("resize inode", where: "its block map")
        }
        claim(root, 1, inode)
        let copies = (1..<layout.groupCount).filter { layout.hasSuperBlock(GroupNumber($0)) }
        let perBlock = UInt64(layout.blockByteCount / 4)
        guard copies.count <= Int(perBlock), superBlock.blockCount <= 1 << 32 else {
            throw .corrupt("resize inode", where: "the volume is too large for one")
        }
        // A block's place is its number among all blocks of descriptors.
        let table = superBlock.superBlockPlace.block.rawValue + 1
        let first = table + UInt64(layout.descriptorBlockCount)
        var expected = [UInt32](repeating: 0, count: Int(perBlock))
        for block in first..<first + reserved { expected[Int((block - table) % perBlock)] = UInt32(block) }
        try expect(expected, in: root)
        for block in first..<first + reserved {
            let homes = copies.map { UInt32(block + UInt64($0) * UInt64(superBlock.blocksPerGroup)) }
            try expect(homes + [UInt32](repeating: 0, count: Int(perBlock) - homes.count), in: block)
        }
        checkBlockCount(inode, record, clusters: 1 + reserved * UInt64(1 + copies.count))
    }

    private func expect(_ pointers: [UInt32], in block: UInt64) throws(Ext4Error) {
        try withBlock(block) { bytes throws(Ext4Error) in
            if let wrong = pointers.indices.first(where: { bytes[LE<UInt32>(4 * $0)] != pointers[$0] }) {
                let found = bytes[LE<UInt32>(4 * wrong)]
                throw .corrupt(
                    "resize inode", where: "block \(block): pointer \(wrong) is \(found), not \(pointers[wrong])")
            }
        }
    }

    // MARK: - Orphans

    /// `ob_magic` (kernel doc: ext4, "Orphan file").
    private static var orphanMagic: UInt32 { 0x0B10_CA04 }

    /// A recovery finishes every orphan, so that none is left.
    func checkOrphans() {
        if superBlock.lastOrphan != 0 {
            report(.orphanList, inode: InodeNumber(superBlock.lastOrphan), "s_last_orphan names it")
        }
        guard superBlock.features.compatible.contains(.orphanFile) else { return }
        let inode = InodeNumber(superBlock.orphanFileInode)
        if orphanBlocks.isEmpty { report(.orphanFile, inode: inode, "it has no blocks") }
        if superBlock.features.readOnlyCompatible.contains(.orphanPresent) {
            report(.orphanFile, inode: inode, "orphan_present is set")
        }
        for block in orphanBlocks {
            attempt(.orphanFile, inode: inode, block: block) { () throws(Ext4Error) in
                try withBlock(block) { checkOrphanBlock($0, block, inode) }
            }
        }
    }

    private func checkOrphanBlock(_ bytes: RawSpan, _ block: UInt64, _ inode: InodeNumber) {
        let tail = bytes.byteCount - 8
        if bytes[LE<UInt32>(tail)] != Self.orphanMagic { report(.orphanFile, inode: inode, block: block, "no magic") }
        if superBlock.hasMetadataChecksums {
            var crc = CRC32C(seed: orphanSeed)
            crc.update(littleEndian: block)
            crc.update(bytes.extracting(0..<tail))
            if bytes[LE<UInt32>(tail + 4)] != crc.value {
                report(.orphanFile, inode: inode, block: block, "wrong checksum")
            }
        }
        for slot in 0..<tail / 4 where bytes[LE<UInt32>(4 * slot)] != 0 {
            report(.orphanFile, inode: inode, block: block, "it names inode \(bytes[LE<UInt32>(4 * slot)])")
        }
    }
}
