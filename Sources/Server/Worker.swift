internal import CFuse3
internal import CFuseShims
internal import Glibc

/// The memory with which one thread receives a request and builds its answer. Used by that thread alone.
@safe final class Worker {
    private let memory: UnsafeMutableRawPointer
    private let context: UnsafeMutablePointer<jext4_worker>
    private var buffer = unsafe fuse_buf()

    private enum Layout {
        static var page: Int { 4096 }
        /// `fuse_in_header` and `fuse_write_in`: what lies before the payload of a FUSE_WRITE.
        static var writeHeaders: Int { 80 }
        /// What libfuse reads at most: the largest payload and a page for headers.
        static var request: Int { Connection.transferByteCount + page }
        /// Where the request starts, so that the payload of a write lies on a page and can go to the device as it is.
        static var start: Int { page - writeHeaders }
        static var scratch: Int { page + Connection.transferByteCount + page }
        static var total: Int { scratch + Connection.transferByteCount + page }
    }

    /// `descriptor` is the open /dev/fuse to serve. The pages are touched only as far as requests are long.
    init(descriptor: CInt) {
        unsafe memory = .allocate(byteCount: Layout.total, alignment: Layout.page)
        unsafe context = .allocate(capacity: 1)
        unsafe context.initialize(
            to: jext4_worker(
                descriptor: descriptor, request: memory + Layout.start, scratch: memory + Layout.scratch,
                scratch_size: Connection.transferByteCount + Layout.page))
        unsafe buffer.mem = memory + Layout.start
        unsafe jext4_set_worker(context)
    }

    /// Must be called on the thread that made it.
    func leave() { jext4_set_worker(nil) }

    deinit {
        unsafe context.deallocate()
        unsafe memory.deallocate()
    }

    /// Waits for a request: its length in bytes, 0 at the end of the connection, or a negative errno.
    func receive(_ session: OpaquePointer) -> CInt { unsafe fuse_session_receive_buf(session, &buffer) }

    /// Serves what `receive` got.
    func process(_ raw: OpaquePointer, _ session: Session) {
        if let request = unsafe DirectRequest(buffer.mem, count: buffer.size) {
            unsafe request.serve(session, descriptor: context.pointee.descriptor)
        } else {
            unsafe fuse_session_process_buf(raw, &buffer)
        }
    }
}
