package import BlockIO
package import Ext4Format

/// What a replay did.
package struct ReplayCounters: Equatable, Sendable {
    package var blocks = 0
    /// Transfers to the volume.
    package var writes = 0
    package var reads = 0
}

// Replay is idempotent: until `markEmpty` the log stays as it is, so a crash in the middle is followed by the same one.

extension RecoveryPlan {
    /// The most log data held at once.
    private static var batchByteCount: Int { 32 << 20 }
    /// Reading over a gap of this many bytes costs less than a transfer more.
    private static var gapByteCount: Int { 64 << 10 }

    /// Writes the newest copy of every block home, sorted and merged, then flushes. A plan with damage is applied up
    /// to the damage: whether to is the caller's decision. Each block is checked once more as it is read: a log that
    /// changed since the scan is `.corrupt`, with nothing of it written.
    @discardableResult
    package func apply(from log: LogArea, to device: any BlockDevice) throws(Ext4Error) -> ReplayCounters {
        var counters = ReplayCounters()
        let size = log.blockByteCount
        let most = max(1, Self.batchByteCount / size)
        let batchBuffer = AlignedBuffer(byteCount: max(1, min(most, copies.count)) * size)
        let readBuffer = AlignedBuffer(byteCount: max(1, (1 << 20) / size) * size)
        var rest = copies[...]
        while !rest.isEmpty {
            let batch = rest.prefix(most)
            rest = rest.dropFirst(batch.count)
            try read(batch, from: log, into: batchBuffer, through: readBuffer, &counters)
            try write(batch, from: batchBuffer, size, to: device, &counters)
        }
        try device.flush()
        return counters
    }

    /// Reads in log order, in runs, and puts each block where its home order wants it.
    private func read(
        _ batch: ArraySlice<Copy>, from log: LogArea, into buffer: AlignedBuffer, through readBuffer: AlignedBuffer,
        _ counters: inout ReplayCounters
    ) throws(Ext4Error) {
        let size = log.blockByteCount
        let capacity = UInt32(readBuffer.byteCount / size), gap = UInt32(Self.gapByteCount / size)
        let order = batch.indices.sorted { batch[$0].position < batch[$1].position }
        var next = 0
        while next < order.count {
            let first = batch[order[next]].position
            var end = next + 1
            var last = first
            while end < order.count {
                let position = batch[order[end]].position
                guard position - first < capacity, position - last <= gap else { break }
                last = position
                end += 1
            }
            try log.read(first, count: Int(last - first) + 1, into: readBuffer)
            counters.reads += 1
            for index in order[next..<end] {
                let source = Int(batch[index].position - first) * size
                let target = (index - batch.startIndex) * size
                try readBuffer.withBytes { bytes throws(Ext4Error) in
                    try take(batch[index], bytes.extracting(source..<source + size), into: buffer, at: target)
                }
            }
            next = end
        }
    }

    private func take(
        _ copy: Copy, _ bytes: RawSpan, into buffer: AlignedBuffer, at offset: Int
    ) throws(Ext4Error) {
        let format = JournalFormat(superBlock)
        guard format.tagChecksum(bytes, in: copy.transaction) == copy.checksum else {
            throw .corrupt("logged block, good when it was scanned", where: "log block \(copy.position)")
        }
        buffer.withMutableBytes { target in
            target.copy(bytes, at: offset)
            guard copy.isEscaped else { return }
            var block = target._mutatingExtracting(offset..<offset + bytes.byteCount)
            JournalHeader.setMagic(JournalHeader.magic, in: &block)
        }
    }

    private func write(
        _ batch: ArraySlice<Copy>, from buffer: AlignedBuffer, _ size: Int, to device: any BlockDevice,
        _ counters: inout ReplayCounters
    ) throws(Ext4Error) {
        var start = batch.startIndex
        while start < batch.endIndex {
            let home = batch[start].home.rawValue
            var end = start + 1
            while end < batch.endIndex, batch[end].home.rawValue == home + UInt64(end - start) { end += 1 }
            let range = (start - batch.startIndex) * size..<(end - batch.startIndex) * size
            try buffer.withBytes { bytes throws(Ext4Error) in
                try device.write(bytes.extracting(range), at: home * UInt64(size), mode: .cached)
            }
            counters.writes += 1
            counters.blocks += end - start
            start = end
        }
    }

    /// Marks the log empty, with a sequence past everything that it holds: only after `apply` has flushed. Durable
    /// when it returns. `clearsError` drops s_errno, when its news has been taken over by the file system.
    package func markEmpty(_ log: LogArea, clearsError: Bool = false) throws(Ext4Error) {
        var next = superBlock
        next.start = 0
        next.sequence = nextSequence
        if clearsError { next.errorNumber = 0 }
        let buffer = AlignedBuffer(byteCount: log.blockByteCount)
        try log.read(0, count: 1, into: buffer)
        buffer.withMutableBytes { bytes in next.encode(into: &bytes) }
        try buffer.withBytes { bytes throws(Ext4Error) in try log.write(bytes, at: 0, mode: .throughToMedia) }
    }
}
