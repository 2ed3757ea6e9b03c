internal import Allocator
internal import BlockIO
internal import Ext4Format
internal import Journal

/// What a small file, symlink or directory keeps inside of its inode (inline_data): the first 60 bytes in `i_block`,
/// what is more in the attribute "system.data". A directory begins with the number of its parent in place of the dots.
///
/// It is read where it lies. Before anything of it changes it moves to a block of its own, in one handle, and it never
/// comes back: Linux and e2fsck take such an inode as any other.
struct InlineData {
    let volume: Volume
    let inode: Inode

    /// All of it; nil when the inode has none, or none any more. The caller holds the inode lock, for reading at least.
    func content() throws(Ext4Error) -> [UInt8]? {
        let record = inode.record
        guard record.flags.contains(.inlineData) else { return nil }
        let attributes = ExtendedAttributes(volume: volume, inode: inode)
        let bytes = record.withArea { $0.array(0..<InodeRecord.areaByteCount) } + (try attributes.inlineValue() ?? [])
        guard record.size <= UInt64(bytes.count) else { throw corrupt("\(record.size) bytes in \(bytes.count)") }
        return Array(bytes.prefix(Int(record.size)))
    }

    private func corrupt(_ what: String) -> Ext4Error {
        .corrupt("inline data", where: "inode \(inode.number.rawValue): \(what)")
    }

    // MARK: Directories

    private var format: DirectoryFormat { DirectoryFormat(volume.superBlock) }
    private static let parentByteCount = 4

    /// The block that a directory would have, verified; nil when it has one. The caller holds the inode lock.
    func directoryBlock() throws(Ext4Error) -> CachedBlock? {
        guard let content = try content() else { return nil }
        return try CachedBlock(detachedOf: volume.blockByteCount) { bytes throws(Ext4Error) in
            try write(content, to: &bytes)
        }
    }

    private func write(_ content: [UInt8], to bytes: inout MutableRawSpan) throws(Ext4Error) {
        let source = unsafe content.span.bytes, seed = inode.checksum.seed
        let edge = InodeRecord.areaByteCount
        guard content.count >= edge else { throw corrupt("a directory of \(content.count) bytes") }
        let parent = InodeNumber(source[LE<UInt32>(0)])
        format.writeFirstLeaf(&bytes, own: inode.number, parent: parent, seed: seed)
        for part in [Self.parentByteCount..<edge, edge..<content.count] {
            var offset = part.lowerBound
            while offset < part.upperBound {
                let entry = try format.entry(source, at: offset, end: part.upperBound, in: CachedBlock.detachedNumber)
                offset = entry.end
                if entry.inode != 0 { try add(entry, of: source, to: &bytes) }
            }
        }
        format.sealLeaf(&bytes, seed: seed)
    }

    private func add(
        _ entry: DirectoryEntry, of source: RawSpan, to bytes: inout MutableRawSpan
    ) throws(Ext4Error) {
        let number = CachedBlock.detachedNumber
        let count = DirectoryEntry.byteCount(forNameOf: entry.nameByteCount)
        guard case .slack(let place) = try format.room(for: count, in: bytes.bytes, mayMove: false, block: number)
        else {
            throw corrupt("more names than a block holds")
        }
        try format.insert(
            &bytes, at: place, inode: entry.inode, name: source.extracting(entry.nameRange), type: entry.type,
            block: number)
    }

    // MARK: Moving out

    /// Gives the content a block of its own; nothing else of the inode changes. Does nothing without inline data. The
    /// caller holds the inode lock for writing, and neither a range lock of the inode nor a handle. ENOSPC.
    func moveOut() throws(Ext4Error) {
        guard let content = try content() else { return }
        try volume.requireWritable()
        let lease = inode.ranges.acquire(0..<UInt64.max, exclusive: true)
        defer { lease.release() }
        let plan = try ExtendedAttributes(volume: volume, inode: inode).plan(settingInlineValue: nil)
        if inode.isDirectory { try moveNames(plan) } else { try moveData(content, plan) }
    }

