internal import Ext4Format
internal import Glibc
internal import Synchronization

/// Memory that a device may transfer into directly: aligned to `alignment` bytes (smaller blocks to their own size), of
/// a fixed size.
///
/// No lock of its own. Whoever shares one between threads orders the accesses, as with any memory: the metadata cache
/// does so with transactions, the data path with range locks.
@safe @usableFromInline package final class AlignedBuffer: @unchecked Sendable {
    @usableFromInline let base: UnsafeMutableRawPointer
    @usableFromInline package let byteCount: Int

    /// What direct I/O may ask for on any common device.
    package static let alignment = 4096

    /// Zeroed memory. `byteCount` is positive.
    package init(byteCount: Int) {
        precondition(byteCount > 0)
        unsafe base = AlignedMemory.allocateZeroed(byteCount)
        self.byteCount = byteCount
    }

    package convenience init(copying other: AlignedBuffer) {
        self.init(byteCount: other.byteCount)
        other.withBytes { source in withMutableBytes { $0.copy(source, at: 0) } }
    }

    deinit { unsafe AlignedMemory.free(base, byteCount) }

    @inlinable package func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        defer { withExtendedLifetime(self) {} }
        return try body(unsafe RawSpan(_unsafeStart: base, byteCount: byteCount))
    }

    @inlinable package func withMutableBytes<R: ~Copyable, E: Error>(
        _ body: (inout MutableRawSpan) throws(E) -> R
    ) throws(E) -> R {
        defer { withExtendedLifetime(self) {} }
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

/// Some bytes of a buffer, for a write that gathers them from many places.
package struct BufferPart: Sendable {
    package let buffer: AlignedBuffer
    package let range: Range<Int>
    package var byteCount: Int { range.count }

    /// Traps when `range` does not lie within the buffer.
    package init(_ buffer: AlignedBuffer, _ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= buffer.byteCount)
        self.buffer = buffer
        self.range = range
    }

    package func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try buffer.withBytes { bytes throws(E) in try body(bytes.extracting(range)) }
    }

    /// For system calls that take many parts; valid while the buffer lives.
    var memory: UnsafeMutableRawBufferPointer { unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.memory[range]) }
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

    static func allocateZeroed(_ byteCount: Int) -> UnsafeMutableRawPointer {
        // The system gives zeros itself, and only where they are touched.
        if byteCount >= hugeByteCount { return unsafe map(byteCount) }
        let pointer = unsafe allocate(byteCount)
        unsafe pointer.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        return unsafe pointer
    }

    private static func allocate(_ byteCount: Int) -> UnsafeMutableRawPointer {
        guard let index = sizeClass(byteCount) else {
            return .allocate(byteCount: byteCount, alignment: AlignedBuffer.alignment)
        }
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
    private static func map(_ byteCount: Int) -> UnsafeMutableRawPointer {
        let count = mappedByteCount(byteCount)
        let mapped = unsafe mmap(
            nil, count + hugeByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let mapped = unsafe mapped, unsafe mapped != MAP_FAILED else { preconditionFailure("no memory") }
        // Huge pages lie at multiples of their size: what is before the first and behind the last goes back.
        let before = (hugeByteCount - Int(bitPattern: mapped) % hugeByteCount) % hugeByteCount
        let pointer = unsafe mapped + before
        if before > 0 { unsafe munmap(mapped, before) }
        unsafe munmap(pointer + count, hugeByteCount - before)
        // A hint: without huge pages it is slower.
        _ = unsafe madvise(pointer, count, MADV_HUGEPAGE)
        return unsafe pointer
    }

    private static func mappedByteCount(_ byteCount: Int) -> Int {
        (byteCount + AlignedBuffer.alignment - 1) / AlignedBuffer.alignment * AlignedBuffer.alignment
    }

    static func free(_ pointer: UnsafeMutableRawPointer, _ byteCount: Int) {
        if byteCount >= hugeByteCount {
            unsafe munmap(pointer, mappedByteCount(byteCount))
            return
        }
        guard let index = sizeClass(byteCount) else { return unsafe pointer.deallocate() }
        let address = UInt(bitPattern: pointer)
        free.withLock { $0[index].append(address) }
    }
}
