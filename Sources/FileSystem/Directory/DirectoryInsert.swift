internal import Allocator
internal import Ext4Format
internal import Journal

/// What `insert` will do, with every block that it changes read and verified. The caller keeps the inode lock from
/// `planInsert` on; of the directory's other changes only removals may come between.
struct InsertPlan {
    enum Place {
        /// There is room in this leaf.
        case leaf(CachedBlock, mayMove: Bool)
        /// The leaf at the end of the path has none.
        case split(CachedBlock, IndexPath)
        /// The only block has none: it becomes the root of an index.
        case newIndex(CachedBlock, DirectoryHash.Version)
        /// No block has any.
        case append
    }
    let name: FileName
    let place: Place
    /// How many new blocks the directory may need, without the extent tree's: at most `insertBlocks`.
    let blockCount: UInt64
}

extension Directory {
    /// A leaf, a node of the index, and either a second node or a root one level deeper.
    static var insertBlocks: UInt64 { 3 }
    /// Those, what they are split from, and the root.
    static var insertCredits: Int { 7 }

    /// Finds room for a new name. EEXIST; ENOSPC when the index is as deep and full as the format allows.
    func planInsert(_ name: FileName) throws(Ext4Error) -> InsertPlan {
        try requireChangeable()
        if name.isDotOrDotDot { throw .posix(Errno.exists) }
        let (shape, blockCount) = try shape()
        let plan: InsertPlan
        switch shape {
        case .indexed: plan = try planIndexed(name)
        case .single(let version): plan = try planSingle(name, version)
        case .linear: plan = try planLinear(name, blockCount)
        }
        // Without large_dir there is no high half of i_size.
        let hasLargeDirectories = volume.superBlock.features.incompatible.contains(.largeDirectory)
        let bound =
            hasLargeDirectories
            ? UInt64(DirectoryIndex.blockLimit) : UInt64(Int32.max) / UInt64(format.blockByteCount)
        guard plan.blockCount == 0 || UInt64(blockCount) + plan.blockCount <= bound else { throw .posix(Errno.noSpace) }
        return plan
    }

    private func room(for name: FileName, in block: CachedBlock, mayMove: Bool) throws(Ext4Error)
        -> DirectoryFormat.Room
    {
        try block.withBytes { bytes throws(Ext4Error) in
            try format.room(
                for: DirectoryEntry.byteCount(forNameOf: name.bytes.count), in: bytes, mayMove: mayMove,
                block: block.number)
        }
    }

    private func planIndexed(_ name: FileName) throws(Ext4Error) -> InsertPlan {
        let root = try indexRoot()
        let path = try descend(to: hash(name.bytes, root.version).major, from: root)
        var chain = path
        if try locate(name, along: &chain) != nil { throw .posix(Errno.exists) }
        let block = try leaf(path.leaf, isFirst: false)
        if try room(for: name, in: block, mayMove: true) != .none {
            return InsertPlan(name: name, place: .leaf(block, mayMove: true), blockCount: 0)
        }
        // One leaf, and one block for each full index block above it; the root gives its entries to a new node.
        let fullCount = path.steps.reversed().prefix { $0.index.isFull }.count
        guard fullCount < path.steps.count || path.steps.count < format.indexLevelLimit else {
            throw .posix(Errno.noSpace)
        }
        return InsertPlan(name: name, place: .split(block, path), blockCount: 1 + UInt64(fullCount))
    }

    private func planSingle(_ name: FileName, _ version: DirectoryHash.Version) throws(Ext4Error) -> InsertPlan {
        let block = try leaf(FileBlock(0), isFirst: true)
        if try locate(name, in: FileBlock(0), block) != nil { throw .posix(Errno.exists) }
        if try room(for: name, in: block, mayMove: true) != .none {
            return InsertPlan(name: name, place: .leaf(block, mayMove: true), blockCount: 0)
        }
        return InsertPlan(name: name, place: .newIndex(block, version), blockCount: 2)
    }

