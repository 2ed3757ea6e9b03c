internal import Ext4Format

/// Memory that a device may transfer into directly: aligned to `alignment` bytes, of a fixed size.
///
/// No lock of its own. Whoever shares one between threads orders the accesses, as with any memory: the metadata cache
/// does so with transactions, the data path with range locks.
@safe package final class AlignedBuffer: @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    package let byteCount: Int

    /// What direct I/O may ask for on any common device.
    package static let alignment = 4096

    /// Zeroed memory. `byteCount` is positive.
    package init(byteCount: Int) {
        precondition(byteCount > 0)
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: Self.alignment)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        self.byteCount = byteCount
    }

    package convenience init(copying other: AlignedBuffer) {
        self.init(byteCount: other.byteCount)
        other.withBytes { source in withMutableBytes { $0.copy(source, at: 0) } }
    }

    deinit { unsafe base.deallocate() }

    package func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try body(unsafe RawSpan(_unsafeStart: base, byteCount: byteCount))
    }

    package func withMutableBytes<R: ~Copyable, E: Error>(
        _ body: (inout MutableRawSpan) throws(E) -> R
    ) throws(E) -> R {
        var span = unsafe MutableRawSpan(_unsafeStart: base, byteCount: byteCount)
        return try body(&span)
    }

    /// For system calls that take many buffers; valid while the buffer lives.
    var memory: UnsafeMutableRawBufferPointer { unsafe UnsafeMutableRawBufferPointer(start: base, count: byteCount) }
}
