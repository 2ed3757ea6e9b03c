internal import Ext4Format
internal import Journal

// Reading a directory in pieces. A cookie stands for "after this entry" and stays right whatever is added or removed in
// between: entries that were there all the time are answered exactly once.
//
// Where names have hashes, the cookie is made of them, so that it does not depend on the leaf an entry is in:
//   bits 62...32  the major hash without its lowest bit
//   bits 31...4   the minor hash, or a checksum of the name where the hash has no minor part
//   bits 3...0    a running number among entries that are equal in all this
// "." is 1, ".." is 2, and no other name is below 3. Elsewhere it is the byte offset of the end of the entry's record:
// the records of such directories never move.
extension Directory {
    /// The entries after `cookie` (0: all), in cookie order, until `each` answers false or there are no more.
    func read(
        after cookie: UInt64, _ each: (_ entry: Entry, _ cookie: UInt64) -> Bool
    ) throws(Ext4Error) {
        let (shape, blockCount) = try shape()
        guard shape != .linear else { return try readLinear(after: cookie, blockCount, each) }
        let directoryType: UInt8 = format.hasFileTypes ? 2 : 0
        if cookie < 1 {
            guard each(Entry(name: [0x2E], inode: inode.number, type: directoryType), 1) else { return }
        }
        if cookie < 2 {
            guard each(Entry(name: [0x2E, 0x2E], inode: try parent(), type: directoryType), 2) else { return }
        }
        if case .single(let version) = shape {
            let names = try sort([leaf(FileBlock(0), isFirst: true)], skipping: 2, within: 0..<1 << 32, version)
            _ = try emit(names, after: cookie, each)
            return
        }
        let root = try indexRoot()
        // A cookie past the last hash has nothing after it.
        guard cookie >> 32 <= 0x7FFF_FFFF else { return }
        var path = try descend(to: UInt32(cookie >> 32) << 1, from: root)
        var leafCount = 0
        while true {
            let (names, isLast) = try nextNames(&path)
            guard try emit(names, after: cookie, each), !isLast else { return }
            leafCount += names.blocks.count
            guard leafCount <= Int(blockCount) else { throw corrupt("more leaves than blocks") }
        }
    }

    // MARK: By hash

    /// The names of one leaf, or of several when names of one hash continue, in cookie order.
    private struct SortedNames {
        struct Item {
            var cookie: UInt64
            let block: Int32
            let offset: Int32
        }
        let blocks: [CachedBlock]
        var items: [Item]
    }

    /// The names of the path's leaf and of those that continue it. The path moves behind them; true at the end.
    private func nextNames(_ path: inout IndexPath) throws(Ext4Error) -> (names: SortedNames, isLast: Bool) {
        let start = path.start & ~1
        var blocks = [try leaf(path.leaf, isFirst: false)]
        var following = try followingStart(path)
        while let hash = following, hash & 1 == 1 {
            guard blocks.count < Self.chainLimit else {
                throw corrupt("more than \(Self.chainLimit) leaves share one hash")
            }
            _ = try advance(&path)
            blocks.append(try leaf(path.leaf, isFirst: false))
            following = try followingStart(path)
        }
        let end = following.map { UInt64($0) } ?? 1 << 32
        guard UInt64(start) <= end else { throw corrupt("an index with hashes out of order") }
        let names = try sort(blocks, skipping: 0, within: UInt64(start)..<end, path.version)
        return (names, try !advance(&path))
    }

    /// Gives the live entries behind the first `skipped` records their cookies. A hash outside of `range` is corrupt:
    /// it would make cookies go back, and a reader with them, for ever.
    private func sort(
        _ blocks: [CachedBlock], skipping skipped: Int, within range: Range<UInt64>, _ version: DirectoryHash.Version
    ) throws(Ext4Error) -> SortedNames {
        let hash = DirectoryHash(version: version, of: volume.superBlock)
        var items: [SortedNames.Item] = []
        items.reserveCapacity(blocks.count * format.blockByteCount / 24)
        for (index, block) in blocks.enumerated() {
            try block.withBytes { bytes throws(Ext4Error) in
                var (offset, ordinal) = (0, 0)
                while offset < format.leafByteCount {
                    let entry = try format.entry(bytes, at: offset, end: format.leafByteCount, in: block.number)
                    (offset, ordinal) = (entry.end, ordinal + 1)
                    guard entry.inode != 0, ordinal > skipped else { continue }
                    let name = bytes.extracting(entry.nameRange)
                    let value = hash.value(of: name)
                    guard range.contains(UInt64(value.major)) else {
                        throw corrupt("a name of block \(block.number.rawValue) does not belong there")
                    }
                    let minor = version == .legacy ? CRC32C.of(name) : value.minor
                    items.append(
                        SortedNames.Item(
                            cookie: UInt64(value.major >> 1) << 32 | UInt64(minor & ~0xF), block: Int32(index),
                            offset: Int32(entry.offset)))
                }
            }
        }
        items.sort { $0.cookie < $1.cookie }
        var names = SortedNames(blocks: blocks, items: items)
        try numberEqualOnes(&names)
        return names
    }

