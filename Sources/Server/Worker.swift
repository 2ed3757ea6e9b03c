internal import CFuse3
internal import CFuseShims
internal import Ext4Format
internal import Glibc

/// Where a thread takes its requests from.
enum RequestSource {
    /// An open /dev/fuse. Whichever thread reads first has the next request.
    case device(CInt)
    /// The queue that the kernel keeps for one processor when FUSE goes over io_uring; the descriptor names the
    /// connection.
    case queue(Int, CInt)

    var isDevice: Bool { if case .device = self { true } else { false } }

    var descriptor: CInt {
        switch self {
        case .device(let descriptor), .queue(_, let descriptor): descriptor
        }
    }
}

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
        static var total: Int { page + request }
    }

    /// The opcodes whose answers are built in the scratch memory.
    private enum LongAnswer: UInt32 {
        case read = 15
        case readdir = 28
        case readdirplus = 44
    }

    /// The pages are touched only as far as requests are long. A ring that the kernel does not give is `.refused`.
    init(_ source: RequestSource) throws(Ext4Error) {
        unsafe memory = .allocate(byteCount: Layout.total, alignment: Layout.page)
        unsafe context = .allocate(capacity: 1)
        unsafe context.initialize(
            to: jext4_worker(
                descriptor: source.descriptor, request: memory + Layout.start, scratch: nil,
                scratch_size: Connection.transferByteCount, ring: nil, is_nameless: false))
        unsafe buffer.mem = memory + Layout.start
        if case .queue(let queue, let descriptor) = source {
            // No request that is answered from the scratch memory has a payload of its own.
            unsafe context.pointee.scratch = memory + Layout.page
            unsafe context.pointee.ring = try Self.openRing(descriptor, queue, payload: memory + Layout.page)
            jext4_stay_on(UInt32(queue))
        }
        unsafe jext4_set_worker(context)
    }

    private static func openRing(
        _ descriptor: CInt, _ queue: Int, payload: UnsafeMutableRawPointer
    ) throws(Ext4Error) -> OpaquePointer {
        guard let ring = unsafe jext4_ring_open(descriptor, UInt32(queue), payload, Layout.request) else {
            throw .refused("no io_uring: \(systemText(errno))")
        }
        return unsafe ring
    }

    /// Must be called on the thread that made it.
    func leave() { jext4_set_worker(nil) }

    deinit {
        if let ring = unsafe context.pointee.ring { unsafe jext4_ring_close(ring) }
        unsafe context.deallocate()
        unsafe memory.deallocate()
    }

    /// Waits for a request: its length in bytes, 0 at the end of the connection, or a negative errno.
    func receive(_ session: OpaquePointer) -> Int {
        guard let ring = unsafe context.pointee.ring else {
            return Int(unsafe fuse_session_receive_buf(session, &buffer))
        }
        let count = unsafe jext4_ring_receive(ring, &context.pointee.request)
        guard count > 0 else { return count }
        unsafe buffer.mem = UnsafeMutableRawPointer(mutating: context.pointee.request)
        unsafe buffer.size = count
        return count
    }

    /// Serves what `receive` got.
    func process(_ raw: OpaquePointer, _ session: Session) {
        unsafe context.pointee.is_nameless = DirectRequest.makeCreate(of: buffer.mem, count: buffer.size)
        unsafe serve(raw, session)
        // What the kernel forgets comes another way than requests: a file that was removed before may still hold what
        // is missing now. The answer has not been handed in, so the request can be served again.
        guard let ring = unsafe context.pointee.ring, unsafe jext4_ring_failure(ring) == ENOSPC else { return }
        session.waitForForgets()
        unsafe serve(raw, session)
    }

    private func serve(_ raw: OpaquePointer, _ session: Session) {
        guard unsafe context.pointee.ring == nil,
            unsafe LongAnswer(rawValue: DirectRequest.code(of: context.pointee.request)) != nil
        else {
            return unsafe dispatch(raw, session)
        }
        unsafe context.pointee.scratch = ScratchPool.take()
        defer { unsafe ScratchPool.give(context.pointee.scratch) }
        unsafe dispatch(raw, session)
    }

    private func dispatch(_ raw: OpaquePointer, _ session: Session) {
        if let request = unsafe DirectRequest(buffer.mem, count: buffer.size) {
            unsafe request.serve(session, descriptor: context.pointee.descriptor)
        } else {
            unsafe fuse_session_process_buf(raw, &buffer)
        }
    }
}
