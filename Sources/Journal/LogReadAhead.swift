internal import BlockIO
internal import Ext4Format
internal import Threads

/// Reads consecutive log blocks ahead of their use, in whole pieces and in order, round the end of the ring. Several
/// threads read, so that the device has the next request at hand when it has answered one. They end with the object.
final class LogReadAhead {
    private let work: Work
    private let threads: [Thread]
    private let ring: Range<UInt32>
    private var position: UInt32

    private static let threadCount = 3

    /// From `position` on, `count` blocks at most.
    init(_ log: LogArea, from position: UInt32, count: Int, in ring: Range<UInt32>, _ memory: LogMemory) {
        self.position = position
        self.ring = ring
        let work = Work(log, from: position, count: count, in: ring, memory)
        self.work = work
        threads = (0..<Self.threadCount).map { _ in Thread(name: "jext4-readlog") { work.run() } }
    }

    deinit {
        work.stop()
        for thread in threads { thread.join() }
        work.closeRest()
    }

    /// What is on its way still comes.
    func readNoFurther() { work.claimNoMore() }

    /// The next blocks, in a piece that is the caller's to close. Nil at the end, and where a piece could not be read:
    /// only a read of single blocks tells whether one that matters is bad.
    func next() -> (range: Range<UInt32>, piece: LogMemory.Piece)? {
        guard let next = work.take(at: position) else { return nil }
        position = next.range.upperBound == ring.upperBound ? ring.lowerBound : next.range.upperBound
        return next
    }
}

/// What the reading threads and the one that uses the blocks share.
private final class Work: Sendable {
    private struct State {
        /// The first block that no thread has taken on, and how many are left from there.
        var claimed: UInt32
        var left: Int
        /// Pieces claimed and not taken.
        var aheadCount = 0
        /// By first block: read, or failed (nil).
        var done: [UInt32: (range: Range<UInt32>, piece: LogMemory.Piece?)] = [:]
        var isStopped = false
    }
    private let log: LogArea
    private let ring: Range<UInt32>
    private let memory: LogMemory
    private let state: Monitor<State>

    /// One for each thread and one that is ready: 8 MiB at most.
    private static let aheadLimit = 4

    init(_ log: LogArea, from position: UInt32, count: Int, in ring: Range<UInt32>, _ memory: LogMemory) {
        self.log = log
        self.ring = ring
        self.memory = memory
        state = Monitor(State(claimed: position, left: count))
    }

    func run() {
        while let range = claim() {
            let piece = memory.open()
            var isRead = true
            do throws(Ext4Error) {
                try log.read(range.lowerBound, count: range.count, into: piece.buffer)
            } catch {
                isRead = false
                memory.close(piece)
            }
            state.withLock { $0.done[range.lowerBound] = (range, isRead ? piece : nil) }
            state.notifyAll()
        }
    }

    /// Nil when nothing is left.
    private func claim() -> Range<UInt32>? {
        state.wait { state -> Range<UInt32>?? in
            guard !state.isStopped, state.left > 0 else { return .some(nil) }
            guard state.aheadCount < Self.aheadLimit else { return nil }
            let first = state.claimed
            let count = min(memory.pieceBlockCount, state.left, Int(ring.upperBound - first))
            let end = first + UInt32(count)
            state.claimed = end == ring.upperBound ? ring.lowerBound : end
            state.left -= count
            state.aheadCount += 1
            return first..<end
        }
    }

    func take(at position: UInt32) -> (range: Range<UInt32>, piece: LogMemory.Piece)? {
        let taken = state.wait { state -> (range: Range<UInt32>, piece: LogMemory.Piece?)?? in
            if let done = state.done.removeValue(forKey: position) {
                state.aheadCount -= 1
                return done
            }
            return state.left <= 0 && state.aheadCount == 0 ? .some(nil) : nil
        }
        state.notifyAll()
        guard let taken, let piece = taken.piece else { return nil }
        return (taken.range, piece)
    }

    func claimNoMore() { state.withLock { $0.left = 0 } }

    func stop() {
        state.withLock { $0.isStopped = true }
        state.notifyAll()
    }

    /// When no thread reads any more.
    func closeRest() {
        let rest = state.withLock { $0.done.values.compactMap(\.piece) }
        for piece in rest { memory.close(piece) }
    }
}
