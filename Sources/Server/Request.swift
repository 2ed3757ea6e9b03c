internal import CFuse3
internal import CFuseShims
internal import Ext4Format
internal import FileSystem
internal import Glibc

/// One request of the kernel. Answered exactly once: replying consumes it, and dropping it answers EIO instead of
/// leaving the caller to hang.
@safe struct Request: ~Copyable {
    private let raw: fuse_req_t
    private let owner: Unmanaged<Session>

    init(_ raw: fuse_req_t?) {
        guard let raw = unsafe raw, let context = unsafe fuse_req_userdata(raw) else {
            preconditionFailure("libfuse passed no request")
        }
        unsafe self.raw = unsafe raw
        unsafe owner = unsafe .fromOpaque(context)
    }

    deinit { unsafe fuse_reply_err(raw, EIO) }

    var session: Session { unsafe owner.takeUnretainedValue() }
    var fileSystem: FileSystem { unsafe owner._withUnsafeGuaranteedRef { $0.fileSystem } }

    /// Who asks. The umask counts only for operations that make something.
    var caller: Caller {
        guard let context = unsafe fuse_req_ctx(raw) else { preconditionFailure("a request without a context") }
        return unsafe Caller(
            uid: context.pointee.uid, gid: context.pointee.gid,
            umask: UInt16(truncatingIfNeeded: context.pointee.umask & 0o777))
    }

    /// The user and the thread that asks.
    var callerProcess: (user: uid_t, id: pid_t) {
        guard let context = unsafe fuse_req_ctx(raw) else { preconditionFailure("a request without a context") }
        return unsafe (context.pointee.uid, context.pointee.pid)
    }

    /// Numbers of capabilities(7).
    enum Capability: UInt64 {
        /// CAP_FOWNER, CAP_FSETID, CAP_LINUX_IMMUTABLE and CAP_SYS_ADMIN.
        case actAsOwner = 3
        case keepSetID = 4
        case fixFiles = 9
        case administer = 21
    }

    /// Whether the caller has it where the server runs.
    func holds(_ capability: Capability) -> Bool {
        jext4_capabilities(callerProcess.id) & 1 << capability.rawValue != 0
    }

    consuming func fail(_ number: CInt) {
        unsafe fuse_reply_err(raw, number)
        discard self
    }

    consuming func fail(_ error: Ext4Error) {
        session.report(error)
        fail(error.systemNumber)
    }

    consuming func succeed() {
        unsafe fuse_reply_err(raw, 0)
        discard self
    }

    /// Ends a request to which the kernel expects no answer.
    consuming func finish() {
        unsafe fuse_reply_none(raw)
        discard self
    }

    /// Where `fuse_attr.flags`, which libfuse leaves 0, lie in `fuse_entry_out` and in `fuse_attr_out`.
    private static var flagsInEntry: Int { 124 }
    private static var flagsInAttributes: Int { 100 }

    private static func parameters(_ attributes: Attributes, _ node: fuse_ino_t, _ session: Session) -> fuse_entry_param
    {
        var entry = fuse_entry_param()
        entry.ino = node
        entry.generation = UInt64(attributes.generation)
        entry.attr = attributes.status(blockByteCount: session.blockByteCount)
        entry.attr_timeout = Validity.attributeSeconds
        entry.entry_timeout = Validity.entrySeconds
        return entry
    }

    /// Gives the kernel one reference to the inode, which `attributes` came with.
    consuming func answer(entry attributes: Attributes) {
        guard let node = NodeID.node(attributes.inode) else {
            return fail(.corrupt("directory entry", where: "inode 1"))
        }
        var entry = Self.parameters(attributes, node, session)
        jext4_add_attribute_flags(Self.flagsInEntry, session.iomap.flags(of: attributes))
        if unsafe fuse_reply_entry(raw, &entry) == -ENOENT { fileSystem.forget(attributes.inode, count: 1) }
        discard self
    }

    consuming func answer(created attributes: Attributes, _ file: UnsafeMutablePointer<fuse_file_info>?) {
        guard let node = NodeID.node(attributes.inode) else { return fail(.corrupt("new inode", where: "inode 1")) }
        var entry = Self.parameters(attributes, node, session)
        jext4_add_attribute_flags(Self.flagsInEntry, session.iomap.flags(of: attributes))
        if unsafe fuse_reply_create(raw, &entry, file) == -ENOENT { fileSystem.forget(attributes.inode, count: 1) }
        discard self
    }

