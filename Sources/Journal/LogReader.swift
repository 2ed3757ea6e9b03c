internal import BlockIO
package import Ext4Format

/// Reads a log forward in large runs; single blocks come out of the window. Not for more than one thread.
struct LogReader {
    private let log: LogArea
    private let buffer: AlignedBuffer
    private let capacity: UInt32
    private var window: Range<UInt32> = 0..<0
    private static let windowByteCount = 1 << 20

    init(log: LogArea) {
        self.log = log
        capacity = UInt32(max(1, Self.windowByteCount / log.blockByteCount))
        buffer = AlignedBuffer(byteCount: Int(capacity) * log.blockByteCount)
    }

    /// Hands out log block `position`, reading from there to `limit` as far as the window goes when it is not at hand.
    mutating func withBlock<R>(
        _ position: UInt32, limit: UInt32, _ body: (RawSpan) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        if !window.contains(position) {
            let end = max(position + 1, min(limit, position.addingReportingOverflow(capacity).partialValue))
            window = 0..<0
            try log.read(position, count: Int(end - position), into: buffer)
            window = position..<end
        }
        let start = Int(position - window.lowerBound) * log.blockByteCount
        return try buffer.withBytes { bytes throws(Ext4Error) in
            try body(bytes.extracting(start..<start + log.blockByteCount))
        }
    }
}

extension LogArea {
    /// The journal super block as it stands on the device.
    package func readSuperBlock() throws(Ext4Error) -> JournalSuperBlock {
        let buffer = AlignedBuffer(byteCount: blockByteCount)
        try read(0, count: 1, into: buffer)
        return try buffer.withBytes { bytes throws(Ext4Error) in try JournalSuperBlock(decoding: bytes) }
    }
}
