internal import BlockIO
internal import Ext4Format

/// Writes copies home from where they lie, neighbours together.
///
/// What lies at home already need not be written: after an abort or a replay that was cut short it is most of the log,
/// and a disk reads faster than it writes. After a power cut in full work it is next to nothing, and a look would cost
/// time. So a few homes are looked at, and all only when most of those hold what they are to get.
struct HomeWriter {
    private let blockByteCount: Int
    private let device: any BlockDevice
    private let progress: RecoveryProgress.Handler?
    private let total: Int
    private let runBlockCount: Int
    var counters = ReplayCounters()

    /// Large enough for any disk, and small enough that it has work early.
    private static let runByteCount = 1 << 20
    private static let progressBlockCount = 1024
    private static let sampleCount = 8
    /// Less is written before it has been looked at.
    private static let leastByteCount = 4 << 20

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
        let runs = runs(of: copies)
        let ahead = areMostAtHome(copies, memory) ? readAhead(copies, runs) : nil
        for run in runs {
            var parts: [BufferPart] = []
            for index in run { add(copies[index], from: memory, to: &parts) }
            let isAtHome = ahead?.next { home, isRead in isRead && Self.are(parts, equalTo: home) } ?? false
            if isAtHome {
                counters.unchanged += run.count
            } else {
                try device.write(gathering: parts, at: byteOffset(of: copies[run.lowerBound]), mode: .cached)
                counters.writes += 1
            }
            let before = counters.blocks
            counters.blocks += run.count
            if before / Self.progressBlockCount != counters.blocks / Self.progressBlockCount { report(.writing) }
        }
    }

    private func byteOffset(of copy: RecoveryPlan.Copy) -> UInt64 { copy.home.rawValue * UInt64(blockByteCount) }

    /// Copies whose homes are neighbours, no more of them than go into one transfer.
    private func runs(of copies: [RecoveryPlan.Copy]) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        var start = 0
        while start < copies.count {
            let home = copies[start].home.rawValue
            var count = 1
            while start + count < copies.count, count < runBlockCount,
                copies[start + count].home.rawValue == home + UInt64(count)
            {
                count += 1
            }
            runs.append(start..<start + count)
            start += count
        }
        return runs
    }

    // MARK: What lies at home already

    private func areMostAtHome(_ copies: [RecoveryPlan.Copy], _ memory: LogMemory) -> Bool {
        guard copies.count * blockByteCount >= Self.leastByteCount else { return false }
        let home = AlignedBuffer(byteCount: blockByteCount)
        var different = 0
        for sample in 0..<Self.sampleCount {
            let copy = copies[copies.count / Self.sampleCount * sample]
            guard device.readMedium(into: home, count: blockByteCount, at: byteOffset(of: copy)) else { return false }
            if !part(of: copy, in: memory).isEqual(to: home, from: 0) { different += 1 }
            if 2 * different >= Self.sampleCount { return false }
        }
        return true
    }

    private func readAhead(_ copies: [RecoveryPlan.Copy], _ runs: [Range<Int>]) -> HomeReadAhead {
        let ranges = runs.map { run in
            let start = byteOffset(of: copies[run.lowerBound])
            return start..<start + UInt64(run.count * blockByteCount)
        }
        return HomeReadAhead(device, ranges, byteLimit: runBlockCount * blockByteCount)
    }

    private static func are(_ parts: [BufferPart], equalTo home: AlignedBuffer) -> Bool {
        var start = 0
        for part in parts {
            guard part.isEqual(to: home, from: start) else { return false }
            start += part.byteCount
        }
        return true
    }

    // MARK: Copies in memory

    private func add(_ copy: RecoveryPlan.Copy, from memory: LogMemory, to parts: inout [BufferPart]) {
        let part = part(of: copy, in: memory)
        if let last = parts.last, last.buffer === part.buffer, last.range.upperBound == part.range.lowerBound {
            parts[parts.count - 1] = BufferPart(last.buffer, last.range.lowerBound..<part.range.upperBound)
        } else {
            parts.append(part)
        }
    }

    /// As its home is to hold it.
    private func part(of copy: RecoveryPlan.Copy, in memory: LogMemory) -> BufferPart {
        let part = memory.part(at: copy.place)
        if copy.isEscaped {
            part.buffer.withMutableBytes { bytes in
                var block = bytes._mutatingExtracting(part.range)
                JournalHeader.setMagic(JournalHeader.magic, in: &block)
            }
        }
        return part
    }

    func report(_ phase: RecoveryProgress.Phase) {
        progress?(RecoveryProgress(phase: phase, done: counters.blocks, total: total))
    }
}