    /// Makes the cookies strictly rising. What is equal so far goes by name.
    private func numberEqualOnes(_ names: inout SortedNames) throws(Ext4Error) {
        var last: UInt64 = 2
        var index = 0
        while index < names.items.count {
            let cookie = names.items[index].cookie
            var end = index + 1
            while end < names.items.count && names.items[end].cookie == cookie { end += 1 }
            if end - index > 1 {
                var equal: [(name: [UInt8], item: SortedNames.Item)] = []
                for item in names.items[index..<end] { equal.append((try entry(of: item, names.blocks).name, item)) }
                equal.sort { $0.name.lexicographicallyPrecedes($1.name) }
                for (at, each) in equal.enumerated() { names.items[index + at] = each.item }
            }
            for at in index..<end {
                last = max(cookie, min(last + 1, cookie | 0xFFFF_FFFF))
                names.items[at].cookie = last
            }
            index = end
        }
    }

    private func entry(of item: SortedNames.Item, _ blocks: [CachedBlock]) throws(Ext4Error) -> Entry {
        let block = blocks[Int(item.block)]
        return try block.withBytes { bytes throws(Ext4Error) in
            let entry = try format.entry(bytes, at: Int(item.offset), end: format.leafByteCount, in: block.number)
            return Entry(name: bytes.array(entry.nameRange), inode: InodeNumber(entry.inode), type: entry.type)
        }
    }

    /// False when `each` wants no more.
    private func emit(
        _ names: SortedNames, after cookie: UInt64, _ each: (Entry, UInt64) -> Bool
    ) throws(Ext4Error) -> Bool {
        var (low, high) = (0, names.items.count)
        while low < high {
            let middle = (low + high) / 2
            if names.items[middle].cookie > cookie { high = middle } else { low = middle + 1 }
        }
        for item in names.items[low...] {
            guard each(try entry(of: item, names.blocks), item.cookie) else { return false }
        }
        return true
    }

    // MARK: By offset

    private func readLinear(
        after cookie: UInt64, _ blockCount: UInt32, _ each: (Entry, UInt64) -> Bool
    ) throws(Ext4Error) {
        let unit = UInt64(format.blockByteCount)
        guard cookie / unit < UInt64(blockCount) else { return }
        for number in UInt32(cookie / unit)..<blockCount {
            let start = UInt64(number) * unit
            guard let block = try linearLeaf(FileBlock(number)) else {
                if number > 0 { continue }
                guard try emitDots(after: cookie, each) else { return }
                continue
            }
            // A record that a removal has merged may reach over the cookie: it was answered before.
            let resume = cookie > start ? Int(cookie - start) : 0
            var offset = 0
            while let (entry, end) = try nextLinear(block, from: offset, resume) {
                guard each(entry, start + UInt64(end)) else { return }
                offset = end
            }
        }
    }

    private func nextLinear(
        _ block: CachedBlock, from offset: Int, _ resume: Int
    ) throws(Ext4Error) -> (entry: Entry, end: Int)? {
        try block.withBytes { bytes throws(Ext4Error) in
            var offset = offset
            while let entry = try format.nextEntry(bytes, from: offset, block: block.number) {
                offset = entry.end
                guard entry.offset >= resume else { continue }
                let name = bytes.array(entry.nameRange)
                return (Entry(name: name, inode: InodeNumber(entry.inode), type: entry.type), entry.end)
            }
            return nil
        }
    }

    /// "." and ".." of a first block that is the root of an index.
    private func emitDots(after cookie: UInt64, _ each: (Entry, UInt64) -> Bool) throws(Ext4Error) -> Bool {
        let type: UInt8 = format.hasFileTypes ? 2 : 0
        if cookie < 12 { guard each(Entry(name: [0x2E], inode: inode.number, type: type), 12) else { return false } }
        if cookie < 24 { return each(Entry(name: [0x2E, 0x2E], inode: try parent(), type: type), 24) }
        return true
    }
}
