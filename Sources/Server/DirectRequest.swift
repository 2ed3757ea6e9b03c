internal import CFuse3
internal import CFuseShims
internal import CLinux
internal import Ext4Format
internal import FileSystem
internal import Glibc

/// A request that libfuse 3.14 does not know, or not in full, taken before libfuse sees it and answered straight to the
/// kernel. All numbers are in the byte order of the machine.
@safe struct DirectRequest {
    let operation: Operation
    let unique: UInt64
    let node: UInt64
    let caller: Caller
    let body: UnsafeRawBufferPointer

    enum Operation: UInt32 {
        case setxattr = 21
        case interrupt = 36
        case syncfs = 50
        case statx = 52
        /// fuse-iomap.
        case freeze = 4089
        case thaw = 4090
        case shutDown = 4091
        case iomapConfigure = 4092
        case iomapComplete = 4093
        case iomapBegin = 4094
        case iomapEnd = 4095
    }

    /// `fuse_in_header`, 40 bytes.
    private enum Layout {
        static var operation: Int { 4 }
        static var unique: Int { 8 }
        static var node: Int { 16 }
        static var uid: Int { 24 }
        static var gid: Int { 28 }
        static var byteCount: Int { 40 }
    }

    /// Nil when the request is one for libfuse.
    init?(_ bytes: UnsafeRawPointer, count: Int) {
        guard count >= Layout.byteCount,
            let operation = unsafe Operation(rawValue: Self.code(of: bytes))
        else { return nil }
        self.operation = operation
        unique = unsafe bytes.loadUnaligned(fromByteOffset: Layout.unique, as: UInt64.self)
        node = unsafe bytes.loadUnaligned(fromByteOffset: Layout.node, as: UInt64.self)
        caller = unsafe Caller(
            uid: bytes.loadUnaligned(fromByteOffset: Layout.uid, as: UInt32.self),
            gid: bytes.loadUnaligned(fromByteOffset: Layout.gid, as: UInt32.self), umask: 0)
        unsafe body = UnsafeRawBufferPointer(start: bytes + Layout.byteCount, count: count - Layout.byteCount)
    }

    /// The opcode of a request, which is a whole `fuse_in_header` at the least.
    static func code(of request: UnsafeRawPointer) -> UInt32 {
        unsafe request.loadUnaligned(fromByteOffset: Layout.operation, as: UInt32.self)
    }

    /// Makes a FUSE_TMPFILE, which libfuse does not know, the FUSE_CREATE that it is but for its name. False for any
    /// other request.
    static func makeCreate(of request: UnsafeMutableRawPointer, count: Int) -> Bool {
        let create: UInt32 = 35, temporaryFile: UInt32 = 51
        guard count >= Layout.byteCount, unsafe code(of: request) == temporaryFile else { return false }
        unsafe request.storeBytes(of: create, toByteOffset: Layout.operation, as: UInt32.self)
        return true
    }

    /// What FUSE_INIT says (`fuse_init_in`), while that is the request of the calling thread: the version of the
    /// protocol, and the flags.
    static var offer: (minorVersion: UInt32, flags: UInt64) {
        guard let request = unsafe jext4_worker()?.pointee.request else { return (0, 0) }
        func word(_ offset: Int) -> UInt32 {
            unsafe request.loadUnaligned(fromByteOffset: Layout.byteCount + offset, as: UInt32.self)
        }
        let flags = UInt64(word(12))
        return (word(4), flags & Connection.hasMoreFlags == 0 ? flags : flags | UInt64(word(16)) << 32)
    }

    /// The node that the request of the calling thread is about; nil on a thread that serves none.
    static var currentNode: fuse_ino_t? {
        unsafe jext4_worker()?.pointee.request.loadUnaligned(fromByteOffset: Layout.node, as: UInt64.self)
    }

