package import BlockIO
package import Ext4Format
internal import FileSystem
internal import Journal

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
        file = try FileDevice(path: path, readOnly: true, direct: .never)
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

    /// What must hold of any device that the blocks are written to. `.refused` says what does not.
    private func checkFit(_ device: any BlockDevice) throws(Ext4Error) {
        guard volumeBlockByteCount % device.sectorByteCount == 0 else {
            throw .refused(
                "the undo file is in blocks of \(volumeBlockByteCount) bytes, "
                    + "the device in sectors of \(device.sectorByteCount)")
        }
        let limit = device.byteCount / UInt64(volumeBlockByteCount)
        if let last = blocks.last, last.number >= limit { throw .refused("the undo file is of a larger volume") }
    }

    /// Whether nothing but the change that this file is about has touched the volume since: `.refused` when something
    /// has. It may be whole, half done, or taken back in part.
    package func check(_ device: any BlockDevice) throws(Ext4Error) {
        try checkFit(device)
        let now = try device.superBlockBytes(), after = try superBlockAfter()
        if now.isEqual(to: after) { return }
        // Else it was cut short, and the log tells: nobody mounts or recovers the volume without changing that.
        guard try isOnTheWay(device, now, hasEndSuperBlock: Self.isSame(now, after)) else {
            throw .refused("the undo file does not fit: something else has changed the volume since")
        }
    }

    /// Whether the super block of the log is one that a replay, or taking it back, has on its way.
    private func isOnTheWay(
        _ device: any BlockDevice, _ now: AlignedBuffer, hasEndSuperBlock: Bool
    ) throws(Ext4Error) -> Bool {
        let before = undone(device)
        guard Self.uuid(now) == Self.uuid(try before.superBlockBytes()),
            let (volume, journal) = try Self.logged(before)
        else { return false }
        let log = journal.log, size = log.blockByteCount
        let place = log.home(of: log.superBlockPosition).rawValue * UInt64(size)
        let old = AlignedBuffer(byteCount: size), current = AlignedBuffer(byteCount: size)
        try before.read(into: old, at: place)
        try device.read(into: current, at: place)
        // An empty log looks the same before a replay and after many a mount.
        if journal.superBlock.start != 0 && old.isEqual(to: current) { return true }
        guard let next = current.withBytes({ try? JournalSuperBlock(decoding: $0) }) else { return false }
        let plan = try volume.plan(journal)
        guard next.sequence == plan.nextSequence else {
            // While fast commits are carried out, the log begins where the last whole transaction of it ended.
            return plan.hasFastCommits && next.sequence == plan.endID && next.start == plan.endPosition
        }
        // All is home. Of what fast commits became the log is empty for a moment before it is marked so.
        guard hasEndSuperBlock, next.start != 0 else { return hasEndSuperBlock }
        return plan.hasFastCommits ? try Self.hasEmptyLog(device) : false
    }

    private static func hasEmptyLog(_ device: any BlockDevice) throws(Ext4Error) -> Bool {
        guard let (volume, journal) = try logged(OverlayDevice(over: device)) else { return false }
        let plan = try volume.plan(journal)
        return plan.transactions.isEmpty && plan.unapplied.isEmpty && !plan.hasFastCommits
    }

    /// A volume with the log that it has on the same device. Nil where there is none to be had.
    private static func logged(
        _ device: any BlockDevice
    ) throws(Ext4Error) -> (volume: OfflineVolume, journal: JournalLocation)? {
        do throws(Ext4Error) {
            let volume = try OfflineVolume(on: device)
            return volume.journal.map { (volume, $0) }
        } catch {
            if case .io = error { throw error }
            return nil
        }
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

    /// In the order in which blocks are written back, with a flush behind each. The log comes first: as soon as any
    /// other block is old, a replay makes all of them new again. The super block comes last: until then a second try
    /// after a power cut still knows the volume.
    private enum Stage: CaseIterable {
        case log, superBlockOfLog, others, superBlock
    }

    /// Writes back what the blocks held, and flushes. A power cut leaves a volume that needs a replay, or this again.
    /// `.refused` when they do not fit on the device.
    package func restore(to device: any BlockDevice) throws(Ext4Error) {
        try checkFit(device)
        let size = UInt64(volumeBlockByteCount)
        let log = try replayableLog(device)
        if log != nil { try OfflineVolume.markForRecovery(device) }
        for stage in Stage.allCases {
            for block in blocks where Self.stage(of: block.number * size, size, log) == stage {
                let buffer = AlignedBuffer(byteCount: volumeBlockByteCount)
                try file.read(into: buffer, at: block.place)
                try device.write(buffer, at: block.number * size)
            }
            try device.flush()
        }
    }

    /// The log that the volume gets back, when a replay of it does again what is taken back here.
    private func replayableLog(_ device: any BlockDevice) throws(Ext4Error) -> LogArea? {
        guard let journal = try Self.logged(undone(device))?.journal, journal.superBlock.start != 0 else { return nil }
        let place = journal.log.home(of: journal.log.superBlockPosition).rawValue * UInt64(journal.log.blockByteCount)
        return blocks.contains { $0.number == place / UInt64(volumeBlockByteCount) } ? journal.log : nil
    }

    /// `offset` is a byte of the volume.
    private static func stage(of offset: UInt64, _ byteCount: UInt64, _ log: LogArea?) -> Stage {
        let superBlock = UInt64(SuperBlock.byteOffset)
        if offset <= superBlock && superBlock - offset < byteCount { return .superBlock }
        guard let log else { return .others }
        let block = FSBlock(offset / UInt64(log.blockByteCount))
        return block == log.home(of: log.superBlockPosition) ? .superBlockOfLog : log.contains(block) ? .log : .others
    }
}
