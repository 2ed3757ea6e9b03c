internal import Ext4Format

/// What the log tells of an inode itself.
struct FastCommitFields {
    let record: InodeRecord
    /// The value of "system.data" of a file that has its data inside: what is behind the 60 bytes of `i_block`.
    let inlineValue: [UInt8]?

    /// Linux logs the fields that are in use, and of an inode with something inside its whole slot. No other attribute
    /// of that is taken: a change of one is never part of a fast commit. What a directory has inside are names, which
    /// the log tells one by one.
    init(_ bytes: [UInt8], _ number: InodeNumber, _ volume: Volume) throws(Ext4Error) {
        let size = volume.superBlock.inodeByteCount
        guard bytes.count <= size else { throw Self.corrupt(number, "\(bytes.count) bytes") }
        let slot = bytes + [UInt8](repeating: 0, count: size - bytes.count)
        record = try InodeRecord(decoding: unsafe slot.span.bytes)
        guard bytes.count >= 128 + Int(record.extraSize), let type = FileType(mode: record.mode),
            record.size <= FileData.maximumSize(volume)
        else { throw Self.corrupt(number, "its fields contradict each other") }
        guard record.flags.contains(.inlineData), type != .directory else {
            inlineValue = nil
            return
        }
        guard volume.superBlock.features.incompatible.contains(.inlineData), bytes.count == size,
            type == .regular || type == .symlink, !record.flags.contains(.extents)
        else { throw Self.corrupt(number, "cannot have its data inside") }
        inlineValue = try Self.inlineValue(in: slot, record, number)
    }

    private static func inlineValue(
        in slot: [UInt8], _ record: InodeRecord, _ number: InodeNumber
    ) throws(Ext4Error) -> [UInt8] {
        guard let range = ExtendedAttributeArea.range(slotByteCount: slot.count, extraSize: record.extraSize) else {
            throw corrupt(number, "no room for its data inside")
        }
        let area = unsafe slot.span.bytes.extracting(range)
        let entries = try ExtendedAttributeArea.decode(area, of: number)
        guard let entry = entries.first(where: { $0.name == .inlineData }), entry.valueInode == 0,
            record.size <= UInt64(InodeRecord.areaByteCount + entry.value.count)
        else { throw corrupt(number, "\(record.size) bytes of data, and not all of them") }
        return area.array(entry.value)
    }

    private static func corrupt(_ number: InodeNumber, _ what: String) -> Ext4Error {
        .corrupt("fast commit", where: "inode \(number.rawValue): \(what)")
    }
}
