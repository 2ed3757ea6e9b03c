package import Ext4Format
internal import CLinux
internal import Glibc
internal import Synchronization

/// An image file or a block device, by pread and pwrite.
///
/// Writes go through the page cache, which answers at once and writes them in good order; the writing of large ones is
/// started at once as well, so that the device works while the next one is copied. A flush waits for all. Large reads
/// are direct where the file system below allows it and the page cache does not hold the range: no copy, and no second
/// copy kept. The kernel keeps the two coherent. Small reads ask for no readahead, since what is worth reading ahead is
/// known above.
///
/// All of that changes with `DirectIO.always`: no page of it is in the cache.
package final class FileDevice: BlockDevice {
    /// What goes past the page cache.
    package enum DirectIO {
        case never
        /// Where it is to be had.
        case largeReads
        /// For a device that somebody else writes too, past the cache.
        case always
    }

    package let byteCount: UInt64
    package let sectorByteCount: Int
    package let isReadOnly: Bool
    private let buffered: CInt
    /// -1 where direct I/O is not to be had, or not wanted.
    private let direct: CInt
    private let usesCache: Bool
    /// Of the place and the count of a direct transfer, in bytes: more than a sector of ours where the file lies on a
    /// disk with larger ones.
    private let directAlignment: UInt64
    /// What any common disk takes, where the kernel does not tell.
    private static let safeAlignment: UInt64 = 4096
    /// What is large. Measured on a virtual disk: below, the wait for the device costs more than the copy.
    private static let largeByteCount = 64 << 10
    /// The byte of the file where the volume starts (-o offset=).
    private let start: UInt64

    /// Opens `path`. `start` is a byte offset, a multiple of 512. A missing or unreadable file is `.io` with its errno.
    package init(
        path: String, readOnly: Bool, direct: DirectIO = .largeReads, start: UInt64 = 0
    ) throws(Ext4Error) {
        let access = (readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC
        let fd = unsafe open(path, access)
        guard fd >= 0 else { throw .io(errno: errno, operation: "open of \(path)", offset: 0, count: 0) }
        buffered = fd
        self.direct = direct == .never ? -1 : unsafe open(path, access | jext4_o_direct)
        let cause = errno
        usesCache = direct != .always
        let alignment = jext4_direct_alignment(fd)
        directAlignment = alignment > 0 ? UInt64(alignment) : Self.safeAlignment
        posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM)
        isReadOnly = readOnly
        self.start = start
        do throws(Ext4Error) {
            let geometry = try Self.geometry(of: fd, path: path)
            guard geometry.byteCount >= start else { throw .refused("offset \(start) lies past the end of \(path)") }
            byteCount = (geometry.byteCount - start) / 512 * 512
            sectorByteCount = geometry.sector
            guard usesCache || self.direct >= 0 else {
                throw Ext4Error.io(errno: cause, operation: "direct open of \(path)", offset: 0, count: 0)
            }
        } catch {
            close(fd)
            if self.direct >= 0 { close(self.direct) }
            throw error
        }
    }

    /// IOV_MAX of Linux: the most parts of one gathered write.
    private static let vectorLimit = 1024

    deinit {
        close(buffered)
        if direct >= 0 { close(direct) }
    }

    private var writing: CInt { usesCache ? buffered : direct }

    private func startWriting(_ count: Int, at offset: UInt64) {
        // A hint: the flush waits for whatever has not been started.
        guard usesCache, count >= Self.largeByteCount else { return }
        _ = jext4_start_writing(buffered, off_t(start + offset), off_t(count))
    }

    private static func geometry(of fd: CInt, path: String) throws(Ext4Error) -> (byteCount: UInt64, sector: Int) {
        var status = stat()
        guard unsafe fstat(fd, &status) == 0 else { throw .io(errno: errno, operation: "fstat", offset: 0, count: 0) }
        switch status.st_mode & S_IFMT {
        case S_IFREG: return (UInt64(status.st_size), 512)
        case S_IFBLK:
            var bytes: UInt64 = 0
            var sector: CInt = 512
            let getSize: CUnsignedLong = 0x8008_1272, getSectorSize: CUnsignedLong = 0x1268
            guard unsafe ioctl(fd, getSize, &bytes) == 0, unsafe ioctl(fd, getSectorSize, &sector) == 0 else {
                throw .io(errno: errno, operation: "size of \(path)", offset: 0, count: 0)
            }
            return (bytes, Int(sector))
        default: throw .refused("\(path) is neither a regular file nor a block device")
        }
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try checkRange("read", at: offset, count: bytes.byteCount)
        try unsafe bytes.withUnsafeMutableBytes { memory throws(Ext4Error) in
            let isDirect = !usesCache || paysDirectly(at: offset, count: memory.count)
            let descriptor = isDirect ? direct : buffered
            guard unsafe needsBounce(memory.baseAddress, descriptor) else {
                return try unsafe transfer("read", memory, at: offset) { unsafe pread(descriptor, $0, $1, $2) }
            }
            let bounce = AlignedBuffer(byteCount: memory.count)
            try unsafe transfer("read", bounce.memory, at: offset) { unsafe pread(descriptor, $0, $1, $2) }
            unsafe memory.copyMemory(from: UnsafeRawBufferPointer(bounce.memory))
        }
    }

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try checkRange("write", at: offset, count: bytes.byteCount)
        try unsafe bytes.withUnsafeBytes { source throws(Ext4Error) in
            guard unsafe needsBounce(source.baseAddress, writing) else {
                let memory = unsafe UnsafeMutableRawBufferPointer(mutating: source)
                return try unsafe transfer("write", memory, at: offset) { unsafe put($0, $1, $2, mode) }
            }
            let bounce = AlignedBuffer(byteCount: source.count)
            unsafe bounce.memory.copyMemory(from: source)
            try unsafe transfer("write", bounce.memory, at: offset) { unsafe put($0, $1, $2, mode) }
        }
        startWriting(bytes.byteCount, at: offset)
    }

    package func write(gathering parts: [BufferPart], at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        let total = parts.reduce(0) { $0 + $1.byteCount }
        try checkRange("write", at: offset, count: total)
        var position = offset
        var rest = parts[...]
        while !rest.isEmpty {
            let some = rest.prefix(Self.vectorLimit)
            rest = rest.dropFirst(some.count)
            let count = some.reduce(0) { $0 + $1.byteCount }
            let vectors = unsafe some.map { unsafe iovec(iov_base: $0.memory.baseAddress, iov_len: $0.byteCount) }
            let done = unsafe jext4_pwritev(
                writing, vectors, CInt(vectors.count), off_t(start + position), mode == .throughToMedia)
            if done != count {
                // A short or interrupted gather is rare: finish it part by part, where retries are handled.
                var start = position
                for part in some {
                    try part.withBytes { bytes throws(Ext4Error) in try write(bytes, at: start, mode: mode) }
                    start += UInt64(part.byteCount)
                }
            }
            position += UInt64(count)
        }
        startWriting(total, at: offset)
    }

    package func flush() throws(Ext4Error) {
        guard fdatasync(buffered) == 0 else { throw .io(errno: errno, operation: "flush", offset: 0, count: 0) }
    }

    package func discard(at offset: UInt64, count: UInt64) throws(Ext4Error) {
        // A hint: file systems and devices without hole punching refuse it, and nothing is lost.
        _ = jext4_punch(buffered, off_t(start + offset), off_t(count))
    }

    /// Whether a read had better go past the page cache, and can.
    private func paysDirectly(at offset: UInt64, count: Int) -> Bool {
        direct >= 0 && count >= Self.largeByteCount
            && (start + offset) % directAlignment == 0 && UInt64(count) % directAlignment == 0
            && !isAtHand(at: offset, count: count)
    }

    package func isAtHand(at offset: UInt64, count: Int) -> Bool {
        usesCache && jext4_cached_bytes(buffered, off_t(start + offset), count) >= count
    }

    private func needsBounce(_ base: UnsafeRawPointer?, _ descriptor: CInt) -> Bool {
        guard descriptor == direct, let base = unsafe base else { return false }
        return UInt(bitPattern: base) % 512 != 0
    }

    private func put(_ memory: UnsafeRawPointer, _ count: Int, _ offset: off_t, _ mode: WriteMode) -> Int {
        guard mode == .throughToMedia else { return unsafe pwrite(writing, memory, count, offset) }
        var vector = unsafe iovec(iov_base: UnsafeMutableRawPointer(mutating: memory), iov_len: count)
        return unsafe jext4_pwritev(writing, &vector, 1, offset, true)
    }

    /// Repeats `call` over what is left until all is done; EINTR and short transfers are no errors.
    private func transfer(
        _ operation: String, _ memory: UnsafeMutableRawBufferPointer, at offset: UInt64,
        _ call: (UnsafeMutableRawPointer, Int, off_t) -> Int
    ) throws(Ext4Error) {
        guard let base = memory.baseAddress else { return }
        var done = 0
        while done < memory.count {
            let result = unsafe call(base + done, memory.count - done, off_t(start + offset) + off_t(done))
            if result < 0 && errno == EINTR { continue }
            guard result > 0 else {
                let code = result < 0 ? errno : EIO
                throw .io(errno: code, operation: operation, offset: offset, count: memory.count)
            }
            done += result
        }
    }
}
