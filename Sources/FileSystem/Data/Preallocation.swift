internal import Allocator
internal import BlockIO
package import Ext4Format
internal import Journal
internal import Threads

/// `FALLOC_FL_*` of Linux: what fallocate does to a range.
package struct AllocationMode: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static var keepSize: Self { Self(rawValue: 0x1) }
    package static var punchHole: Self { Self(rawValue: 0x2) }
    package static var collapseRange: Self { Self(rawValue: 0x8) }
    package static var zeroRange: Self { Self(rawValue: 0x10) }
    package static var insertRange: Self { Self(rawValue: 0x20) }
}

extension FileSystem {
    /// fallocate(2): allocate (no flag), punch a hole (with `keepSize`), zero a range, collapse or insert one;
    /// EOPNOTSUPP for other modes.
    /// What is allocated reads as zeros. ENOSPC before anything has changed, but for the zeroed edges of a range.
    /// `caller` decides whether the reserved blocks may be used.
    package func allocate(
        _ number: InodeNumber, at offset: UInt64, count: UInt64, mode: AllocationMode, by caller: Caller = .root
    ) throws(Ext4Error) {
        try requireWritable()
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(inode.isDirectory ? Errno.isDirectory : Errno.invalid) }
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard count > 0, !overflow else { throw .posix(Errno.invalid) }
        guard end <= FileData.maximumSize(volume, inode) else { throw .posix(Errno.fileTooBig) }
        try moveOutInlineData(of: inode)
        try inode.lock.withWriteLock { () throws(Ext4Error) in
            guard !inode.isDeleted else { throw .posix(Errno.stale) }
            try inode.checkChangeable(adding: mode.isSubset(of: [.keepSize]))
            try inode.requireNoBatch()
            // No number of an indirect map says that a block is unwritten.
            guard inode.hasExtents || mode == [.punchHole, .keepSize] else { throw .posix(Errno.notSupported) }
            let work = Preallocation(volume: volume, inode: inode, isPrivileged: volume.isPrivileged(caller))
            switch mode {
            case [], [.keepSize]: try work.allocate(offset..<end, keepsSize: mode.contains(.keepSize))
            case [.punchHole, .keepSize]: try work.clear(offset..<end, thenAllocate: false, keepsSize: true)
            case [.zeroRange], [.zeroRange, .keepSize]:
                try work.clear(offset..<end, thenAllocate: true, keepsSize: mode.contains(.keepSize))
            case [.collapseRange]: try work.collapse(offset..<end)
            case [.insertRange]: try work.insert(offset..<end)
            default: throw .posix(Errno.notSupported)
            }
        }
        try settle(inode)
    }
}

/// Blocks given to a file without data, and taken away from its middle. The caller holds the inode lock for writing.
struct Preallocation {
    let volume: Volume
    let inode: Inode
    /// What is new may take the reserved blocks. What the freeing of others costs always may.
    let isPrivileged: Bool
    private var core: MappingCore { MappingCore(volume: volume, inode: inode) }
    var unit: UInt64 { UInt64(volume.blockByteCount) }

    func allocate(_ range: Range<UInt64>, keepsSize: Bool) throws(Ext4Error) {
        let lease = lease(from: range.lowerBound)
        defer { lease.release() }
        try fill(range, keepsSize: keepsSize)
    }

    /// Makes a range read as zeros: its edges are overwritten, its whole blocks are freed, and given back unwritten
    /// when asked.
    func clear(_ range: Range<UInt64>, thenAllocate: Bool, keepsSize: Bool) throws(Ext4Error) {
        let lease = lease(from: range.lowerBound)
        defer { lease.release() }
        let first = (range.lowerBound + unit - 1) / unit, last = range.upperBound / unit
        if first > last {
            try zero(range)
            try free(0..<0)
        } else {
            try zero(range.lowerBound..<first * unit)
            try zero(last * unit..<range.upperBound)
            inode.delegation?.drop(first..<last)
            try free(first..<last)
        }
        if thenAllocate { try fill(range, keepsSize: keepsSize) }
    }

    /// Alone from byte `offset` on, or from the end of the file.
    func lease(from offset: UInt64) -> RangeLock.Lease {
        let cluster = volume.clusterByteCount
        return inode.ranges.acquire(min(offset, inode.size) / cluster * cluster..<UInt64.max, exclusive: true)
    }