    /// Whether the read or readdir of the calling thread may move the access time: not through a file that was opened
    /// with O_NOATIME. libfuse passes the flags of `fuse_read_in` on for files only.
    static var movesAccessTime: Bool {
        let flags = Layout.byteCount + 32
        guard let request = unsafe jext4_worker()?.pointee.request else { return true }
        return unsafe request.loadUnaligned(fromByteOffset: flags, as: CInt.self) & jext4_o_noatime == 0
    }

    func serve(_ session: Session, descriptor: CInt) {
        do throws(Ext4Error) {
            switch operation {
            case .interrupt:
                // No operation here can be broken off; the kernel then stops asking.
                send(failure: ENOSYS, descriptor)
            case .syncfs:
                try session.fileSystem.syncAll()
                send(failure: 0, descriptor)
            case .setxattr:
                try setAttribute(session)
                send(failure: 0, descriptor)
            case .statx:
                let attributes = try session.fileSystem.attributes(of: NodeID.inode(node))
                send(StatxAnswer(attributes, blockByteCount: session.blockByteCount), descriptor)
            case .freeze, .thaw, .shutDown, .iomapConfigure, .iomapComplete, .iomapBegin, .iomapEnd:
                send(try serveIomap(session, descriptor), descriptor)
            }
        } catch {
            session.report(error)
            send(failure: error.systemNumber, descriptor)
        }
    }

    /// `fuse_setxattr_in`, the name with its NUL, the value.
    private func setAttribute(_ session: Session) throws(Ext4Error) {
        /// XATTR_CREATE and XATTR_REPLACE of setxattr(2), and FUSE_SETXATTR_ACL_KILL_SGID.
        let create: UInt32 = 1, replace: UInt32 = 2, clearsSetGroupID: UInt32 = 1
        func word(_ offset: Int) -> UInt32 { unsafe body.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
        let start = session.hasExtendedSetxattr ? 16 : 8
        guard unsafe body.count > start else { throw .posix(EINVAL) }
        let flags = word(4), extra = session.hasExtendedSetxattr ? word(8) : 0
        let rest = unsafe UnsafeRawBufferPointer(rebasing: body[start...])
        guard flags & ~(create | replace) == 0, let end = unsafe rest.firstIndex(of: 0),
            rest.count - end - 1 >= Int(word(0))
        else { throw .posix(EINVAL) }
        let value = unsafe [UInt8](rest[(end + 1)...].prefix(Int(word(0))))
        let name = unsafe [UInt8](rest[..<end]), inode = NodeID.inode(node)
        try session.fileSystem.setExtendedAttribute(
            name, of: inode, to: value, create: flags & create != 0, replace: flags & replace != 0,
            clearingSetGroupID: extra & clearsSetGroupID != 0, by: caller)
        if name == FileSystem.outOfPlaceAttribute { session.iomap.forget(inode) }
    }

    /// `fuse_out_header`: length of the whole answer, negative errno, and the request's number.
    private struct Header {
        var count: UInt32
        var failure: Int32
        var unique: UInt64
    }

    private func send(failure number: CInt, _ descriptor: CInt) {
        var header = Header(count: UInt32(MemoryLayout<Header>.size), failure: -number, unique: unique)
        // ENOENT: the request was given up meanwhile. ENODEV: the connection is gone. Nobody is left to tell.
        _ = unsafe jext4_send_answer(descriptor, &header, MemoryLayout<Header>.size)
    }

    /// FUSE_NOTIFY_INC_EPOCH: every name that the kernel remembers is to be looked up again. Kernels before 6.16 do not
    /// know it.
    static func sendNewEpoch(to descriptor: CInt) { send(notice: 8, [], to: descriptor) }

    /// Tells the kernel something that answers no request.
    static func send(notice code: Int32, _ body: [UInt8], to descriptor: CInt) {
        let header = Header(count: UInt32(MemoryLayout<Header>.size + body.count), failure: code, unique: 0)
        let message = unsafe withUnsafeBytes(of: header) { unsafe [UInt8]($0) } + body
        _ = unsafe write(descriptor, message, message.count)
    }

    private func send(_ answer: [UInt8], _ descriptor: CInt) {
        let headerCount = MemoryLayout<Header>.size
        unsafe withUnsafeTemporaryAllocation(byteCount: headerCount + answer.count, alignment: 8) { memory in
            let header = Header(count: UInt32(memory.count), failure: 0, unique: unique)
            unsafe memory.storeBytes(of: header, as: Header.self)
            unsafe UnsafeMutableRawBufferPointer(rebasing: memory[headerCount...]).copyBytes(from: answer)
            _ = unsafe jext4_send_answer(descriptor, memory.baseAddress, memory.count)
        }
    }

    private func send(_ answer: StatxAnswer, _ descriptor: CInt) {
        let headerCount = MemoryLayout<Header>.size
        unsafe withUnsafeTemporaryAllocation(byteCount: headerCount + StatxAnswer.byteCount, alignment: 8) { memory in
            unsafe memory.initializeMemory(as: UInt8.self, repeating: 0)
            let header = Header(count: UInt32(memory.count), failure: 0, unique: unique)
            unsafe memory.storeBytes(of: header, as: Header.self)
            unsafe answer.store(in: UnsafeMutableRawBufferPointer(rebasing: memory[headerCount...]))
            _ = unsafe jext4_send_answer(descriptor, memory.baseAddress, memory.count)
        }
    }
}

/// `fuse_statx_out`: what GETATTR cannot say is the time of creation.
struct StatxAnswer {
    static var byteCount: Int { 32 + 256 }
    private let attributes: Attributes
    private let blockByteCount: Int