    /// Stage, write, publish.
    private func moveData(_ content: [UInt8], _ plan: AttributePlan) throws(Ext4Error) {
        let core = MappingCore(volume: volume, inode: inode)
        let write = content.isEmpty ? nil : try stage(content, core)
        let mapCredits = write.map { $0.credits(for: $0.mappings[...], of: volume) } ?? 0
        try volume.withHandle(credits: ExtendedAttributes.credits + 1 + mapCredits) { handle throws(Ext4Error) in
            try becomeMapped(plan, size: UInt64(content.count), in: handle)
            guard let write else { return }
            try inode.mapping.withWriteLock { () throws(Ext4Error) in
                for mapping in write.mappings { try core.publish(mapping, write, in: handle) }
            }
        }
    }

    private func stage(_ content: [UInt8], _ core: MappingCore) throws(Ext4Error) -> StagedWrite {
        let write = try core.begin(writing: 0..<1, .inPlace, privileged: true, upkeep: true)
        guard let start = write.mappings.first?.target.start else { preconditionFailure("one block, one mapping") }
        let buffer = AlignedBuffer(byteCount: volume.blockByteCount)
        buffer.withMutableBytes { bytes in
            bytes.fill(0..<bytes.byteCount, with: 0)
            bytes.copy(content, at: 0)
        }
        try volume.device.write(buffer, at: volume.offset(of: start))
        return write
    }

    /// The block of a directory is metadata: it goes through the journal.
    private func moveNames(_ plan: AttributePlan) throws(Ext4Error) {
        guard let names = try directoryBlock() else { return }
        let growth = try volume.spaceForAppend(to: inode, blocks: 1)
        let space = try volume.reserve(growth.blocks, for: inode, privileged: true, upkeep: true)
        let credits = ExtendedAttributes.credits + 2 + growth.credits
        try volume.withHandle(credits: credits) { handle throws(Ext4Error) in
            try moveNames(names, plan, from: space, in: handle)
        }
    }

    private func moveNames(
        _ names: CachedBlock, _ plan: AttributePlan, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        try becomeMapped(plan, size: 0, in: handle)
        let block = try volume.appendDirectoryBlock(to: inode, from: space, in: handle).block
        try handle.modify(block) { bytes throws(Ext4Error) in
            try names.withBytes { source throws(Ext4Error) in bytes.copy(source, at: 0) }
        }
    }

    /// As `moveOut` of a directory, in a handle of the caller's: one block, and what its map needs.
    func moveOutNames(from space: BlockReservation, in handle: borrowing Handle) throws(Ext4Error) {
        guard let names = try directoryBlock() else { return }
        let plan = try ExtendedAttributes(volume: volume, inode: inode).plan(settingInlineValue: nil)
        try moveNames(names, plan, from: space, in: handle)
    }

    /// Leaves a file without anything, to be mapped.
    func drop(in handle: borrowing Handle) throws(Ext4Error) {
        let plan = try ExtendedAttributes(volume: volume, inode: inode).plan(settingInlineValue: nil)
        try becomeMapped(plan, size: 0, in: handle)
    }

    private func becomeMapped(
        _ plan: AttributePlan, size: UInt64, in handle: borrowing Handle
    ) throws(Ext4Error) {
        try ExtendedAttributes(volume: volume, inode: inode).apply(plan, from: nil, in: handle)
        try inode.update(in: handle, volume) { record throws(Ext4Error) in
            record.flags.remove(.inlineData)
            record.size = size
            record.withMutableArea { $0.fill(0..<InodeRecord.areaByteCount, with: 0) }
            record.makeEmptyMap(volume.superBlock)
        }
    }
}

extension FileSystem {
    /// The whole content of an inode that has it inside; nil when it has blocks.
    func inlineContent(of inode: Inode) throws(Ext4Error) -> [UInt8]? {
        guard inode.isInline else { return nil }
        return try inode.lock.withReadLock { () throws(Ext4Error) in
            try InlineData(volume: volume, inode: inode).content()
        }
    }

    /// Before data of a file changes. The caller holds no lock of the inode.
    func moveOutInlineData(of inode: Inode) throws(Ext4Error) {
        guard inode.isInline else { return }
        try inode.lock.withWriteLock { () throws(Ext4Error) in
            try InlineData(volume: volume, inode: inode).moveOut()
        }
    }
}
