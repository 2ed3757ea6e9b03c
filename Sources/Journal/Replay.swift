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
        try writer.write(copies.filter { $0.place != KeptBlocks.none }, from: kept)
        let rest = copies.filter { $0.place == KeptBlocks.none }.sorted { logOrder($0) < logOrder($1) }
        if !rest.isEmpty { try writeUnkept(rest, log, &writer) }
        writer.report(.flushing)
        try device.flush()
        return writer.counters
    }

    private func logOrder(_ copy: Copy) -> UInt32 { geometry.distance(from: superBlock.start, to: copy.position) }

    private func writeUnkept(_ rest: [Copy], _ log: LogArea, _ writer: inout HomeWriter) throws(Ext4Error) {
        let format = JournalFormat(superBlock)
        let size = log.blockByteCount
        let batchBlockCount = max(1, min(rest.count, Self.batchByteCount / size))
        let held = KeptBlocks(blockByteCount: size, byteCount: batchBlockCount * size)
        var reader = LogReader(log: log)
        for first in stride(from: 0, to: rest.count, by: batchBlockCount) {
            var batch = Array(rest[first..<min(first + batchBlockCount, rest.count)])
            for index in batch.indices {
                let copy = batch[index]
                batch[index].place = try reader.withBlock(copy.position, limit: geometry.end) {
                    block throws(Ext4Error) in
                    guard format.tagChecksum(block, in: copy.transaction) == copy.checksum else {
                        throw .corrupt("logged block, good when it was scanned", where: "log block \(copy.position)")
                    }
                    return held.keep(block)
                }
            }
            try writer.write(batch.sorted { $0.home < $1.home }, from: held)
            for copy in batch { held.release(copy.place) }
        }
        writer.counters.reads = reader.readCount
    }

    /// Lets the log begin behind its last commit, with the transaction that would come next, so that fast commits stay
    /// valid until that one is committed: only after `apply` has flushed. Durable when it returns.
    package func markContinued(_ log: LogArea) throws(Ext4Error) {
        var next = superBlock
        next.start = endPosition
        next.sequence = endID
        try write(next, to: log)
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

/// Writes copies home, neighbours together.
private struct HomeWriter {
    private let blockByteCount: Int
    private let device: any BlockDevice
    private let progress: RecoveryProgress.Handler?
    private let total: Int
    private let run: AlignedBuffer
    var counters = ReplayCounters()

    private static let runByteCount = 4 << 20
    private static let progressBlockCount = 1024

    init(
        blockByteCount: Int, total: Int, _ device: any BlockDevice, _ progress: RecoveryProgress.Handler?
    ) {
        self.blockByteCount = blockByteCount
        self.total = total
        self.device = device
        self.progress = progress
        let most = max(1, Self.runByteCount / blockByteCount)
        run = AlignedBuffer(byteCount: max(1, min(most, total)) * blockByteCount)
    }

    /// `copies` are sorted by home, each home once, and lie in `kept`.
    mutating func write(_ copies: [RecoveryPlan.Copy], from kept: KeptBlocks) throws(Ext4Error) {
        var start = 0
        while start < copies.count {
            let home = copies[start].home.rawValue
            var count = 0
            while start + count < copies.count, (count + 1) * blockByteCount <= run.byteCount,
                copies[start + count].home.rawValue == home + UInt64(count)
            {
                take(copies[start + count], from: kept, into: count)
                count += 1
            }
            try run.withBytes { bytes throws(Ext4Error) in
                try device.write(
                    bytes.extracting(0..<count * blockByteCount), at: home * UInt64(blockByteCount), mode: .cached)
            }
            start += count
            let before = counters.blocks
            counters.writes += 1
            counters.blocks += count
            if before / Self.progressBlockCount != counters.blocks / Self.progressBlockCount { report(.writing) }
        }
    }

    private func take(_ copy: RecoveryPlan.Copy, from kept: KeptBlocks, into index: Int) {
        kept.withBlock(copy.place) { source in
            run.withMutableBytes { bytes in
                let offset = index * blockByteCount
                bytes.copy(source, at: offset)
                guard copy.isEscaped else { return }
                var block = bytes._mutatingExtracting(offset..<offset + blockByteCount)
                JournalHeader.setMagic(JournalHeader.magic, in: &block)
            }
        }
    }

    func report(_ phase: RecoveryProgress.Phase) {
        progress?(RecoveryProgress(phase: phase, done: counters.blocks, total: total))
    }
}
