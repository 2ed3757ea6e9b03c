/// Searching and changing the records of one leaf. All offsets are bytes from the start of the block. Changes leave the
/// checksum to `sealLeaf`. A damaged image may let two directories share a block, so that a record may be gone by the
/// time it is to be changed: that is `.corrupt` too.
extension DirectoryFormat {
    /// An entry and the record before it in its block, if it has one: what removing it needs.
    package struct Match: Equatable, Sendable {
        package let entry: DirectoryEntry
        package let previous: Int?
    }

    /// Where a new record can go.
    package enum Room: Equatable, Sendable {
        /// In the free part of the record at this offset.
        case slack(Int)
        /// Nowhere as it is, but packing the records makes the room.
        case packed
        case none
    }

    /// Whether the bytes of `span` from `offset` on are `name`; the caller has checked that they are in range.
    @inline(__always)
    private func isEqual(_ span: RawSpan, _ offset: Int, _ name: RawSpan) -> Bool {
        var at = 0
        let count = name.byteCount
        while at + 8 <= count {
            if span[LE<UInt64>(offset + at)] != name[LE<UInt64>(at)] { return false }
            at += 8
        }
        while at < count {
            if span[LE<UInt8>(offset + at)] != name[LE<UInt8>(at)] { return false }
            at += 1
        }
        return true
    }

    /// Whether `entry` bears `name`.
    package func matches(_ bytes: RawSpan, _ entry: DirectoryEntry, _ name: RawSpan) -> Bool {
        entry.inode != 0 && entry.nameByteCount == name.byteCount && isEqual(bytes, entry.nameRange.lowerBound, name)
    }

    package func find(_ name: RawSpan, in bytes: RawSpan, block: FSBlock) throws(Ext4Error) -> Match? {
        var (offset, previous) = (0, Int?.none)
        while offset < leafByteCount {
            let entry = try entry(bytes, at: offset, end: leafByteCount, in: block)
            if matches(bytes, entry, name) { return Match(entry: entry, previous: previous) }
            (previous, offset) = (offset, entry.end)
        }
        return nil
    }

    /// The next live record at or after `offset`, which must be where a record starts, or nil at the end of the leaf.
    package func nextEntry(_ bytes: RawSpan, from offset: Int, block: FSBlock) throws(Ext4Error) -> DirectoryEntry? {
        var offset = offset
        while offset < leafByteCount {
            let entry = try entry(bytes, at: offset, end: leafByteCount, in: block)
            if entry.inode != 0 { return entry }
            offset = entry.end
        }
        return nil
    }

    /// The first place for a record of `byteCount` bytes. Never `.packed` when records must not move.
    package func room(
        for byteCount: Int, in bytes: RawSpan, mayMove: Bool, block: FSBlock
    ) throws(Ext4Error) -> Room {
        var (offset, used) = (0, 0)
        while offset < leafByteCount {
            let entry = try entry(bytes, at: offset, end: leafByteCount, in: block)
            if entry.byteCount - entry.usedByteCount >= byteCount { return .slack(offset) }
            used += entry.usedByteCount
            offset = entry.end
        }
        return mayMove && used + byteCount <= leafByteCount ? .packed : .none
    }

    /// Makes the new entry from the free part of the record at `offset`, as `room` found it.
    package func insert(
        _ bytes: inout MutableRawSpan, at offset: Int, inode: UInt32, name: RawSpan, type: UInt8, block: FSBlock
    ) throws(Ext4Error) {
        let host = try entry(bytes.bytes, at: offset, end: leafByteCount, in: block)
        let used = host.usedByteCount
        guard host.byteCount - used >= DirectoryEntry.byteCount(forNameOf: name.byteCount) else {
            throw Self.corrupt(block, "no room at byte \(offset)")
        }
        if used > 0 { setByteCount(&bytes, at: offset, to: used) }
        write(&bytes, at: offset + used, byteCount: host.byteCount - used, inode: inode, name: name, type: type)
    }

    /// Gives the record to the one before it, or makes it a free one, and wipes the name.
    package func remove(_ bytes: inout MutableRawSpan, _ match: Match, block: FSBlock) throws(Ext4Error) {
        let entry = try self.entry(bytes.bytes, at: match.entry.offset, end: leafByteCount, in: block)
        if let previous = match.previous {
            let host = try self.entry(bytes.bytes, at: previous, end: leafByteCount, in: block)
            guard host.end == entry.offset else { throw Self.corrupt(block, "no record at byte \(entry.offset)") }
            setByteCount(&bytes, at: previous, to: host.byteCount + entry.byteCount)
            bytes.fill(entry.offset..<entry.nameRange.upperBound, with: 0)
        } else {
            bytes.fill(entry.offset..<entry.nameRange.upperBound, with: 0)
            setByteCount(&bytes, at: entry.offset, to: entry.byteCount)
        }
    }

    /// Makes the whole block one free record.
    package func clearLeaf(_ bytes: inout MutableRawSpan) {
        bytes.fill(0..<blockByteCount, with: 0)
        setByteCount(&bytes, at: 0, to: leafByteCount)
    }

    /// Writes a new leaf that has the records of the leaf `source` at `offsets`, in that order, and then a new one if
    /// there is one; the last gets what is left. They must fit: see `usedByteCount`.
    package func pack(
        _ bytes: inout MutableRawSpan, _ offsets: some Sequence<Int>, of source: RawSpan,
        adding new: (inode: UInt32, type: UInt8)?, name: RawSpan, block: FSBlock
    ) throws(Ext4Error) {
        clearLeaf(&bytes)
        var (next, last) = (0, 0)
        for offset in offsets {
            let entry = try entry(source, at: offset, end: leafByteCount, in: block)
            guard entry.usedByteCount <= leafByteCount - next else { throw Self.corrupt(block, "too many names") }
            write(
                &bytes, at: next, byteCount: entry.usedByteCount, inode: entry.inode,
                name: source.extracting(entry.nameRange), type: entry.type)
            (last, next) = (next, next + entry.usedByteCount)
        }
        if let new {
            let count = DirectoryEntry.byteCount(forNameOf: name.byteCount)
            guard count <= leafByteCount - next else { throw Self.corrupt(block, "too many names") }
            write(&bytes, at: next, byteCount: count, inode: new.inode, name: name, type: new.type)
            (last, next) = (next, next + count)
        }
        setByteCount(&bytes, at: last, to: leafByteCount - last)
    }

    /// Writes the first leaf of a new directory.
    package func writeFirstLeaf(_ bytes: inout MutableRawSpan, own: InodeNumber, parent: InodeNumber, seed: UInt32) {
        clearLeaf(&bytes)
        writeDots(&bytes, own: own.rawValue, parent: parent.rawValue, parentByteCount: leafByteCount - 12)
        sealLeaf(&bytes, seed: seed)
    }

    func writeDots(_ bytes: inout MutableRawSpan, own: UInt32, parent: UInt32, parentByteCount: Int) {
        let dots: [UInt8] = [0x2E, 0x2E]
        let span = unsafe dots.span.bytes
        write(&bytes, at: 0, byteCount: 12, inode: own, name: span.extracting(0..<1), type: 2)
        write(&bytes, at: 12, byteCount: parentByteCount, inode: parent, name: span, type: 2)
    }
}
