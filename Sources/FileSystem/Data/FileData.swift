internal import BlockIO
internal import Ext4Format
internal import Journal
internal import Threads

/// Reads and writes of file data: the executor of what the mapping core says.
struct FileData {
    let volume: Volume
    let inode: Inode
    private var core: MappingCore { MappingCore(volume: volume, inode: inode) }
    private var unit: UInt64 { UInt64(volume.blockByteCount) }

    init(_ volume: Volume, _ inode: Inode) {
        self.volume = volume
        self.inode = inode
    }

    /// The largest file that 32-bit block numbers allow; without huge_file also as many sectors as 32 bits count.
    static func maximumSize(_ volume: Volume) -> UInt64 {
        let unit = UInt64(volume.blockByteCount), most = (1 << 32 - 1) * unit
        if volume.superBlock.features.readOnlyCompatible.contains(.hugeFile) { return most }
        return min(most, (1 << 32 - 1) * 512 / unit * unit)
    }

    /// The same of one file: an indirect map holds less.
    static func maximumSize(_ volume: Volume, _ inode: Inode) -> UInt64 {
        if inode.hasExtents { return maximumSize(volume) }
        let hasHugeFiles = volume.superBlock.features.readOnlyCompatible.contains(.hugeFile)
        let geometry = IndirectGeometry(blockByteCount: volume.blockByteCount)
        return geometry.blockLimit(hasHugeFiles: hasHugeFiles) * UInt64(volume.blockByteCount)
    }

    // MARK: Reading

    /// Fills `bytes` from byte `offset` of the file. Answers the count, short at the end of the file.
    func read(at offset: UInt64, into bytes: inout MutableRawSpan) throws(Ext4Error) -> Int {
        let (end, overflow) = offset.addingReportingOverflow(UInt64(bytes.byteCount))
        guard !overflow else { throw .posix(Errno.invalid) }
        let range = offset..<end
        // The span cannot be captured by the closure that the lock runs, so the lock is held by hand-over.
        let lease = inode.ranges.acquire(rounded(range, to: unit), exclusive: false)
        defer { lease.release() }
        let size = inode.size
        guard offset < size else { return 0 }
        let count = Int(min(UInt64(bytes.byteCount), size - offset))
        let first = offset / unit, last = (offset + UInt64(count) + unit - 1) / unit
        for mapping in try core.begin(reading: first..<last) {
            let low = max(mapping.range.lowerBound * unit, offset)
            let high = min(mapping.range.upperBound * unit, offset + UInt64(count))
            var part = bytes._mutatingExtracting(Int(low - offset)..<Int(high - offset))
            guard let start = mapping.target.dataStart else {
                part.fill(0..<part.byteCount, with: 0)
                continue
            }
            let device = volume.offset(of: start) + (low - mapping.range.lowerBound * unit)
            try read(device, into: &part)
        }
        return count
    }

    /// From any byte of the device: whole sectors straight into place, the edges through a buffer.
    private func read(_ device: UInt64, into part: inout MutableRawSpan) throws(Ext4Error) {
        let sector = UInt64(volume.device.sectorByteCount)
        if device % sector == 0 && UInt64(part.byteCount) % sector == 0 {
            return try volume.device.read(into: &part, at: device)
        }
        let low = device / sector * sector, high = (device + UInt64(part.byteCount) + sector - 1) / sector * sector
        let buffer = AlignedBuffer(byteCount: Int(high - low))
        try volume.device.read(into: buffer, at: low)
        let skip = Int(device - low), count = part.byteCount
        buffer.withBytes { part.copy($0.extracting(skip..<skip + count), at: 0) }
    }

    // MARK: Writing

    /// Writes `bytes` at byte `offset`: stage, write, publish. Nothing of a failed write shows. Answers the count: all
    /// that a file can have, but out of place no more than one transaction can publish, so that this much is there
    /// whole or not at all.
    func write(at offset: UInt64, _ bytes: RawSpan, outOfPlace: Bool, privileged: Bool) throws(Ext4Error) -> Int {
        guard bytes.byteCount > 0 else { return 0 }
        let maximum = Self.maximumSize(volume, inode)
        guard offset < maximum else { throw .posix(Errno.fileTooBig) }
        let end = offset + min(UInt64(bytes.byteCount), maximum - offset)
        let lease = leaseToWrite(offset..<end)
        defer { lease.release() }
        guard !inode.isDeleted else { throw .posix(Errno.stale) }
        let size = inode.size
        if offset > size { try clearTail(behind: size) }
        let batch = inode.batch
        let placement: MappingCore.Placement = batch != nil ? .allNew : outOfPlace ? .outOfPlace : .inPlace
        let write = try core.begin(
            writing: offset / unit..<(end + unit - 1) / unit, placement, privileged: privileged, isGrowing: true)
        try batch?.checkRoom(for: write, volume)
        var range = offset..<end
        if placement == .outOfPlace, let firstLeft = write.keepOneHandle(of: volume) {
            range = offset..<firstLeft * unit
        }
        for mapping in write.mappings { try transfer(mapping, of: write, range, bytes) }
        if let batch {
            batch.absorb(write, endOfData: end)
        } else {
            try core.ioend(write, endOfData: range.upperBound)
        }
        return range.count
    }