    /// Entries of a linear directory stay where they are, since cookies are byte offsets.
    private func planLinear(_ name: FileName, _ blockCount: UInt32) throws(Ext4Error) -> InsertPlan {
        var place = InsertPlan.Place.append
        var isFound = false
        for number in 0..<blockCount {
            let block = try leaf(FileBlock(number), isFirst: number == 0)
            if try locate(name, in: FileBlock(number), block) != nil { throw .posix(Errno.exists) }
            if !isFound, try room(for: name, in: block, mayMove: false) != .none {
                place = .leaf(block, mayMove: false)
                isFound = true
            }
        }
        return InsertPlan(name: name, place: place, blockCount: isFound ? 0 : 1)
    }

    /// Adds the entry. `type` is `EXT4_FT_*`. At most `insertCredits` beside those of the inode and the allocations.
    func insert(
        _ plan: InsertPlan, inode target: InodeNumber, type: UInt8, from space: BlockReservation,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        let new = NewEntry(name: plan.name, inode: target.rawValue, type: type)
        switch plan.place {
        case .leaf(let block, let mayMove):
            guard try insert(new, into: block, mayMove: mayMove, in: handle) else { throw sharedBlock(block.number) }
        case .split(let block, let path):
            if try insert(new, into: block, mayMove: true, in: handle) { break }
            try split(block, path, adding: new, from: space, in: handle)
        case .newIndex(let block, let version):
            if try insert(new, into: block, mayMove: true, in: handle) { break }
            try makeIndex(block, version, adding: new, from: space, in: handle)
        case .append:
            let block = try volume.appendDirectoryBlock(to: inode, from: space, in: handle).block
            try handle.modify(block) { bytes throws(Ext4Error) in format.clearLeaf(&bytes) }
            guard try insert(new, into: block, mayMove: false, in: handle) else { throw sharedBlock(block.number) }
        }
        try clearStaleIndexFlag(in: handle)
        inode.noteChange(in: handle)
    }

    /// The block is not as it was planned, although the directory was locked: another one has it too.
    private func sharedBlock(_ number: FSBlock) -> Ext4Error {
        corrupt("block \(number.rawValue) is changed from elsewhere")
    }

    /// Without dir_index a leftover index is not kept up, so it must not be found when the feature comes back.
    private func clearStaleIndexFlag(in handle: borrowing Handle) throws(Ext4Error) {
        guard !volume.superBlock.features.compatible.contains(.directoryIndex),
            inode.field({ $0.flags.contains(.index) })
        else { return }
        try inode.update(in: handle, volume) { record throws(Ext4Error) in _ = record.flags.remove(.index) }
    }
}

extension Directory {
    /// An entry that is being added.
    private struct NewEntry {
        let name: FileName
        let inode: UInt32
        let type: UInt8
        var byteCount: Int { DirectoryEntry.byteCount(forNameOf: name.bytes.count) }
    }

    /// A record of a leaf that is being split; `offset` is nil for the one that is being added.
    private struct Piece {
        let hash: UInt32
        let offset: Int?
        let byteCount: Int
    }

    /// Adds the entry where there is room; false if there is none.
    private func insert(
        _ new: NewEntry, into block: CachedBlock, mayMove: Bool, in handle: borrowing Handle
    ) throws(Ext4Error) -> Bool {
        switch try room(for: new.name, in: block, mayMove: mayMove) {
        case .none: return false
        case .slack(let offset):
            try handle.modify(block) { bytes throws(Ext4Error) in
                try format.insert(
                    &bytes, at: offset, inode: new.inode, name: unsafe new.name.bytes.span.bytes, type: new.type,
                    block: block.number)
                format.sealLeaf(&bytes, seed: seed)
            }
        case .packed:
            let old = try copy(of: block)
            let offsets = try entries(of: old, from: 0, in: block.number).map { $0.offset }
            try write(offsets, of: old, adding: new, to: block, in: handle)
        }
        return true
    }

