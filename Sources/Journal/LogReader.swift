internal import BlockIO
package import Ext4Format

/// Reads a log forward; single blocks come out of a window. Not for more than one thread.
///
/// The window grows as long as the reading goes straight on, and a long way is read ahead by threads. So a short log
/// costs a small read, and a long one as much as the device needs for it.
struct LogReader {
    private let log: LogArea
    /// The log's device when its bytes are decided by being read: then nothing is read that is not needed.
    private let undecided: (any UndecidedDevice)?
    private var buffer: AlignedBuffer
    private var window: Range<UInt32> = 0..<0
    /// Bytes read one behind the other so far.
    private var streak = 0
    private var ahead: LogReadAhead?
    /// Transfers of this reader's own thread, and pieces that were read ahead.
    private(set) var readCount = 0

    private static let smallestWindow = 64 << 10
    private static let largestWindow = 1 << 20
    /// A streak of this many bytes is worth threads.
    private static let longStreak = 4 << 20

    init(log: LogArea) {
        self.log = log
        undecided = log.device as? any UndecidedDevice
        let byteCount = undecided == nil ? Self.smallestWindow : 0
        buffer = AlignedBuffer(byteCount: max(byteCount, log.blockByteCount))
    }

    /// Hands out log block `position`, reading from there towards `limit` when it is not at hand. That a block behind
    /// it cannot be read is no error.
    mutating func withBlock<R>(
        _ position: UInt32, limit: UInt32, _ body: (RawSpan) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        if !window.contains(position) { try load(position, limit) }
        let start = Int(position - window.lowerBound) * log.blockByteCount
        return try buffer.withBytes { bytes throws(Ext4Error) in
            try body(bytes.extracting(start..<start + log.blockByteCount))
        }
    }

    /// As `withBlock`, for a question without side effects.
    mutating func ask<Answer: Hashable & Sendable>(
        _ position: UInt32, limit: UInt32, _ question: (RawSpan) -> Answer
    ) throws(Ext4Error) -> Answer {
        guard let undecided else {
            return try withBlock(position, limit: limit) { block throws(Ext4Error) in question(block) }
        }
        readCount += 1
        let offset = log.home(of: position).rawValue * UInt64(log.blockByteCount)
        return try undecided.ask(at: offset, count: log.blockByteCount, question)
    }

    /// Whether a question that need not be asked should not be.
    var isUndecided: Bool { undecided != nil }

    private mutating func load(_ position: UInt32, _ limit: UInt32) throws(Ext4Error) {
        let goesOn = streak > 0 && position == window.upperBound
        if !goesOn { streak = 0 }
        if goesOn, let piece = ahead?.next() {
            window = piece.range
            buffer = piece.buffer
            readCount += 1
            return
        }
        if ahead != nil {
            // The buffer belongs to what ends here.
            ahead = nil
            buffer = AlignedBuffer(byteCount: max(Self.smallestWindow, log.blockByteCount))
        }
        let most = undecided == nil ? Self.largestWindow : log.blockByteCount
        let byteCount = max(log.blockByteCount, min(max(streak, Self.smallestWindow), most))
        if buffer.byteCount < byteCount { buffer = AlignedBuffer(byteCount: byteCount) }
        let wanted = UInt32(byteCount / log.blockByteCount)
        try read(position, count: position < limit ? min(wanted, limit - position) : 1)
        streak += window.count * log.blockByteCount
        if streak >= Self.longStreak, undecided == nil, window.upperBound < limit {
            ahead = LogReadAhead(log, range: window.upperBound..<limit)
        }
    }

    private mutating func read(_ position: UInt32, count: UInt32) throws(Ext4Error) {
        window = 0..<0
        var count = count
        do throws(Ext4Error) {
            try log.read(position, count: Int(count), into: buffer)
        } catch {
            guard count > 1 else { throw error }
            // A bad sector behind the end of the log must not keep the log from being read.
            count = 1
            streak = 0
            try log.read(position, count: 1, into: buffer)
        }
        readCount += 1
        window = position..<position + count
    }
}

extension LogArea {
    /// The journal super block as it stands on the device. `.corrupt` when transactions may lie over it.
    package func readSuperBlock() throws(Ext4Error) -> JournalSuperBlock {
        let buffer = AlignedBuffer(byteCount: blockByteCount)
        try read(superBlockPosition, count: 1, into: buffer)
        let superBlock = try buffer.withBytes { bytes throws(Ext4Error) in try JournalSuperBlock(decoding: bytes) }
        guard superBlock.first > superBlockPosition else {
            throw .corrupt("journal super block", where: "first block \(superBlock.first)")
        }
        return superBlock
    }
}
