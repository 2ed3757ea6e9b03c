package import BlockIO
package import Ext4Format

/// Where the blocks of the log lie on a device. All reads and writes of the log go through here, in the largest runs
/// that the layout allows. Positions are log blocks, from 0, the journal super block.
package final class LogArea: Sendable {
    package let device: any BlockDevice
    package let blockByteCount: Int
    /// Blocks of the whole area.
    package let blockCount: UInt32
    /// The log block with the journal super block: 0, but on a journal device.
    package let superBlockPosition: UInt32
    package var isJournalDevice: Bool { superBlockPosition > 0 }
    private let runs: [Run]
    /// The same by their place on the device.
    private let places: [Run]
    /// The device when its bytes are decided by being read: then nothing is read that is not needed.
    let undecided: (any UndecidedDevice)?

    private struct Run: Sendable {
        let log: UInt32
        let start: UInt64
        let count: UInt32
    }

    /// `runs` are the extents of the journal inode in file order. On a journal device they are the whole device: there
    /// log blocks count from its start, and the super block of the log comes after that of the device. A run outside
    /// the device, an overlap or a length past 2^32 blocks is `.corrupt`, blocks smaller than a sector are `.refused`.
    package init(
        device: any BlockDevice, blockByteCount: Int, runs: [(start: FSBlock, count: UInt32)],
        superBlockPosition: UInt32 = 0
    ) throws(Ext4Error) {
        try device.checkBlocks(of: blockByteCount)
        let deviceBlocks = device.byteCount / UInt64(blockByteCount)
        var mapped: [Run] = []
        var total: UInt32 = 0
        for run in runs where run.count > 0 {
            let (end, overflow) = run.start.rawValue.addingReportingOverflow(UInt64(run.count))
            let (sum, tooLong) = total.addingReportingOverflow(run.count)
            guard !overflow, !tooLong, end <= deviceBlocks else {
                throw .corrupt("journal mapping", where: "\(run.count) blocks at block \(run.start.rawValue)")
            }
            mapped.append(Run(log: total, start: run.start.rawValue, count: run.count))
            total = sum
        }
        places = mapped.sorted { $0.start < $1.start }
        for (a, b) in zip(places, places.dropFirst()) where a.start + UInt64(a.count) > b.start {
            throw .corrupt("journal mapping", where: "block \(b.start) mapped twice")
        }
        guard total > superBlockPosition else { throw .corrupt("journal mapping", where: "\(total) blocks") }
        self.device = device
        self.blockByteCount = blockByteCount
        blockCount = total
        self.superBlockPosition = superBlockPosition
        self.runs = mapped
        undecided = device as? any UndecidedDevice
    }

    /// Whether a block of the log's own device belongs to the log.
    package func contains(_ block: FSBlock) -> Bool {
        let after = places.partitioningIndex { $0.start > block.rawValue }
        return after > 0 && block.rawValue - places[after - 1].start < UInt64(places[after - 1].count)
    }

    /// Where a block of the log lies on its device. The position lies within the area.
    package func home(of position: UInt32) -> FSBlock {
        precondition(position < blockCount)
        let run = runs[indexOfRun(with: position)]
        return FSBlock(run.start + UInt64(position - run.log))
    }

    /// How many blocks from `position` on, `limit` at the most, lie one behind the other on the device.
    func runLength(from position: UInt32, limit: Int) -> Int {
        let run = runs[indexOfRun(with: position)]
        return min(limit, Int(run.count - (position - run.log)))
    }

    /// Whether the device has the log at hand, to judge by its first blocks from `position` on.
    func isAtHand(from position: UInt32) -> Bool {
        let count = runLength(from: position, limit: Self.sampleByteCount / blockByteCount)
        return device.isAtHand(
            at: home(of: position).rawValue * UInt64(blockByteCount), count: count * blockByteCount)
    }
    private static let sampleByteCount = 1 << 20

    /// Reads `count` blocks from `first` to byte `start` of `buffer`. The range lies within the area.
    package func read(
        _ first: UInt32, count: Int, into buffer: AlignedBuffer, at start: Int = 0
    ) throws(Ext4Error) {
        try buffer.withMutableBytes { bytes throws(Ext4Error) in
            try forEachRun(first, count) { offset, range throws(Ext4Error) in
                var part = bytes._mutatingExtracting(start + range.lowerBound..<start + range.upperBound)
                try device.read(into: &part, at: offset)
            }
        }
    }

    /// Writes whole blocks from `first` on. The range lies within the area.
    package func write(_ bytes: RawSpan, at first: UInt32, mode: WriteMode) throws(Ext4Error) {
        try forEachRun(first, bytes.byteCount / blockByteCount) { offset, range throws(Ext4Error) in
            try device.write(bytes.extracting(range), at: offset, mode: mode)
        }
    }

    /// Hands out (byte offset on the device, range of the caller's bytes) for each run that the range touches.
    private func forEachRun(
        _ first: UInt32, _ count: Int, _ body: (UInt64, Range<Int>) throws(Ext4Error) -> Void
    ) throws(Ext4Error) {
        precondition(count >= 0 && UInt64(first) + UInt64(count) <= UInt64(blockCount))
        var done = 0
        while done < count {
            let position = first + UInt32(done)
            let run = runs[indexOfRun(with: position)]
            let within = position - run.log
            let part = min(count - done, Int(run.count - within))
            let offset = (run.start + UInt64(within)) * UInt64(blockByteCount)
            try body(offset, done * blockByteCount..<(done + part) * blockByteCount)
            done += part
        }
    }

    private func indexOfRun(with position: UInt32) -> Int {
        runs.partitioningIndex { $0.log > position } - 1
    }
}