    private func copy(of block: CachedBlock) throws(Ext4Error) -> [UInt8] {
        try block.withBytes { bytes throws(Ext4Error) in bytes.array(0..<format.blockByteCount) }
    }

    /// The live entries of a leaf behind the first `skipped` records.
    private func entries(
        of bytes: [UInt8], from skipped: Int, in block: FSBlock
    ) throws(Ext4Error) -> [DirectoryEntry] {
        let span = unsafe bytes.span.bytes
        var entries: [DirectoryEntry] = []
        var (offset, ordinal) = (0, 0)
        while offset < format.leafByteCount {
            let entry = try format.entry(span, at: offset, end: format.leafByteCount, in: block)
            if entry.inode != 0 && ordinal >= skipped { entries.append(entry) }
            (offset, ordinal) = (entry.end, ordinal + 1)
        }
        return entries
    }

    /// Makes `block` a leaf of these records of `old`, and the new one if there is one.
    private func write(
        _ offsets: [Int], of old: [UInt8], adding new: NewEntry?, to block: CachedBlock, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let name = new?.name.bytes ?? []
        try handle.modify(block) { bytes throws(Ext4Error) in
            try format.pack(
                &bytes, offsets, of: unsafe old.span.bytes, adding: new.map { ($0.inode, $0.type) },
                name: unsafe name.span.bytes, block: block.number)
            format.sealLeaf(&bytes, seed: seed)
        }
    }

    /// The records of a full leaf and the new one in hash order, and how many of them stay in the lower half.
    private func halves(
        of old: [UInt8], from skipped: Int, adding new: NewEntry, _ version: DirectoryHash.Version, in block: FSBlock
    ) throws(Ext4Error) -> (pieces: [Piece], cut: Int) {
        let hash = DirectoryHash(version: version, of: volume.superBlock)
        let span = unsafe old.span.bytes
        var pieces = try entries(of: old, from: skipped, in: block).map { entry in
            Piece(
                hash: hash.value(of: span.extracting(entry.nameRange)).major, offset: entry.offset,
                byteCount: entry.usedByteCount)
        }
        let name = unsafe new.name.bytes.span.bytes
        pieces.append(Piece(hash: hash.value(of: name).major, offset: nil, byteCount: new.byteCount))
        pieces.sort { $0.hash < $1.hash }
        guard let cut = cut(pieces) else { throw sharedBlock(block) }
        return (pieces, cut)
    }

    /// Where to part the records so that both halves fit and are about equal; rather not between equal hashes, since
    /// lookups of these would have to search both leaves. A full leaf and one more name always fit into two leaves.
    private func cut(_ pieces: [Piece]) -> Int? {
        let total = pieces.reduce(0) { $0 + $1.byteCount }
        var best: (cut: Int, cost: Int)?
        var lower = 0
        for cut in 1..<pieces.count {
            lower += pieces[cut - 1].byteCount
            guard lower <= format.leafByteCount, total - lower <= format.leafByteCount else { continue }
            let isContinued = pieces[cut - 1].hash == pieces[cut].hash
            let cost = abs(2 * lower - total) + (isContinued ? 4 * format.blockByteCount : 0)
            if best.map({ cost < $0.cost }) ?? true { best = (cut, cost) }
        }
        return best?.cut
    }

    /// Writes both halves; the hash where the upper one begins, odd when it continues the lower one.
    private func write(
        _ pieces: [Piece], cut: Int, of old: [UInt8], adding new: NewEntry, to lower: CachedBlock, _ upper: CachedBlock,
        in handle: borrowing Handle
    ) throws(Ext4Error) -> UInt32 {
        for (half, block) in [(pieces[..<cut], lower), (pieces[cut...], upper)] {
            let isNewHere = half.contains { $0.offset == nil }
            try write(half.compactMap { $0.offset }, of: old, adding: isNewHere ? new : nil, to: block, in: handle)
        }
        let isContinued = pieces[cut - 1].hash == pieces[cut].hash
        return pieces[cut].hash | (isContinued ? 1 : 0)
    }

