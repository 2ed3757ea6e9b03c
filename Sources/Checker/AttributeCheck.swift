internal import Ext4Format

/// Extended attributes, behind the fields of an inode and in blocks of their own.
extension Survey {
    /// Gives the number of clusters that count for the inode: each that uses a shared block counts it.
    func checkAttributes(_ inode: InodeNumber, _ record: InodeRecord, _ slot: RawSpan) throws(Ext4Error) -> UInt64 {
        if let area = ExtendedAttributeArea.range(slotByteCount: slot.byteCount, extraSize: record.extraSize) {
            let bytes = slot.extracting(area)
            checkEntries(try ExtendedAttributeArea.decode(bytes, of: inode), bytes, inode, nil)
        }
        let block = record.attributeBlock
        guard block != 0 else { return 0 }
        guard isInVolume(block) else {
            report(.blockOutside, inode: inode, block: block, "in a volume of \(superBlock.blockCount)")
            return 0
        }
        if attributeBlocks[block] != nil {
            attributeBlocks[block]?.references += 1
            return 1
        }
        claim(block, 1, inode)
        attempt(.attributes, inode: inode, block: block) { () throws(Ext4Error) in
            try withBlock(block) { bytes throws(Ext4Error) in
                try ExtendedAttributeBlock.verify(bytes, at: FSBlock(block), superBlock)
                let stored = try ExtendedAttributeBlock.referenceCount(bytes, at: FSBlock(block))
                attributeBlocks[block] = AttributeBlock(stored: stored, references: 1)
                let entries = try ExtendedAttributeBlock.decode(bytes, at: FSBlock(block))
                guard !entries.isEmpty else { return report(.attributes, inode: inode, block: block, "no entries") }
                checkEntries(entries, bytes, inode, block)
            }
        }
        return 1
    }

    private func checkEntries(
        _ entries: [ExtendedAttributeTable.Entry], _ bytes: RawSpan, _ inode: InodeNumber, _ block: UInt64?
    ) {
        var names: Set<ExtendedAttributeName> = []
        for entry in entries {
            let name = entry.name
            if name.index.rawValue == 0 || name.index.rawValue > 8 || entry.valueInode != 0 {
                report(.attributes, inode: inode, block: block, "name index \(name.index.rawValue)")
            }
            if !names.insert(name).inserted { report(.attributes, inode: inode, block: block, "a name twice") }
            // In an inode the field is not kept: zero, or right.
            guard block != nil || entry.hash != 0 else { continue }
            if !Self.hashes(name.suffix, bytes.extracting(entry.value)).contains(entry.hash) {
                report(.attributeHash, inode: inode, block: block, "0x\(String(entry.hash, radix: 16))")
            }
        }
        guard block != nil else { return }
        for (a, b) in zip(entries, entries.dropFirst()) where !ExtendedAttributeName.precedes(a.name, b.name) {
            report(.attributes, inode: inode, block: block, "entries out of order")
        }
    }

    /// `e_hash` with the bytes of the name taken as unsigned and as signed: machines have written both.
    private static func hashes(_ name: [UInt8], _ value: RawSpan) -> [UInt32] {
        [false, true].map { isSigned in
            var hash: UInt32 = 0
            for byte in name {
                let character = isSigned ? UInt32(bitPattern: Int32(Int8(bitPattern: byte))) : UInt32(byte)
                hash = hash << 5 ^ hash >> 27 ^ character
            }
            for start in stride(from: 0, to: value.byteCount, by: 4) {
                var word: UInt32 = 0
                for at in (start..<min(start + 4, value.byteCount)).reversed() {
                    word = word << 8 | UInt32(value[LE<UInt8>(at)])
                }
                hash = hash << 16 ^ hash >> 16 ^ word
            }
            return hash
        }
    }

    /// After all inodes have been seen.
    func checkAttributeReferences() {
        for (block, found) in attributeBlocks.sorted(by: { $0.key < $1.key }) where found.stored != found.references {
            report(.attributeReferences, block: block, "\(found.stored), and \(found.references) inodes use it")
        }
    }
}
