package import BlockIO
package import Ext4Format

/// What a replay did.
package struct ReplayCounters: Equatable, Sendable {
    package var blocks = 0
    /// Transfers to the volume.
    package var writes = 0
    /// Transfers from the log, beside those of the scan.
    package var reads = 0
}

// Replay is idempotent: until `markEmpty` the log stays as it is, so a crash in the middle is followed by the same one.

extension RecoveryPlan {
    /// The most log data held at once beside what the scan has kept.
    private static var batchByteCount: Int { 32 << 20 }
    /// The same where the page cache puts the writes in order, and reading costs a copy.
    private static var batchByteCountAtHand: Int { 2 << 20 }

    /// Writes the newest copy of every block home, sorted and merged, then flushes. Only blocks that were logged are
    /// written. A plan with damage is applied up to the damage: whether to is the caller's decision. A block that the
    /// scan did not keep is checked once more as it is read: a log that changed since the scan is `.corrupt`.
    @discardableResult
    package func apply(
        from log: LogArea, to device: any BlockDevice, progress: RecoveryProgress.Handler? = nil
    ) throws(Ext4Error) -> ReplayCounters {
        var writer = HomeWriter(blockByteCount: log.blockByteCount, total: copies.count, device, progress)
        // Each block has one copy in the plan, so the order of blocks is free: what is in memory goes in the order of
        // the homes, what is not in the order of the log, some MiB at a time, and those again sorted.
        try writer.write(copies.filter { $0.place != LogMemory.none }, from: memory)
        let rest = copies.filter { $0.place == LogMemory.none }.sorted { logOrder($0) < logOrder($1) }
        if !rest.isEmpty { try writeUnkept(rest, log, &writer) }
        writer.report(.flushing)
        try device.flush()
        return writer.counters
    }

    private func logOrder(_ copy: Copy) -> UInt32 { geometry.distance(from: superBlock.start, to: copy.position) }

    private func writeUnkept(_ rest: [Copy], _ log: LogArea, _ writer: inout HomeWriter) throws(Ext4Error) {
        let isAtHand = log.isAtHand(from: rest[0].position)
        let most = isAtHand ? Self.batchByteCountAtHand : Self.batchByteCount
        let batchMemory = LogMemory(
            for: log, ring: geometry.ring, keeping: min(most, rest.count * log.blockByteCount), isAtHand: isAtHand)
        let reader = LogReader(log: log, ring: geometry.ring, memory: batchMemory)
        var batch: [Copy] = []
        func write() throws(Ext4Error) {
            try writer.write(batch.sorted { $0.home < $1.home }, from: batchMemory)
            for copy in batch { batchMemory.release(copy.place) }
            batch.removeAll(keepingCapacity: true)
        }
        for var copy in rest {
            copy.place = try readAgain(copy, reader)
            if copy.place == LogMemory.none {
                try write()
                copy.place = try readAgain(copy, reader)
            }
            batch.append(copy)
        }
        try write()
        writer.counters.reads = reader.readCount
    }

    private func readAgain(_ copy: Copy, _ reader: LogReader) throws(Ext4Error) -> UInt32 {
        let format = JournalFormat(superBlock)
        let isValid = try reader.withBlock(copy.position) { block throws(Ext4Error) in
            format.tagChecksum(block, in: copy.transaction) == copy.checksum
        }
        guard isValid else {
            throw .corrupt("logged block, good when it was scanned", where: "log block \(copy.position)")
        }
        return reader.keep(copy.position)
    }

    /// Lets the log begin behind its last commit, with the transaction that would come next, so that fast commits stay
    /// valid until that one is committed: only after `apply` has flushed. Durable when it returns: the super block as
    /// it then is.
    package func markContinued(_ log: LogArea) throws(Ext4Error) -> JournalSuperBlock {
        var next = superBlock
        next.start = endPosition
        next.sequence = endID
        try write(next, to: log)
        return next
    }

    /// Marks the log empty, with a sequence past everything that it holds, to go on where it ended: only after `apply`
    /// has flushed. Durable when it returns. `clearsError` drops s_errno, when its news has been taken over by the file
    /// system.
    package func markEmpty(_ log: LogArea, clearsError: Bool = false) throws(Ext4Error) {
        var next = superBlock
        next.start = 0
        next.sequence = nextSequence
        if !isEmpty { next.head = endPosition }
        if clearsError { next.errorNumber = 0 }
        try write(next, to: log)
    }

    private func write(_ next: JournalSuperBlock, to log: LogArea) throws(Ext4Error) {
        let buffer = AlignedBuffer(byteCount: log.blockByteCount)
        try log.read(log.superBlockPosition, count: 1, into: buffer)
        buffer.withMutableBytes { bytes in next.encode(into: &bytes) }
        try buffer.withBytes { bytes throws(Ext4Error) in
            try log.write(bytes, at: log.superBlockPosition, mode: .throughToMedia)
        }
    }
}

/// Writes copies home from where they lie, neighbours together.
private struct HomeWriter {
    private let blockByteCount: Int
    private let device: any BlockDevice
    private let progress: RecoveryProgress.Handler?
    private let total: Int
    private let runBlockCount: Int
    var counters = ReplayCounters()

    /// Large enough for any disk, and small enough that it has work early.
    private static let runByteCount = 1 << 20
    private static let progressBlockCount = 1024

    init(
        blockByteCount: Int, total: Int, _ device: any BlockDevice, _ progress: RecoveryProgress.Handler?
    ) {
        self.blockByteCount = blockByteCount
        self.total = total
        self.device = device
        self.progress = progress
        runBlockCount = max(1, Self.runByteCount / blockByteCount)
    }

    /// `copies` are sorted by home, each home once, and lie in `memory`.
    mutating func write(_ copies: [RecoveryPlan.Copy], from memory: LogMemory) throws(Ext4Error) {
        var start = 0
        while start < copies.count {
            let home = copies[start].home.rawValue
            var parts: [BufferPart] = []
            var count = 0
            while start + count < copies.count, count < runBlockCount,
                copies[start + count].home.rawValue == home + UInt64(count)
            {
                add(copies[start + count], from: memory, to: &parts)
                count += 1
            }
            try device.write(gathering: parts, at: home * UInt64(blockByteCount), mode: .cached)
            start += count
            let before = counters.blocks
            counters.writes += 1
            counters.blocks += count
            if before / Self.progressBlockCount != counters.blocks / Self.progressBlockCount { report(.writing) }
        }
    }

    private func add(_ copy: RecoveryPlan.Copy, from memory: LogMemory, to parts: inout [BufferPart]) {
        let part = memory.part(at: copy.place)
        if copy.isEscaped {
            part.buffer.withMutableBytes { bytes in
                var block = bytes._mutatingExtracting(part.range)
                JournalHeader.setMagic(JournalHeader.magic, in: &block)
            }
        }
        if let last = parts.last, last.buffer === part.buffer, last.range.upperBound == part.range.lowerBound {
            parts[parts.count - 1] = BufferPart(last.buffer, last.range.lowerBound..<part.range.upperBound)
        } else {
            parts.append(part)
        }
    }

    func report(_ phase: RecoveryProgress.Phase) {
        progress?(RecoveryProgress(phase: phase, done: counters.blocks, total: total))
    }
}
