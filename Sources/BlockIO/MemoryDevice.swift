package import Ext4Format
internal import Synchronization

/// A disk in memory, zeroed at first. For tests and for images small enough to copy.
package final class MemoryDevice: BlockDevice {
    package let byteCount: UInt64
    package let sectorByteCount: Int
    package var isReadOnly: Bool { false }
    private let content: Mutex<[UInt8]>

    package init(byteCount: Int, sectorByteCount: Int = 512) {
        precondition(byteCount % sectorByteCount == 0)
        self.byteCount = UInt64(byteCount)
        self.sectorByteCount = sectorByteCount
        content = Mutex([UInt8](repeating: 0, count: byteCount))
    }

    package init(_ bytes: [UInt8], sectorByteCount: Int = 512) {
        precondition(bytes.count % sectorByteCount == 0)
        byteCount = UInt64(bytes.count)
        self.sectorByteCount = sectorByteCount
        content = Mutex(bytes)
    }

    /// All bytes as they stand.
    package var bytes: [UInt8] { content.withLock { $0 } }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try checkRange("read", at: offset, count: bytes.byteCount)
        let start = Int(offset), count = bytes.byteCount
        content.withLock { bytes.copy(unsafe $0.span.bytes.extracting(start..<start + count), at: 0) }
    }

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try checkRange("write", at: offset, count: bytes.byteCount)
        content.withLock { content in
            var span = content.mutableSpan
            var raw = unsafe span.mutableBytes
            raw.copy(bytes, at: Int(offset))
        }
    }

    package func flush() throws(Ext4Error) {}
}
