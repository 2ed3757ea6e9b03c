internal import Glibc
internal import Synchronization

/// Memory for answers that are long, lent to whoever builds one. The last given back is the first lent: a thread that
/// has its own would find it out of every cache, for the kernel wakes the threads in turn.
enum ScratchPool {
    /// One huge page, so that a transfer pins one page and not hundreds.
    private static let byteCount = 2 << 20
    private static let idle = Mutex<[UInt]>([])

    static func take() -> UnsafeMutableRawPointer {
        let address = idle.withLock { $0.popLast() }
        if let address, let pointer = unsafe UnsafeMutableRawPointer(bitPattern: address) { return unsafe pointer }
        let pointer = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: byteCount)
        // A hint: with small pages it is slower.
        _ = unsafe madvise(pointer, byteCount, MADV_HUGEPAGE)
        return unsafe pointer
    }

    static func give(_ pointer: UnsafeMutableRawPointer) {
        let address = UInt(bitPattern: pointer)
        idle.withLock { $0.append(address) }
    }
}