    private func split(
        _ block: CachedBlock, _ path: IndexPath, adding new: NewEntry, from space: BlockReservation,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        let old = try copy(of: block)
        let (pieces, cut) = try halves(of: old, from: 0, adding: new, path.version, in: block.number)
        let upper = try volume.appendDirectoryBlock(to: inode, from: space, in: handle)
        let start = try write(pieces, cut: cut, of: old, adding: new, to: block, upper.block, in: handle)
        try insert(upper.number, from: start, into: path.steps[...], from: space, in: handle)
    }

    /// Adds an entry behind the one that the last of `steps` took, and makes room for it up to the root.
    private func insert(
        _ child: FileBlock, from start: UInt32, into steps: ArraySlice<IndexPath.Step>, from space: BlockReservation,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        guard let step = steps.last else { preconditionFailure("a path has a root") }
        guard step.index.isFull else {
            return try insert(child, from: start, into: step.block, step.index, after: step.position, in: handle)
        }
        let node = try volume.appendDirectoryBlock(to: inode, from: space, in: handle)
        let old = try copy(of: step.block)
        let isRoot = step.index.root != nil
        // A node holds more entries than a root, so that the root's leave room for one more.
        let middle = isRoot ? 0 : step.index.count / 2
        let upper = try handle.modify(node.block) { bytes throws(Ext4Error) in
            let index = format.writeIndexNode(&bytes, entriesOf: unsafe old.span.bytes, step.index, from: middle)
            format.sealIndex(&bytes, index, seed: seed)
            return index
        }
        var lower = step.index
        try handle.modify(step.block) { bytes throws(Ext4Error) in
            if isRoot {
                format.deepen(&bytes, &lower, over: node.number)
            } else {
                format.truncate(&bytes, &lower, to: middle)
            }
            format.sealIndex(&bytes, lower, seed: seed)
        }
        if step.position >= middle {
            try insert(child, from: start, into: node.block, upper, after: step.position - middle, in: handle)
        } else {
            try insert(child, from: start, into: step.block, lower, after: step.position, in: handle)
        }
        if isRoot { return }
        let middleStart = format.hash(unsafe old.span.bytes, step.index, at: middle)
        try insert(node.number, from: middleStart, into: steps.dropLast(), from: space, in: handle)
    }

    private func insert(
        _ child: FileBlock, from start: UInt32, into block: CachedBlock, _ index: DirectoryIndex, after position: Int,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        var index = index
        try handle.modify(block) { bytes throws(Ext4Error) in
            format.insert(&bytes, &index, after: position, hash: start, child: child)
            format.sealIndex(&bytes, index, seed: seed)
        }
    }

    /// Turns a directory of one full block into a root and two leaves.
    private func makeIndex(
        _ block: CachedBlock, _ version: DirectoryHash.Version, adding new: NewEntry, from space: BlockReservation,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        let parent = try parent()
        let old = try copy(of: block)
        let (pieces, cut) = try halves(of: old, from: 2, adding: new, version, in: block.number)
        let lower = try volume.appendDirectoryBlock(to: inode, from: space, in: handle)
        let upper = try volume.appendDirectoryBlock(to: inode, from: space, in: handle)
        let start = try write(pieces, cut: cut, of: old, adding: new, to: lower.block, upper.block, in: handle)
        try handle.modify(block) { bytes throws(Ext4Error) in
            var index = format.writeIndexRoot(
                &bytes, version: version, own: inode.number.rawValue, parent: parent.rawValue, child: lower.number)
            format.insert(&bytes, &index, after: 0, hash: start, child: upper.number)
            format.sealIndex(&bytes, index, seed: seed)
        }
        try inode.update(in: handle, volume) { record throws(Ext4Error) in _ = record.flags.insert(.index) }
    }
}
