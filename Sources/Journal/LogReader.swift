internal import BlockIO
package import Ext4Format

/// Reads a ring of log blocks forward; single blocks come out of a window, which is one piece of memory. Not for more
/// than one thread.
///
/// The first piece is read in parts that grow for as long as the reading goes straight on, and what follows it is read
/// ahead by threads. So a short log costs a small read, and a long one as much as the device needs for it.
final class LogReader {
    private let log: LogArea
    private let ring: Range<UInt32>
    private let memory: LogMemory
    private var piece: LogMemory.Piece?
    /// The blocks that the piece holds.
    private var window: Range<UInt32> = 0..<0
    /// Blocks read one behind the other so far.
    private var streak = 0
    private var nextByteCount = LogReader.smallestRead
    private var ahead: LogReadAhead?
    private var mayReadAhead: Bool
    /// Transfers of this reader's own thread, and pieces that were read ahead.
    private(set) var readCount = 0

    private static let smallestRead = 64 << 10
    /// A streak of this many bytes is worth threads.
    private static let longStreak = 2 << 20

    /// `ring` lies within the log; behind its last block comes its first.
    init(log: LogArea, ring: Range<UInt32>, memory: LogMemory) {
        self.log = log
        self.ring = ring
        self.memory = memory
        mayReadAhead = memory.isWorthReadingAhead
    }

    deinit { leavePiece() }

    /// Hands out block `position` of the ring, reading on from there when it is not at hand. That a block behind it
    /// cannot be read is no error.
    func withBlock<R>(_ position: UInt32, _ body: (RawSpan) throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        if !window.contains(position) { try load(position) }
        guard let piece else { preconditionFailure("a window without its piece") }
        let start = Int(position - window.lowerBound) * log.blockByteCount
        return try piece.buffer.withBytes { bytes throws(Ext4Error) in
            try body(bytes.extracting(start..<start + log.blockByteCount))
        }
    }

    /// As `withBlock`, for a question without side effects.
    func ask<Answer: Hashable & Sendable>(
        _ position: UInt32, _ question: (RawSpan) -> Answer
    ) throws(Ext4Error) -> Answer {
        guard let undecided = log.undecided, decidedBlockCount(from: position, limit: 1) == 0 else {
            return try withBlock(position) { block throws(Ext4Error) in question(block) }
        }
        readCount += 1
        let offset = log.home(of: position).rawValue * UInt64(log.blockByteCount)
        return try undecided.ask(at: offset, count: log.blockByteCount, question)
    }

    /// Keeps the block that was handed out last, and answers its place in the memory, or `LogMemory.none`.
    func keep(_ position: UInt32) -> UInt32 {
        guard let piece, window.contains(position) else { preconditionFailure("a block that is not at hand") }
        return memory.keep(Int(position - window.lowerBound), of: piece)
    }

    /// What comes now is a look at what lies behind the end of the log: no more is read ahead than is on its way.
    func readNoFurtherAhead() {
        mayReadAhead = false
        ahead?.readNoFurther()
    }

    private func load(_ position: UInt32) throws(Ext4Error) {
        let following = window.upperBound == ring.upperBound ? ring.lowerBound : window.upperBound
        if window.isEmpty || position != following {
            startOver()
        } else if ahead == nil {
            if position == window.upperBound, window.count < memory.pieceBlockCount { return try grow() }
            if mayReadAhead, streak * log.blockByteCount >= Self.longStreak {
                ahead = LogReadAhead(log, from: position, count: ring.count - streak, in: ring, memory)
            }
        }
        if ahead != nil {
            if let next = ahead?.next() { return take(next.piece, next.range) }
            startOver()
        }
        leavePiece()
        piece = memory.open()
        window = position..<position
        try grow()
    }

    private func startOver() {
        ahead = nil
        streak = 0
        nextByteCount = Self.smallestRead
    }

    private func take(_ next: LogMemory.Piece, _ range: Range<UInt32>) {
        leavePiece()
        piece = next
        window = range
        streak += range.count
        readCount += 1
    }

    /// How many blocks from `position` on can be read without deciding anything; they lie in one run of the device.
    private func decidedBlockCount(from position: UInt32, limit: Int) -> Int {
        guard let undecided = log.undecided else { return limit }
        if limit == 1, window.contains(position) { return 1 }
        let offset = log.home(of: position).rawValue * UInt64(log.blockByteCount)
        let run = log.runLength(from: position, limit: limit)
        return undecided.decidedByteCount(at: offset, limit: run * log.blockByteCount) / log.blockByteCount
    }

    /// Reads more blocks behind those that the piece holds.
    private func grow() throws(Ext4Error) {
        guard let piece else { return }
        let position = window.upperBound
        let room = min(memory.pieceBlockCount - window.count, Int(ring.upperBound - position))
        let wanted = max(1, min(nextByteCount / log.blockByteCount, room))
        var count = max(1, decidedBlockCount(from: position, limit: wanted))
        let start = window.count * log.blockByteCount
        do throws(Ext4Error) {
            try log.read(position, count: count, into: piece.buffer, at: start)
            nextByteCount = min(2 * nextByteCount, Self.longStreak)
        } catch {
            guard count > 1 else { throw error }
            // A bad sector behind the end of the log must not keep the log from being read.
            count = 1
            nextByteCount = Self.smallestRead
            try log.read(position, count: 1, into: piece.buffer, at: start)
        }
        readCount += 1
        streak += count
        window = window.lowerBound..<position + UInt32(count)
    }

    private func leavePiece() {
        if let piece { memory.close(piece) }
        piece = nil
        window = 0..<0
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
