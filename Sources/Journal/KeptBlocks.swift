internal import BlockIO
internal import Ext4Format
internal import Synchronization

/// Logged blocks that the scan keeps in memory, so that replay need not read them again. What does not fit is read
/// again: the bound decides about time alone.
final class KeptBlocks: Sendable {
    private struct State {
        var chunks: [AlignedBuffer] = []
        var free: [UInt32] = []
        var count: UInt32 = 0
    }
    private let blockByteCount: Int
    private let capacity: UInt32
    private let blocksPerChunk: UInt32
    private let state = Mutex(State())
    private static let chunkByteCount = 2 << 20

    /// Stands for a block that is not kept.
    static let none = UInt32.max

    init(blockByteCount: Int, byteCount: Int) {
        self.blockByteCount = blockByteCount
        capacity = UInt32(clamping: byteCount / blockByteCount)
        blocksPerChunk = max(1, min(capacity, UInt32(Self.chunkByteCount / blockByteCount)))
    }

    /// Where the copy lies; `none` when all places are taken.
    func keep(_ block: RawSpan) -> UInt32 {
        state.withLock { state in
            guard let place = takePlace(&state) else { return Self.none }
            let start = Int(place % blocksPerChunk) * blockByteCount
            state.chunks[Int(place / blocksPerChunk)].withMutableBytes { $0.copy(block, at: start) }
            return place
        }
    }

    private func takePlace(_ state: inout State) -> UInt32? {
        if let place = state.free.popLast() { return place }
        guard state.count < capacity else { return nil }
        if state.count == UInt32(state.chunks.count) * blocksPerChunk {
            state.chunks.append(AlignedBuffer(byteCount: Int(blocksPerChunk) * blockByteCount))
        }
        state.count += 1
        return state.count - 1
    }

    /// The place may hold another block from now on.
    func release(_ place: UInt32) {
        guard place != Self.none else { return }
        state.withLock { $0.free.append(place) }
    }

    func withBlock(_ place: UInt32, _ body: (RawSpan) -> Void) {
        let chunk = state.withLock { $0.chunks[Int(place / blocksPerChunk)] }
        let start = Int(place % blocksPerChunk) * blockByteCount
        chunk.withBytes { body($0.extracting(start..<start + blockByteCount)) }
    }
}
