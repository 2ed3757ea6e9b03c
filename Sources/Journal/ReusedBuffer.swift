internal import BlockIO
internal import Synchronization

/// Memory for transfers one after the other, as large as the largest so far: most journals never carry much at once.
final class ReusedBuffer: Sendable {
    /// The most that one transfer carries.
    let byteLimit: Int
    private let buffer = Mutex<AlignedBuffer?>(nil)
    private static let leastByteCount = 16 << 10

    init(byteLimit: Int) { self.byteLimit = byteLimit }

    /// Room for `byteCount` bytes, or for `byteLimit` if that is less; what it holds is left over from its last use.
    /// Used by one thread at a time.
    func room(for byteCount: Int) -> AlignedBuffer {
        let wanted = min(byteCount, byteLimit)
        return buffer.withLock { buffer in
            if let buffer, buffer.byteCount >= wanted { return buffer }
            var size = min(Self.leastByteCount, byteLimit)
            while size < wanted { size = min(2 * size, byteLimit) }
            let larger = AlignedBuffer(byteCount: size)
            buffer = larger
            return larger
        }
    }
}
