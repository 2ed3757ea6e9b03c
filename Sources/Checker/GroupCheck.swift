internal import Ext4Format

/// Group descriptors, the blocks that they name, and the bitmaps.
extension Survey {
    func checkGroups() {
        readDescriptors()
        var places: [Range<UInt64>] = []
        for group in 0..<UInt32(descriptors.count) { places += claimMetadata(group) }
        checkOverlap(places)
        for group in 0..<UInt32(descriptors.count) {
            checkBlockBitmap(group)
            checkInodeBitmap(group)
        }
    }

    private func readDescriptors() {
        let size = superBlock.groupDescriptorByteCount
        let perBlock = UInt32(layout.blockByteCount / size)
        for first in stride(from: 0, to: layout.groupCount, by: Int(perBlock)) {
            let block = layout.descriptor(of: GroupNumber(first)).block.rawValue
            attempt(.descriptor, block: block, group: first) { () throws(Ext4Error) in
                try withBlock(block) { bytes in
                    for group in first..<min(first + perBlock, layout.groupCount) {
                        let at = Int(group - first) * size
                        let slot = bytes.extracting(at..<at + size)
                        if !GroupDescriptor.isChecksumRight(slot, group: GroupNumber(group), superBlock: superBlock) {
                            report(.descriptor, block: block, group: group, "wrong checksum")
                        }
                        descriptors.append(GroupDescriptor(decoding: slot))
                    }
                }
            }
        }
    }

    /// In one cluster there may be blocks of several groups: that no block is of two is checked by the blocks.
    private func checkOverlap(_ places: [Range<UInt64>]) {
        guard superBlock.hasClusters else { return }
        let sorted = places.sorted { $0.lowerBound < $1.lowerBound }
        for (one, next) in zip(sorted, sorted.dropFirst()) where one.upperBound > next.lowerBound {
            report(.blockClaimedTwice, block: next.lowerBound, "it has another owner already")
        }
    }

    /// Gives the blocks that the group itself takes their owner, and answers them.
    private func claimMetadata(_ group: UInt32) -> [Range<UInt64>] {
        let first = layout.firstBlock(of: GroupNumber(group)).rawValue
        let header = UInt64(layout.headerBlockCount(of: GroupNumber(group)))
        let size = UInt64(layout.blockCount(of: GroupNumber(group)))
        var places: [Range<UInt64>] = []
        if header > 0 { places.append(first..<first + min(header, size)) }
        let descriptor = descriptors[Int(group)]
        let isFlexible = superBlock.features.incompatible.contains(.flexibleGroups)
        let area = isFlexible ? UInt64(superBlock.firstDataBlock)..<superBlock.blockCount : first..<first + size
        let parts = [
            (descriptor.blockBitmap, UInt64(1), "block bitmap"), (descriptor.inodeBitmap, 1, "inode bitmap"),
            (descriptor.inodeTable, UInt64(layout.inodeTableBlockCount), "inode table"),
        ]
        for (start, count, name) in parts {
            guard area.contains(start.rawValue), count <= area.upperBound - start.rawValue else {
                report(.metadataPlace, block: start.rawValue, group: group, "the \(name) is not in \(area)")
                continue
            }
            places.append(start.rawValue..<start.rawValue + count)
        }
        for place in places { claim(place.lowerBound, UInt64(place.count), nil) }
        return places
    }

    private func checkBlockBitmap(_ group: UInt32) {
        let descriptor = descriptors[Int(group)], block = descriptor.blockBitmap.rawValue
        if superBlock.hasGroupChecksums, descriptor.flags.contains(.blocksUninitialized) {
            // It was never written, and stands for the blocks that the group itself takes.
            return markedBlocks.copy(Int(group), from: owned)
        }
        guard isInVolume(block) else { return }
        attempt(.blockBitmap, block: block, group: group) { () throws(Ext4Error) in
            try withBlock(block) { bytes in
                let count = layout.clusterCount(of: GroupNumber(group))
                checkBitmap(
                    .blockBitmap, bytes, group, block, bitCount: superBlock.clustersPerGroup,
                    stored: descriptor.blockBitmapChecksum)
                markedBlocks.load(bytes, Int(group), bitCount: Int(count))
                if !Self.isSet(bytes, from: Int(count)) {
                    report(.blockBitmapPadding, block: block, group: group, "a bit behind bit \(count - 1) is clear")
                }
            }
        }
    }

    private func checkInodeBitmap(_ group: UInt32) {
        let descriptor = descriptors[Int(group)], block = descriptor.inodeBitmap.rawValue
        let isUninitialized = superBlock.hasGroupChecksums && descriptor.flags.contains(.inodesUninitialized)
        guard !isUninitialized, isInVolume(block) else { return }
        attempt(.inodeBitmap, block: block, group: group) { () throws(Ext4Error) in
            try withBlock(block) { bytes in
                let count = Int(superBlock.inodesPerGroup)
                checkBitmap(
                    .inodeBitmap, bytes, group, block, bitCount: superBlock.inodesPerGroup,
                    stored: descriptor.inodeBitmapChecksum)
                markedInodes.load(bytes, Int(group), bitCount: count)
                if !Self.isSet(bytes, from: count) {
                    report(.inodeBitmapPadding, block: block, group: group, "a bit behind bit \(count - 1) is clear")
                }
            }
        }
    }

    private func checkBitmap(
        _ rule: Finding.Rule, _ bytes: RawSpan, _ group: UInt32, _ block: UInt64, bitCount: UInt32, stored: UInt32
    ) {
        guard superBlock.hasMetadataChecksums else { return }
        guard GroupDescriptor.bitmapChecksum(of: bytes, bitCount: bitCount, superBlock: superBlock) != stored else {
            return
        }
        report(rule, block: block, group: group, "wrong checksum")
    }

    /// Whether all bits of the block from `bit` on are ones.
    private static func isSet(_ bytes: RawSpan, from bit: Int) -> Bool {
        guard bit < bytes.byteCount * 8 else { return true }
        let head = UInt8.max << UInt8(bit % 8)
        guard bytes[LE<UInt8>(bit / 8)] & head == head else { return false }
        return (bit / 8 + 1..<bytes.byteCount).allSatisfy { bytes[LE<UInt8>($0)] == .max }
    }
}
