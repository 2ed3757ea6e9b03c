internal import BlockIO
internal import Ext4Format
internal import Threads

/// Reads consecutive log blocks ahead of their use, in large pieces and in order. Two threads read, so that the device
/// has the next request at hand when it has answered one. They end with the object.
final class LogReadAhead {
    private let work: Work
    private let threads: [Thread]
    private var position: UInt32
    private var lent: AlignedBuffer?

    private static let threadCount = 2
    /// One for each thread, one in use, one ready: 8 MiB in all.
    private static let bufferCount = 4
    private static let pieceByteCount = 2 << 20

    init(_ log: LogArea, range: Range<UInt32>) {
        position = range.lowerBound
        let work = Work(log, range: range, pieceByteCount: Self.pieceByteCount, bufferCount: Self.bufferCount)
        self.work = work
        threads = (0..<Self.threadCount).map { _ in Thread(name: "jext4-readlog") { work.run() } }
    }

    deinit {
        work.stop()
        for thread in threads { thread.join() }
    }

    /// The next blocks, in a buffer that is good until the next call. Nil at the end of the range, and where a piece
    /// could not be read: only a read of single blocks tells whether one that matters is bad.
    func next() -> (range: Range<UInt32>, buffer: AlignedBuffer)? {
        guard let piece = work.take(at: position, returning: lent) else { return nil }
        position = piece.range.upperBound
        lent = piece.buffer
        return piece
    }
}

/// What the reading threads and the one that uses the blocks share.
private final class Work: Sendable {
    private struct State {
        /// The first block that no thread has taken on.
        var claimed: UInt32
        var free: [AlignedBuffer]
        /// By first block: read, or failed (nil).
        var done: [UInt32: (range: Range<UInt32>, buffer: AlignedBuffer?)] = [:]
        var isStopped = false
    }
    private enum Claim {
        case piece(Range<UInt32>, AlignedBuffer)
        case nothingLeft
    }
    private let log: LogArea
    private let range: Range<UInt32>
    private let pieceBlockCount: UInt32
    private let state: Monitor<State>

    init(_ log: LogArea, range: Range<UInt32>, pieceByteCount: Int, bufferCount: Int) {
        self.log = log
        self.range = range
        let blocks = max(1, pieceByteCount / log.blockByteCount)
        pieceBlockCount = UInt32(blocks)
        state = Monitor(
            State(
                claimed: range.lowerBound,
                free: (0..<bufferCount).map { _ in AlignedBuffer(byteCount: blocks * log.blockByteCount) }))
    }

    func run() {
        while case .piece(let range, let buffer) = claim() {
            var isRead = true
            do throws(Ext4Error) {
                try log.read(range.lowerBound, count: range.count, into: buffer)
            } catch {
                isRead = false
            }
            state.withLock { $0.done[range.lowerBound] = (range, isRead ? buffer : nil) }
            state.notifyAll()
        }
    }

    private func claim() -> Claim {
        state.wait { state in
            guard !state.isStopped, state.claimed < range.upperBound else { return .nothingLeft }
            guard let buffer = state.free.popLast() else { return nil }
            let first = state.claimed
            state.claimed = first + min(pieceBlockCount, range.upperBound - first)
            return .piece(first..<state.claimed, buffer)
        }
    }

    func take(
        at position: UInt32, returning lent: AlignedBuffer?
    ) -> (range: Range<UInt32>, buffer: AlignedBuffer)? {
        if let lent {
            state.withLock { $0.free.append(lent) }
            state.notifyAll()
        }
        guard position < range.upperBound else { return nil }
        let piece = state.wait { $0.done.removeValue(forKey: position) }
        guard let buffer = piece.buffer else { return nil }
        return (piece.range, buffer)
    }

    func stop() {
        state.withLock { $0.isStopped = true }
        state.notifyAll()
    }
}
