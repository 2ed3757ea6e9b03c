internal import BlockIO
internal import Ext4Format

// What differs in the structures that lie at fixed places, between the block that a volume holds and the one that a
// replay writes. Checksums follow from the rest and are left out.

/// The fields of `struct ext4_super_block` that change while a volume is in use (kernel doc: ext4, "The Super Block").
enum SuperBlockDifference {
    private enum Kind { case number, flags, seconds, text }
    private struct Field {
        let name: String
        let bytes: Range<Int>
        let kind: Kind
        init(_ name: String, _ offset: Int, _ count: Int, _ kind: Kind = .number) {
            self.name = name
            bytes = offset..<offset + count
            self.kind = kind
        }
    }
    private static let fields: [Field] = [
        Field("inodes", 0x0, 4), Field("blocks", 0x4, 4), Field("reserved blocks", 0x8, 4),
        Field("free blocks", 0xC, 4), Field("free inodes", 0x10, 4), Field("mount time", 0x2C, 4, .seconds),
        Field("write time", 0x30, 4, .seconds), Field("mount count", 0x34, 2), Field("maximum mount count", 0x36, 2),
        Field("state", 0x3A, 2, .flags), Field("errors behaviour", 0x3C, 2), Field("check time", 0x40, 4, .seconds),
        Field("check interval", 0x44, 4), Field("compatible features", 0x5C, 4, .flags),
        Field("incompatible features", 0x60, 4, .flags), Field("read-only compatible features", 0x64, 4, .flags),
        Field("volume name", 0x78, 16, .text), Field("last mounted on", 0x88, 64, .text),
        Field("journal inode", 0xE0, 4), Field("last orphan", 0xE8, 4),
        Field("default mount options", 0x100, 4, .flags),
        Field("blocks, high half", 0x150, 4), Field("reserved blocks, high half", 0x154, 4),
        Field("free blocks, high half", 0x158, 4), Field("flags", 0x160, 4, .flags),
        Field("KiB written", 0x178, 8), Field("error count", 0x194, 4),
        Field("first error time", 0x198, 4, .seconds), Field("first error inode", 0x19C, 4),
        Field("first error block", 0x1A0, 8), Field("first error function", 0x1A8, 32, .text),
        Field("first error line", 0x1C8, 4), Field("last error time", 0x1CC, 4, .seconds),
        Field("last error inode", 0x1D0, 4), Field("last error line", 0x1D4, 4), Field("last error block", 0x1D8, 8),
        Field("last error function", 0x1E0, 32, .text), Field("mount options", 0x200, 64, .text),
        Field("orphan file inode", 0x280, 4),
    ]

    /// Both are the 1,024 bytes.
    static func changes(_ before: RawSpan, _ after: RawSpan) -> [Change] {
        var list = ChangeList(.superBlock)
        var known = [Bool](repeating: false, count: SuperBlock.byteCount)
        known.replaceSubrange(0x3FC..<0x400, with: repeatElement(true, count: 4))
        for field in fields {
            list.compare(field.name, value(field, before), value(field, after))
            for index in field.bytes { known[index] = true }
        }
        let others = (0..<SuperBlock.byteCount).count { !known[$0] && before[LE<UInt8>($0)] != after[LE<UInt8>($0)] }
        if others > 0 { list.add("other bytes that differ", nil, .number(UInt64(others))) }
        return list.changes
    }

    private static func value(_ field: Field, _ bytes: RawSpan) -> Change.Value {
        if field.kind == .text { return .text(Array(bytes.array(field.bytes).prefix { $0 != 0 })) }
        let number = bytes.array(field.bytes).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        return switch field.kind {
        case .flags: .flags(number)
        case .seconds: .time(Timestamp(seconds: Int64(number), nanoseconds: 0))
        default: .number(number)
        }
    }
}

enum GroupDifference {
    /// Blocks of descriptors of the groups from `first` on.
    static func changes(
        _ before: RawSpan, _ after: RawSpan, groups: ClosedRange<UInt32>, width: Int
    ) -> [Change] {
        groups.flatMap { group -> [Change] in
            let start = Int(group - groups.lowerBound) * width
            let old = GroupDescriptor(decoding: before.extracting(start..<start + width))
            let new = GroupDescriptor(decoding: after.extracting(start..<start + width))
            var list = ChangeList(.group(group))
            list.compare("free blocks", old.freeBlockCount, new.freeBlockCount)
            list.compare("free inodes", old.freeInodeCount, new.freeInodeCount)
            list.compare("directories", old.directoryCount, new.directoryCount)
            list.compare("unused inodes", old.unusedInodeCount, new.unusedInodeCount)
            list.compare("flags", .flags(UInt64(old.flags.rawValue)), .flags(UInt64(new.flags.rawValue)))
            list.compare("block bitmap at", old.blockBitmap.rawValue, new.blockBitmap.rawValue)
            list.compare("inode bitmap at", old.inodeBitmap.rawValue, new.inodeBitmap.rawValue)
            list.compare("inode table at", old.inodeTable.rawValue, new.inodeTable.rawValue)
            return list.changes
        }
    }
}

enum BitmapDifference {
    /// Runs of bits that were set and cleared: bit 0 stands for `first`, each further one for `unit` more.
    static func changes(
        _ before: RawSpan, _ after: RawSpan, bitCount: Int, first: UInt64, unit: UInt64, _ subject: Change.Subject
    ) -> [Change] {
        var list = ChangeList(subject)
        var run: (isSet: Bool, start: Int)?
        func close(at end: Int) {
            guard let open = run else { return }
            let value = Change.Value.run(first + UInt64(open.start) * unit, first + UInt64(end) * unit - 1)
            list.add(open.isSet ? "taken" : "freed", open.isSet ? nil : value, open.isSet ? value : nil)
            run = nil
        }
        for bit in 0..<bitCount {
            let old = before[LE<UInt8>(bit / 8)], new = after[LE<UInt8>(bit / 8)]
            let mask = UInt8(1) << UInt8(bit % 8)
            let isSet: Bool? = (old ^ new) & mask == 0 ? nil : new & mask != 0
            if run?.isSet == isSet { continue }
            close(at: bit)
            if let isSet { run = (isSet, bit) }
        }
        close(at: bitCount)
        return list.changes
    }
}