    init(_ attributes: Attributes, blockByteCount: Int) {
        self.attributes = attributes
        self.blockByteCount = blockByteCount
    }

    /// Offsets in `fuse_statx_out`; the `fuse_statx` in it starts at 32.
    private enum Layout {
        static var validSeconds: Int { 0 }
        static var mask: Int { 32 }
        static var blockByteCount: Int { 36 }
        static var linkCount: Int { 48 }
        static var uid: Int { 52 }
        static var gid: Int { 56 }
        static var mode: Int { 60 }
        static var inode: Int { 64 }
        static var size: Int { 72 }
        static var sectors: Int { 80 }
        static var access: Int { 96 }
        static var creation: Int { 112 }
        static var change: Int { 128 }
        static var modification: Int { 144 }
        static var deviceMajor: Int { 160 }
        static var deviceMinor: Int { 164 }
    }
    /// STATX_BASIC_STATS and STATX_BTIME.
    private static var given: UInt32 { 0xfff }

    /// `bytes` are zeros and `byteCount` long.
    func store(in bytes: UnsafeMutableRawBufferPointer) {
        func put<Value: BitwiseCopyable>(_ value: Value, _ offset: Int) {
            unsafe bytes.storeBytes(of: value, toByteOffset: offset, as: Value.self)
        }
        func put(_ time: Timestamp, _ offset: Int) {
            put(time.seconds, offset)
            put(time.nanoseconds, offset + 8)
        }
        put(UInt64(Validity.attributeSeconds), Layout.validSeconds)
        put(Self.given, Layout.mask)
        put(UInt32(blockByteCount), Layout.blockByteCount)
        put(attributes.linkCount, Layout.linkCount)
        put(attributes.uid, Layout.uid)
        put(attributes.gid, Layout.gid)
        put(attributes.mode, Layout.mode)
        put(UInt64(attributes.inode.rawValue), Layout.inode)
        put(attributes.size, Layout.size)
        put(attributes.sectorCount, Layout.sectors)
        put(attributes.access, Layout.access)
        put(attributes.creation, Layout.creation)
        put(attributes.change, Layout.change)
        put(attributes.modification, Layout.modification)
        put(attributes.deviceMajor, Layout.deviceMajor)
        put(attributes.deviceMinor, Layout.deviceMinor)
    }
}