    /// There is no such name, and the kernel may remember that.
    consuming func answerNoEntry() {
        var entry = fuse_entry_param()
        entry.entry_timeout = Validity.entrySeconds
        unsafe fuse_reply_entry(raw, &entry)
        discard self
    }

    consuming func answer(_ attributes: Attributes) {
        var status = attributes.status(blockByteCount: session.blockByteCount)
        jext4_add_attribute_flags(Self.flagsInAttributes, session.iomap.flags(of: attributes))
        unsafe fuse_reply_attr(raw, &status, Validity.attributeSeconds)
        discard self
    }

    consuming func answer(opened file: UnsafeMutablePointer<fuse_file_info>?) {
        unsafe fuse_reply_open(raw, file)
        discard self
    }

    consuming func answer(written count: Int) {
        unsafe fuse_reply_write(raw, count)
        discard self
    }

    /// An ioctl that gives nothing back.
    consuming func answerControl() {
        unsafe fuse_reply_ioctl(raw, 0, nil, 0)
        discard self
    }

    /// An ioctl that gives four bytes back.
    consuming func answerControl(word: UInt32) {
        var word = word
        unsafe answerControl(bytes: &word, count: MemoryLayout<UInt32>.size)
    }

    /// An ioctl that gives as many bytes back as its number says.
    consuming func answerControl(bytes: UnsafeRawPointer, count: Int) {
        unsafe fuse_reply_ioctl(raw, 0, bytes, count)
        discard self
    }

    consuming func answer(block: UInt64) {
        unsafe fuse_reply_bmap(raw, block)
        discard self
    }

    consuming func answer(position: UInt64) {
        unsafe fuse_reply_lseek(raw, off_t(truncatingIfNeeded: position))
        discard self
    }

    /// The first `count` bytes of the worker's scratch memory.
    consuming func answer(scratch count: Int) {
        guard let worker = unsafe jext4_worker() else { preconditionFailure("a request outside of a worker") }
        unsafe fuse_reply_buf(raw, worker.pointee.scratch.assumingMemoryBound(to: CChar.self), count)
        discard self
    }

    consuming func answer(_ bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { bytes in
            _ = unsafe fuse_reply_buf(raw, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        discard self
    }

    /// getxattr(2) and listxattr(2): the count alone when `room` is 0, ERANGE when the bytes do not fit.
    consuming func answer(_ bytes: [UInt8], room: Int) {
        if room == 0 {
            unsafe fuse_reply_xattr(raw, bytes.count)
            discard self
        } else if bytes.count > room {
            fail(ERANGE)
        } else {
            answer(bytes)
        }
    }

    consuming func answer(_ statistics: VolumeStatistics) {
        var status = statvfs()
        status.f_bsize = UInt(statistics.blockByteCount)
        status.f_frsize = UInt(statistics.blockByteCount)
        status.f_blocks = fsblkcnt_t(statistics.blocks)
        status.f_bfree = fsblkcnt_t(statistics.freeBlocks)
        status.f_bavail = fsblkcnt_t(statistics.availableBlocks)
        status.f_files = fsfilcnt_t(statistics.inodes)
        status.f_ffree = fsfilcnt_t(statistics.freeInodes)
        status.f_favail = fsfilcnt_t(statistics.freeInodes)
        status.f_namemax = 255
        unsafe fuse_reply_statfs(raw, &status)
        discard self
    }
}

/// A request that is answered by whatever thread has the answer.
final class WaitingRequest: @unchecked Sendable {
    /// Taken by the one who answers.
    private var request: Request?

    init(_ request: consuming Request) { self.request = consume request }

    /// Called once.
    func end(with failure: Ext4Error?) {
        guard let request = request.take() else { preconditionFailure("a request was answered twice") }
        if let failure { request.fail(failure) } else { request.succeed() }
    }
}

/// The bytes of a C string, without the end mark.
func cStringBytes(_ text: UnsafePointer<CChar>?) -> [UInt8] {
    guard let text = unsafe text else { return [] }
    return unsafe [UInt8](UnsafeRawBufferPointer(start: text, count: strlen(text)))
}

extension FileName {
    init(_ text: UnsafePointer<CChar>?) throws(Ext4Error) { try unsafe self.init(cStringBytes(text)) }
}