    /// A write behind the end brings the rest of the last block into the file, so it locks from there. Whole clusters,
    /// for two writes must not both find that the file has none yet. One into a batch is alone: what one transaction
    /// can publish is counted.
    private func leaseToWrite(_ range: Range<UInt64>) -> RangeLock.Lease {
        while true {
            let isBatched = inode.batch != nil, low = min(range.lowerBound, inode.size)
            let lease = inode.ranges.acquire(
                isBatched ? 0..<UInt64.max : rounded(low..<range.upperBound, to: volume.clusterByteCount),
                exclusive: true)
            // Asked again: what was under way may have cut the file, and begun or ended a batch.
            if inode.size >= low, isBatched == (inode.batch != nil) { return lease }
            lease.release()
        }
    }

    /// The part of a write that falls into one mapping. Blocks that are not wholly covered are read first (or start as
    /// zeros), so the device always gets whole blocks.
    private func transfer(
        _ mapping: MappingCore.Mapping, of write: StagedWrite, _ range: Range<UInt64>, _ bytes: RawSpan
    ) throws(Ext4Error) {
        guard let start = mapping.target.start else { preconditionFailure("a write has no holes") }
        let mapped = mapping.range.lowerBound * unit..<mapping.range.upperBound * unit
        let part = mapped.clamped(to: range)
        var low = part.lowerBound
        while low < part.upperBound {
            let block = low / unit * unit
            let device = volume.offset(of: start) + (block - mapped.lowerBound)
            if low == block, part.upperBound - low >= unit {
                let whole = (part.upperBound - low) / unit * unit
                let source = bytes.extracting(Int(low - range.lowerBound)..<Int(low - range.lowerBound + whole))
                try volume.device.write(source, at: device, mode: .cached)
                low += whole
                continue
            }
            let high = min(block + unit, part.upperBound)
            let buffer = AlignedBuffer(byteCount: Int(unit))
            if let before = write.source(of: block / unit) {
                try volume.device.read(into: buffer, at: volume.offset(of: before))
            }
            let source = bytes.extracting(Int(low - range.lowerBound)..<Int(high - range.lowerBound))
            buffer.withMutableBytes { $0.copy(source, at: Int(low - block)) }
            try volume.device.write(buffer, at: device)
            low = high
        }
    }

    /// Zeros what lies behind the end of the file in its last block. An append that was written in place and never
    /// published leaves bytes there, and they must not show when the file grows. No committed state shows them, so this
    /// is done in place. The caller holds the range lock from `size` on, exclusively.
    func clearTail(behind size: UInt64) throws(Ext4Error) {
        let used = Int(size % unit)
        guard used != 0, let last = try core.begin(reading: size / unit..<size / unit + 1).first else { return }
        guard let start = last.target.dataStart else { return }
        let buffer = AlignedBuffer(byteCount: Int(unit))
        try volume.device.read(into: buffer, at: volume.offset(of: start))
        let isClear = buffer.withBytes { bytes in bytes.array(used..<bytes.byteCount).allSatisfy { $0 == 0 } }
        if isClear { return }
        buffer.withMutableBytes { $0.fill(used..<Int(unit), with: 0) }
        try volume.device.write(buffer, at: volume.offset(of: start))
    }

    /// `range` of bytes, rounded out to whole blocks or clusters: what I/O locks.
    private func rounded(_ range: Range<UInt64>, to unit: UInt64) -> Range<UInt64> {
        let high = range.upperBound.addingReportingOverflow(unit - 1)
        return range.lowerBound / unit * unit..<(high.overflow ? .max : high.partialValue / unit * unit)
    }

    // MARK: Holes

    private static let seekWindow: UInt64 = 1 << 16

    /// The next byte from `offset` that is data (or a hole). ENXIO at and past the end of the file.
    func seek(from offset: UInt64, forData: Bool) throws(Ext4Error) -> UInt64 {
        let size = inode.size
        guard offset < size else { throw .posix(Errno.noSuchDeviceOrAddress) }
        var next = offset / unit
        let end = (size + unit - 1) / unit
        // Piece by piece: a file may have more of them than fit into memory.
        while next < end {
            let window = next..<min(next + Self.seekWindow, end)
            for mapping in try core.begin(reading: window) {
                if (mapping.target.dataStart != nil) == forData { return max(offset, mapping.range.lowerBound * unit) }
            }
            next = window.upperBound
        }
        if forData { throw .posix(Errno.noSuchDeviceOrAddress) }
        return size
    }
}
