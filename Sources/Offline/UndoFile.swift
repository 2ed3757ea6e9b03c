package import BlockIO
package import Ext4Format
internal import FileSystem

/// An undo file of e2fsprogs or of ours, opened to be taken back.
package struct UndoFile {
    private let file: FileDevice
    private let header: UndoHeader
    /// Every saved block, ascending.
    private let blocks: [Block]

    private struct Block {
        /// In units of the header's `volumeBlockByteCount`.
        let number: UInt64
        /// The byte of the file where its contents lie.
        let place: UInt64
    }

    /// Opens and checks all of the file, the saved contents too.
    package init(_ path: String) throws(Ext4Error) {
        file = try FileDevice(path: path, readOnly: true, direct: false)
        guard file.byteCount >= UInt64(UndoHeader.byteCount) else {
            throw .refused("\(path) is not an undo file (too short)")
        }
        let first = AlignedBuffer(byteCount: UndoHeader.byteCount)
        try file.read(into: first, at: 0)
        header = try first.withBytes { bytes throws(Ext4Error) in try UndoHeader(decoding: bytes) }
        guard header.isFinished else {
            throw .refused("\(path) is not complete: what it was made for was cut short; e2undo -f may use it")
        }
        blocks = try Self.blocks(file, header)
    }

    package var blockCount: Int { blocks.count }
    package var volumeBlockByteCount: Int { header.volumeBlockByteCount }
    /// The byte of the image where the volume starts.
    package var offset: UInt64 { header.offset }

    // MARK: Reading

    private static func blocks(_ file: FileDevice, _ header: UndoHeader) throws(Ext4Error) -> [Block] {
        let unit = UInt64(header.blockByteCount), capacity = UndoKeyBlock.capacity(header.blockByteCount)
        let fileBlocks = file.byteCount / unit
        guard header.keyCount <= fileBlocks, header.superBlockPosition < fileBlocks else {
            throw .corrupt("undo file", where: "\(header.keyCount) keys in \(fileBlocks) blocks")
        }
        var blocks: [Block] = [], position = header.keyPosition
        var left = Int(header.keyCount)
        let keyBlock = AlignedBuffer(byteCount: header.blockByteCount)
        while left > 0 {
            guard position < fileBlocks else { throw .corrupt("undo file", where: "it ends before key \(left)") }
            try file.read(into: keyBlock, at: position * unit)
            let (at, count) = (position, min(left, capacity))
            let keys = try keyBlock.withBytes { bytes throws(Ext4Error) in
                try UndoKeyBlock.decode(bytes, count: count, at: at)
            }
            position += 1
            for key in keys {
                try check(key, at: position * unit, file, header)
                let size = header.volumeBlockByteCount
                for index in 0..<key.byteCount / size {
                    let (number, overflow) = key.block.addingReportingOverflow(UInt64(index))
                    guard !overflow else { throw .corrupt("undo file", where: "block \(key.block)") }
                    blocks.append(Block(number: number, place: position * unit + UInt64(index * size)))
                }
                position += (UInt64(key.byteCount) + unit - 1) / unit
            }
            left -= count
        }
        blocks.sort { $0.number < $1.number }
        for (a, b) in zip(blocks, blocks.dropFirst()) where a.number == b.number {
            throw .corrupt("undo file", where: "block \(a.number) is saved twice")
        }
        return blocks
    }

    private static func check(
        _ key: UndoKey, at place: UInt64, _ file: FileDevice, _ header: UndoHeader
    ) throws(Ext4Error) {
        guard key.byteCount > 0, key.byteCount % header.volumeBlockByteCount == 0,
            key.byteCount <= UndoKey.blockLimit * header.blockByteCount, place + UInt64(key.byteCount) <= file.byteCount
        else { throw .corrupt("undo file", where: "key of block \(key.block): \(key.byteCount) bytes") }
        let data = AlignedBuffer(byteCount: key.byteCount)
        try file.read(into: data, at: place)
        guard data.withBytes({ CRC32C.of($0) }) == key.checksum else {
            throw .corrupt("undo file", where: "what block \(key.block) held: checksum")
        }
    }

    /// The super block as the change left it.
    private func superBlockAfter() throws(Ext4Error) -> AlignedBuffer {
        let buffer = AlignedBuffer(byteCount: SuperBlock.byteCount)
        try file.read(into: buffer, at: header.superBlockPosition * UInt64(header.blockByteCount))
        buffer.withMutableBytes { SuperBlock.invertMagic(&$0) }
        guard buffer.withBytes({ CRC32C.of($0) }) == header.superBlockChecksum else {
            throw .corrupt("undo file", where: "copy of the super block: checksum")
        }
        return buffer
    }

    /// `device` as it was before the change, for looking at.
    private func undone(_ device: any BlockDevice) -> PatchedDevice {
        PatchedDevice(
            over: device, blockByteCount: header.volumeBlockByteCount, blocks: blocks.map(\.number)
        ) { [file, blocks] index, bytes throws(Ext4Error) in try file.read(into: &bytes, at: blocks[index].place) }
    }

    // MARK: Taking back

    /// Whether nothing but the change that this file is about has touched the volume since: `.refused` when something
    /// has. It may be whole, half done, or taken back in part.
    package func check(_ device: any BlockDevice) throws(Ext4Error) {
        let end = blocks.last.map { ($0.number + 1).multipliedReportingOverflow(by: UInt64(volumeBlockByteCount)) }
        if let end, end.overflow || end.partialValue > device.byteCount {
            throw .refused("the undo file is of a larger volume")
        }
        let now = try device.superBlockBytes()
        if Self.isSame(now, try superBlockAfter()) { return }
        // Else it was cut short. As long as the log is what it was, nobody has mounted or recovered the volume.
        guard try hasSameLog(device, now) else {
            throw .refused("the undo file does not fit: something else has changed the volume since")
        }
    }

    /// Whether the super block of the log is still the one from before the change, or one that the replay wrote on its
    /// way.
    private func hasSameLog(_ device: any BlockDevice, _ now: AlignedBuffer) throws(Ext4Error) -> Bool {
        let before = undone(device)
        guard Self.uuid(now) == Self.uuid(try before.superBlockBytes()) else { return false }
        let volume: OfflineVolume
        do throws(Ext4Error) { volume = try OfflineVolume(on: before) } catch {
            if case .io = error { throw error }
            return false
        }
        guard let log = volume.journal?.log else { return false }
        let size = volume.superBlock.blockByteCount
        let old = AlignedBuffer(byteCount: size), current = AlignedBuffer(byteCount: size)
        try log.read(log.superBlockPosition, count: 1, into: old)
        try device.read(into: current, at: log.home(of: log.superBlockPosition).rawValue * UInt64(size))
        if old.isEqual(to: current) { return true }
        // While fast commits are carried out, the log begins where the last whole transaction of it ended.
        guard let journal = volume.journal,
            let next = current.withBytes({ try? JournalSuperBlock(decoding: $0) })
        else { return false }
        let plan = try volume.plan(journal)
        return plan.hasFastCommits && next.sequence == plan.endID && next.start == plan.endPosition
    }

    private static func uuid(_ superBlock: AlignedBuffer) -> [UInt8] {
        superBlock.withBytes { $0.array(0x68..<0x78) }
    }

    /// Equal but for needs_recovery, which is cleared last of all, and the checksum that goes with it.
    private static func isSame(_ a: AlignedBuffer, _ b: AlignedBuffer) -> Bool {
        func masked(_ buffer: AlignedBuffer) -> AlignedBuffer {
            let copy = AlignedBuffer(copying: buffer)
            copy.withMutableBytes { bytes in
                bytes[SuperBlock.Layout.incompatible] |= Features.Incompatible.needsRecovery.rawValue
                SuperBlock.updateChecksum(&bytes)
            }
            return copy
        }
        return masked(a).isEqual(to: masked(b))
    }

    /// Writes back what the blocks held, and flushes. The super block comes last: so a second try after a power cut
    /// still knows the volume.
    package func restore(to device: any BlockDevice) throws(Ext4Error) {
        let size = UInt64(volumeBlockByteCount)
        let last = UInt64(SuperBlock.byteOffset) / size
        for isLast in [false, true] {
            for block in blocks where (block.number == last) == isLast {
                let buffer = AlignedBuffer(byteCount: volumeBlockByteCount)
                try file.read(into: buffer, at: block.place)
                try device.write(buffer, at: block.number * size)
            }
            try device.flush()
        }
    }
}
