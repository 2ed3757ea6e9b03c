internal import BlockIO
internal import Ext4Format
internal import FileSystem

/// What differs between two states of one slot of an inode table.
enum InodeDifference {
    static func changes(_ before: RawSpan, _ after: RawSpan, _ number: UInt32, blockCount: UInt64) -> [Change] {
        var list = ChangeList(.inode(number))
        guard let old = try? InodeRecord(decoding: before), let new = try? InodeRecord(decoding: after) else {
            let count = (0..<after.byteCount).count { before[LE<UInt8>($0)] != after[LE<UInt8>($0)] }
            if count > 0 { list.add("bytes that differ", nil, .number(UInt64(count))) }
            return list.changes
        }
        let wasUsed = isUsed(old), isUsed = isUsed(new)
        // The number may have been given to another file meanwhile: then its generation is another one.
        let isOther = wasUsed && isUsed && old.generation != new.generation
        if wasUsed && !isUsed || isOther { list.add("deleted", .text(Array(kind(old).utf8)), nil) }
        if !wasUsed && isUsed || isOther { list.add("created", nil, .text(Array(kind(new).utf8))) }
        list.compare("mode", .mode(old.mode), .mode(new.mode))
        list.compare("uid", old.uid, new.uid)
        list.compare("gid", old.gid, new.gid)
        list.compare("size", old.size, new.size)
        list.compare("links", old.linkCount, new.linkCount)
        list.compare("sectors", old.blockCount, new.blockCount)
        list.compare("flags", .flags(UInt64(old.flags.rawValue)), .flags(UInt64(new.flags.rawValue)))
        list.compare("atime", .time(old.access), .time(new.access))
        list.compare("mtime", .time(old.modification), .time(new.modification))
        list.compare("ctime", .time(old.change), .time(new.change))
        list.compare("crtime", .time(old.creation), .time(new.creation))
        list.compare("dtime", old.deletionTime, new.deletionTime)
        list.compare("generation", old.generation, new.generation)
        list.compare("attribute block", old.attributeBlock, new.attributeBlock)
        list.compare("version", old.version, new.version)
        list.compare("project", old.project, new.project)
        compareAreas(old, new, blockCount, &list)
        let extra = 128 + Int(max(old.extraSize, new.extraSize))
        let count = (min(extra, after.byteCount)..<after.byteCount).count {
            before[LE<UInt8>($0)] != after[LE<UInt8>($0)]
        }
        if count > 0 { list.add("bytes of attributes that differ", nil, .number(UInt64(count))) }
        return list.changes
    }

    /// One without links may still be open: then it has no deletion time, or the next orphan's number in its place.
    private static func isUsed(_ record: InodeRecord) -> Bool { record.mode != 0 && record.linkCount > 0 }

    private static func kind(_ record: InodeRecord) -> String {
        switch FileType(mode: record.mode) {
        case .regular: "file"
        case .directory: "directory"
        case .symlink: "symlink"
        case .characterDevice: "character device"
        case .blockDevice: "block device"
        case .fifo: "fifo"
        case .socket: "socket"
        case nil: "unknown"
        }
    }

    /// `i_block`: the root of the extent tree by its entries; a block map, a device number or a short target as bytes.
    private static func compareAreas(
        _ old: InodeRecord, _ new: InodeRecord, _ blockCount: UInt64, _ list: inout ChangeList
    ) {
        func area(_ record: InodeRecord) -> [UInt8] { (0..<InodeRecord.areaByteCount).map { record.blockArea[$0] } }
        let before = area(old), after = area(new)
        guard before != after else { return }
        let wasTree = old.flags.contains(.extents), isTree = new.flags.contains(.extents)
        let none: [UInt8] = []
        guard wasTree || isTree else {
            let count = zip(before, after).count { $0 != $1 }
            return list.add("bytes of the block map that differ", nil, .number(UInt64(count)))
        }
        ExtentDifference.compare(
            unsafe (wasTree ? before : none).span.bytes, unsafe (isTree ? after : none).span.bytes, blockCount, &list)
    }
}

enum ExtentDifference {
    /// The entries of two nodes; a node that makes no sense has none.
    static func compare(_ before: RawSpan, _ after: RawSpan, _ blockCount: UInt64, _ list: inout ChangeList) {
        let old = node(before, blockCount), new = node(after, blockCount)
        list.compare("depth", old?.depth ?? 0, new?.depth ?? 0)
        list.compare("extent", extents(old), extents(new)) { .extent($0.extent) }
        list.compare("tree block", children(old), children(new)) { .number($0) }
    }

    private struct Item: Hashable {
        let extent: Extent
        func hash(into hasher: inout Hasher) { hasher.combine(extent.first) }
    }

    private static func node(_ bytes: RawSpan, _ blockCount: UInt64) -> ExtentNode? {
        guard bytes.byteCount >= InodeRecord.areaByteCount else { return nil }
        return try? ExtentNode(decoding: bytes, depth: nil, blockCount: blockCount, where: "")
    }
    private static func extents(_ node: ExtentNode?) -> [Item] {
        guard case .leaf(let extents) = node?.entries else { return [] }
        return extents.map(Item.init)
    }
    private static func children(_ node: ExtentNode?) -> [UInt64] {
        guard case .inner(let indexes) = node?.entries else { return [] }
        return indexes.map(\.child.rawValue)
    }
}