    /// Unwritten blocks for the holes of a range, and the size when it is to grow.
    private func fill(_ range: Range<UInt64>, keepsSize: Bool) throws(Ext4Error) {
        let size = inode.size
        if !keepsSize && range.upperBound > size { try FileData(volume, inode).clearTail(behind: size) }
        let blocks = range.lowerBound / unit..<(range.upperBound + unit - 1) / unit
        let write = try core.begin(writing: blocks, .inPlace, privileged: isPrivileged)
        try core.ioend(write, endOfData: keepsSize ? 0 : range.upperBound, asUnwritten: true)
    }

    /// Bytes within one block become zeros, in place; nothing where no data is.
    private func zero(_ range: Range<UInt64>) throws(Ext4Error) {
        guard !range.isEmpty else { return }
        let block = range.lowerBound / unit
        guard let mapping = try core.begin(reading: block..<block + 1).first, case .mapped(let start) = mapping.target
        else {
            return
        }
        let buffer = AlignedBuffer(byteCount: Int(unit))
        try volume.device.read(into: buffer, at: volume.offset(of: start))
        buffer.withMutableBytes {
            $0.fill(Int(range.lowerBound % unit)..<Int((range.upperBound - 1) % unit) + 1, with: 0)
        }
        try volume.device.write(buffer, at: volume.offset(of: start))
    }

    private typealias Part = (range: Range<UInt64>, piece: FileMap.Piece)

    /// Unmaps and frees whole blocks and moves the times: in one handle, unless there are more pieces than one takes;
    /// then from the end of the range.
    private func free(_ range: Range<UInt64>) throws(Ext4Error) {
        let map = FileMap(volume, inode)
        let (found, cost) = try inode.mapping.withReadLock { () throws(Ext4Error) in
            (try parts(of: range, map), try map.cost.toUnmap)
        }
        let each = 6 + cost.credits
        let most = max(1, min(Self.mostPartsPerHandle, (volume.journal?.maximumCredits ?? 0) / 2 / each))
        let now = volume.now()
        var rest = found[...]
        repeat {
            let some = rest.prefix(most)
            if let first = some.first { try check(first, map) }
            // Of extents that go, only the first and the last can leave something, and so take room in the map.
            let space = try volume.blocks.reserve(
                UInt64(min(some.count, 2)) * cost.blocks, privileged: true, upkeep: true)
            try volume.withHandle(credits: 2 + some.count * each) { handle throws(Ext4Error) in
                rest = rest.dropFirst(try free(some, map, space, in: handle))
                try inode.update(in: handle, volume) { record throws(Ext4Error) in
                    volume.stampChange(of: &record, now)
                }
            }
        } while !rest.isEmpty
    }
    private static let mostPartsPerHandle = 256

    /// Answers how many it has freed: all, up to one that what went before has shown to be damaged. That one is found
    /// once more before the next handle, when nothing has changed.
    private func free(
        _ parts: ArraySlice<Part>, _ map: FileMap, _ space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) -> Int {
        try inode.mapping.withWriteLock { () throws(Ext4Error) in
            for (index, part) in parts.enumerated() {
                if index > 0, (try? map.checkFreeable(part.range, of: part.piece)) == nil { return index }
                let removed = try map.replace(part.range, with: [], from: space, in: handle)
                try volume.release(removed, of: inode, in: handle)
            }
            return parts.count
        }
    }

    private func check(_ part: Part, _ map: FileMap) throws(Ext4Error) {
        try inode.mapping.withReadLock { () throws(Ext4Error) in try map.checkFreeable(part.range, of: part.piece) }
    }

    /// The extents of a range, the last one first, in parts that lie in three groups at the most.
    private func parts(of range: Range<UInt64>, _ map: FileMap) throws(Ext4Error) -> [Part] {
        let most = 2 * UInt64(volume.superBlock.blocksPerGroup)
        var parts: [Part] = []
        for piece in try map.pieces(range).reversed() {
            guard case .extent = piece else { continue }
            let whole = piece.range.clamped(to: range)
            var end = whole.upperBound
            while end > whole.lowerBound {
                let low = end - whole.lowerBound > most ? end - most : whole.lowerBound
                parts.append((low..<end, piece))
                end = low
            }
        }
        return parts
    }
}
