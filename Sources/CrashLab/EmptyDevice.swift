package import BlockIO
package import Ext4Format

/// A disk of zeros, to lay an overlay on: what a log that begins before mkfs is applied to. It cannot be written.
package final class EmptyDevice: BlockDevice {
    package let byteCount: UInt64
    package let sectorByteCount: Int
    package var isReadOnly: Bool { true }

    /// Without a size it is larger than any disk.
    package init(byteCount: UInt64 = 1 << 60, sectorByteCount: Int) {
        self.byteCount = byteCount
        self.sectorByteCount = sectorByteCount
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try checkRange("read", at: offset, count: bytes.byteCount)
        bytes.fill(0..<bytes.byteCount, with: 0)
    }
    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        throw .io(errno: 30, operation: "write", offset: offset, count: bytes.byteCount)
    }
    package func flush() throws(Ext4Error) {}
}
