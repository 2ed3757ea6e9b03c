internal import BlockIO
internal import Threads

/// Reads runs of blocks from the medium ahead of their use, in order. Several threads read, so that the device has the
/// next request at hand when it has answered one. They end with the object.
final class HomeReadAhead {
    private let work: Work
    private let threads: [Thread]
    private var position = 0

    private static let threadCount = 4

    /// Byte ranges of the device, none longer than `byteLimit`.
    init(_ device: any BlockDevice, _ ranges: [Range<UInt64>], byteLimit: Int) {
        let work = Work(device, ranges, byteLimit: byteLimit)
        self.work = work
        threads = (0..<Self.threadCount).map { _ in Thread(name: "jext4-readhome") { work.run() } }
    }

    deinit {
        work.stop()
        for thread in threads { thread.join() }
    }

    /// Hands out the next range, and whether it could be read.
    func next<R>(_ body: (AlignedBuffer, Bool) -> R) -> R {
        let (buffer, isRead) = work.take(position)
        position += 1
        defer { work.giveBack(buffer) }
        return body(buffer, isRead)
    }
}

/// What the reading threads and the one that uses the blocks share.
private final class Work: Sendable {
    private struct State {
        /// The first range that no thread has taken on.
        var claimed = 0
        var free: [AlignedBuffer]
        /// By range, with whether it could be read.
        var done: [Int: (AlignedBuffer, Bool)] = [:]
        var isStopped = false
    }
    private let device: any BlockDevice
    private let ranges: [Range<UInt64>]
    private let state: Monitor<State>

    /// One for each thread, one that is in use and one that is ready.
    private static let bufferCount = 6

    init(_ device: any BlockDevice, _ ranges: [Range<UInt64>], byteLimit: Int) {
        self.device = device
        self.ranges = ranges
        let buffers = (0..<min(Self.bufferCount, ranges.count)).map { _ in AlignedBuffer(byteCount: byteLimit) }
        state = Monitor(State(free: buffers))
    }

    func run() {
        while let (index, buffer) = claim() {
            let range = ranges[index]
            let isRead = device.readMedium(into: buffer, count: range.count, at: range.lowerBound)
            state.withLock { $0.done[index] = (buffer, isRead) }
            state.notifyAll()
        }
    }

    /// Nil when nothing is left.
    private func claim() -> (Int, AlignedBuffer)? {
        state.wait { state -> (Int, AlignedBuffer)?? in
            guard !state.isStopped, state.claimed < ranges.count else { return .some(nil) }
            guard let buffer = state.free.popLast() else { return nil }
            state.claimed += 1
            return (state.claimed - 1, buffer)
        }
    }

    func take(_ index: Int) -> (AlignedBuffer, Bool) { state.wait { $0.done.removeValue(forKey: index) } }

    func giveBack(_ buffer: AlignedBuffer) {
        state.withLock { $0.free.append(buffer) }
        state.notifyAll()
    }

    func stop() {
        state.withLock { $0.isStopped = true }
        state.notifyAll()
    }
}
