package import Ext4Format
internal import Synchronization

/// What was written over a device, in memory; the device below is read and never written.
///
/// Crash states are overlays, and so is what a read-only mount makes of fast commits. Only what was written costs
/// memory: 4 KiB for each 4 KiB chunk touched. A discarded range reads zeros. Nothing is ever durable: the overlay dies
/// with the process.
package final class OverlayDevice: BlockDevice {
    /// The sectors of one chunk that were written; the others belong to the base.
    private struct Chunk {
        var bytes = [UInt8](repeating: 0, count: OverlayDevice.chunkByteCount)
        /// Bit n stands for the n-th 512 bytes.
        var written: UInt8 = 0
    }
    private struct State {
        /// By byte offset divided by the size of a chunk. Values are copied on write, so that a fork shares them.
        var chunks: [UInt64: Chunk] = [:]
        /// Byte ranges that read zeros where no chunk says otherwise: sorted, apart, not empty.
        var zeroed: [Range<UInt64>] = []
    }

    private static let chunkByteCount = 4096
    private static let unitByteCount = 512
    private let base: any BlockDevice
    private let state: Mutex<State>

    package var byteCount: UInt64 { base.byteCount }
    package var sectorByteCount: Int { base.sectorByteCount }
    package var isReadOnly: Bool { false }

    /// Nobody may write `base` while the overlay is in use.
    package init(over base: any BlockDevice) {
        self.base = base
        state = Mutex(State())
    }

    private init(over base: any BlockDevice, _ contents: State) {
        self.base = base
        state = Mutex(contents)
    }

    /// An independent overlay with the same contents. Bytes are shared until one side writes them.
    package func fork() -> OverlayDevice { OverlayDevice(over: base, state.withLock { $0 }) }

    /// Memory held by written chunks, in bytes. Forks that share chunks each count them.
    package var memoryByteCount: Int { state.withLock { $0.chunks.count * Self.chunkByteCount } }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try checkRange("read", at: offset, count: bytes.byteCount)
        let range = offset..<offset + UInt64(bytes.byteCount)
        let isCovered = state.withLock { state in
            guard Self.covers(range, state.chunks) else { return false }
            Self.forEachPiece(of: range) { index, piece, at in
                guard let chunk = state.chunks[index] else { return }
                bytes.copy(unsafe chunk.bytes.span.bytes.extracting(piece), at: at)
            }
            return true
        }
        if isCovered { return }
        // The base does not change and the overlay wins, so the order against a concurrent write does not matter.
        try base.read(into: &bytes, at: offset)
        state.withLock { state in
            for zero in state.zeroed[Self.touched(state.zeroed, range)] {
                let part = zero.clamped(to: range)
                bytes.fill(Int(part.lowerBound - offset)..<Int(part.upperBound - offset), with: 0)
            }
            guard !state.chunks.isEmpty else { return }
            Self.forEachPiece(of: range) { index, piece, at in
                guard let chunk = state.chunks[index] else { return }
                if chunk.written == .max {
                    return bytes.copy(unsafe chunk.bytes.span.bytes.extracting(piece), at: at)
                }
                for unit in stride(from: piece.lowerBound, to: piece.upperBound, by: Self.unitByteCount)
                where chunk.written & Self.mask(unit) != 0 {
                    let source = unsafe chunk.bytes.span.bytes.extracting(unit..<unit + Self.unitByteCount)
                    bytes.copy(source, at: at + unit - piece.lowerBound)
                }
            }
        }
    }

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try checkRange("write", at: offset, count: bytes.byteCount)
        state.withLock { state in
            Self.forEachPiece(of: offset..<offset + UInt64(bytes.byteCount)) { index, piece, at in
                Self.put(bytes.extracting(at..<at + piece.count), into: &state.chunks[index, default: Chunk()], piece)
            }
        }
    }

    package func flush() throws(Ext4Error) {}

    package func discard(at offset: UInt64, count: UInt64) throws(Ext4Error) {
        let (end, overflow) = offset.addingReportingOverflow(count)
        let unit = UInt64(Self.unitByteCount)
        guard !overflow, end <= byteCount, offset % unit == 0, count % unit == 0 else {
            throw .io(errno: 22, operation: "discard", offset: offset, count: Int(truncatingIfNeeded: count))
        }
        guard count > 0 else { return }
        state.withLock { state in
            // A range may span terabytes: what costs time is the chunks that exist.
            let first = offset / UInt64(Self.chunkByteCount), last = (end - 1) / UInt64(Self.chunkByteCount)
            let hit =
                last - first < UInt64(state.chunks.count)
                ? Array(first...last) : state.chunks.keys.filter { $0 >= first && $0 <= last }
            for index in hit {
                guard var chunk = state.chunks.removeValue(forKey: index) else { continue }
                let start = index * UInt64(Self.chunkByteCount)
                for unit in stride(from: 0, to: Self.chunkByteCount, by: Self.unitByteCount)
                where (offset..<end).contains(start + UInt64(unit)) {
                    chunk.written &= ~Self.mask(unit)
                }
                if chunk.written != 0 { state.chunks[index] = chunk }
            }
            Self.insert(offset..<end, into: &state.zeroed)
        }
    }

    /// Calls `body` with all that no longer comes from the base: first the discarded ranges as zeros, 64 KiB at most at
    /// a time, then what was written, 512 bytes at a time, ascending. What comes later lies over what came before.
    package func forEachChange(
        _ body: (_ offset: UInt64, _ bytes: RawSpan) throws(Ext4Error) -> Void
    ) throws(Ext4Error) {
        let (chunks, zeroed) = state.withLock { ($0.chunks, $0.zeroed) }
        let zeros = [UInt8](repeating: 0, count: 65536)
        for range in zeroed {
            for offset in stride(from: range.lowerBound, to: range.upperBound, by: zeros.count) {
                let count = min(zeros.count, Int(range.upperBound - offset))
                try body(offset, unsafe zeros.span.bytes.extracting(first: count))
            }
        }
        for (index, chunk) in chunks.sorted(by: { $0.key < $1.key }) {
            for unit in stride(from: 0, to: Self.chunkByteCount, by: Self.unitByteCount)
            where chunk.written & Self.mask(unit) != 0 {
                let bytes = unsafe chunk.bytes.span.bytes.extracting(unit..<unit + Self.unitByteCount)
                try body(index * UInt64(Self.chunkByteCount) + UInt64(unit), bytes)
            }
        }
    }

    // MARK: - Pieces

    private static func mask(_ byte: Int) -> UInt8 { 1 << UInt8(byte / unitByteCount) }

    private static func put(_ bytes: RawSpan, into chunk: inout Chunk, _ piece: Range<Int>) {
        var span = chunk.bytes.mutableSpan
        var raw = unsafe span.mutableBytes
        raw.copy(bytes, at: piece.lowerBound)
        for unit in stride(from: piece.lowerBound, to: piece.upperBound, by: unitByteCount) {
            chunk.written |= mask(unit)
        }
    }

    /// Whether nothing of a range comes from the base.
    private static func covers(_ range: Range<UInt64>, _ chunks: [UInt64: Chunk]) -> Bool {
        guard !chunks.isEmpty, !range.isEmpty else { return false }
        let size = UInt64(chunkByteCount)
        return (range.lowerBound / size...(range.upperBound - 1) / size).allSatisfy { chunks[$0]?.written == .max }
    }

    /// Cuts a byte range at chunk borders: the chunk's index, the bytes within it, and where they lie in the range.
    private static func forEachPiece(of range: Range<UInt64>, _ body: (UInt64, Range<Int>, Int) -> Void) {
        let size = UInt64(chunkByteCount)
        var position = range.lowerBound
        while position < range.upperBound {
            let start = position % size
            let count = min(size - start, range.upperBound - position)
            body(position / size, Int(start)..<Int(start + count), Int(position - range.lowerBound))
            position += count
        }
    }

    /// Which of the sorted ranges share a byte with `range`.
    private static func touched(_ sorted: [Range<UInt64>], _ range: Range<UInt64>) -> Range<Int> {
        let first = partition(sorted) { $0.upperBound > range.lowerBound }
        let end = partition(sorted) { $0.lowerBound >= range.upperBound }
        return first..<max(first, end)
    }

    /// The first element for which `condition` holds; it holds for all that follow.
    private static func partition(_ sorted: [Range<UInt64>], _ condition: (Range<UInt64>) -> Bool) -> Int {
        var low = 0, high = sorted.count
        while low < high {
            let middle = (low + high) / 2
            if condition(sorted[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }

    private static func insert(_ range: Range<UInt64>, into sorted: inout [Range<UInt64>]) {
        // Neighbours that only touch are joined too.
        let first = partition(sorted) { $0.upperBound >= range.lowerBound }
        let end = max(first, partition(sorted) { $0.lowerBound > range.upperBound })
        let joined = sorted[first..<end].reduce(range) {
            min($0.lowerBound, $1.lowerBound)..<max($0.upperBound, $1.upperBound)
        }
        sorted.replaceSubrange(first..<end, with: [joined])
    }
}
