internal import Ext4Format
internal import Glibc
internal import Synchronization

/// Memory that a device may transfer into directly: aligned to `alignment` bytes (smaller blocks to their own size), of
/// a fixed size.
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
        unsafe base = AlignedMemory.allocate(byteCount)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        self.byteCount = byteCount
    }

    package convenience init(copying other: AlignedBuffer) {
        self.init(byteCount: other.byteCount)
        other.withBytes { source in withMutableBytes { $0.copy(source, at: 0) } }
    }

    deinit { unsafe AlignedMemory.free(base, byteCount) }

    package func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try body(unsafe RawSpan(_unsafeStart: base, byteCount: byteCount))
    }

    package func withMutableBytes<R: ~Copyable, E: Error>(
        _ body: (inout MutableRawSpan) throws(E) -> R
    ) throws(E) -> R {
        var span = unsafe MutableRawSpan(_unsafeStart: base, byteCount: byteCount)
        return try body(&span)
    }

    /// Whether both hold the same bytes.
    package func isEqual(to other: AlignedBuffer) -> Bool {
        unsafe byteCount == other.byteCount && memcmp(base, other.base, byteCount) == 0
    }

    /// For system calls that take many buffers; valid while the buffer lives.
    var memory: UnsafeMutableRawBufferPointer { unsafe UnsafeMutableRawBufferPointer(start: base, count: byteCount) }
}

/// Where buffers get their memory. Blocks of the usual sizes are cut from slabs: an aligned block from malloc wastes up
/// to its own size, and the metadata cache holds thousands. A slab is never given back, so memory stays at its peak.
private enum AlignedMemory {
    private static let slabByteCount = 256 << 10
    private static let largest = 4096
    private static let hugeByteCount = 2 << 20
    /// Free blocks by size: 512, 1,024, 2,048 and 4,096 bytes.
    private static let free = Mutex<[[UInt]]>([[], [], [], []])

    private static func sizeClass(_ byteCount: Int) -> Int? {
        guard byteCount >= 512, byteCount <= largest, byteCount.nonzeroBitCount == 1 else { return nil }
        return byteCount.trailingZeroBitCount - 9
    }

    static func allocate(_ byteCount: Int) -> UnsafeMutableRawPointer {
        guard let index = sizeClass(byteCount) else { return unsafe allocateLarge(byteCount) }
        let address = free.withLock { free in
            if let address = free[index].popLast() { return address }
            let slab = UInt(
                bitPattern: UnsafeMutableRawPointer.allocate(
                    byteCount: slabByteCount, alignment: AlignedBuffer.alignment))
            free[index].append(
                contentsOf: stride(from: slab + UInt(byteCount), to: slab + UInt(slabByteCount), by: byteCount))
            return slab
        }
        guard let pointer = unsafe UnsafeMutableRawPointer(bitPattern: address) else {
            preconditionFailure("no memory")
        }
        return unsafe pointer
    }

    /// Memory of many MiB is asked for in huge pages: with small ones their faults cost more than what they are for.
    private static func allocateLarge(_ byteCount: Int) -> UnsafeMutableRawPointer {
        guard byteCount >= hugeByteCount else {
            return .allocate(byteCount: byteCount, alignment: AlignedBuffer.alignment)
        }
        let pointer = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: hugeByteCount)
        // A hint: without huge pages it is slower.
        _ = unsafe madvise(pointer, byteCount, MADV_HUGEPAGE)
        return unsafe pointer
    }

    static func free(_ pointer: UnsafeMutableRawPointer, _ byteCount: Int) {
        guard let index = sizeClass(byteCount) else { return unsafe pointer.deallocate() }
        let address = UInt(bitPattern: pointer)
        free.withLock { $0[index].append(address) }
    }
}
