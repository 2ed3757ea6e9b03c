internal import CFuse3
internal import CFuseShims
internal import Glibc

/// What libfuse calls. An operation that is missing here answers ENOSYS, which the kernel remembers: locks, which it
/// then keeps itself.
func operationTable() -> fuse_lowlevel_ops {
    var table = fuse_lowlevel_ops()
    unsafe table.`init` = serveInit
    unsafe table.destroy = serveDestroy
    unsafe table.lookup = serveLookup
    unsafe table.forget = serveForget
    unsafe table.forget_multi = serveForgetMulti
    unsafe table.getattr = serveGetattr
    unsafe table.setattr = serveSetattr
    unsafe table.readlink = serveReadlink
    unsafe table.mknod = serveMknod
    unsafe table.mkdir = serveMkdir
    unsafe table.unlink = serveUnlink
    unsafe table.rmdir = serveRmdir
    unsafe table.symlink = serveSymlink
    unsafe table.rename = serveRename
    unsafe table.link = serveLink
    unsafe table.open = serveOpen
    unsafe table.read = serveRead
    unsafe table.write = serveWrite
    unsafe table.flush = serveFlush
    unsafe table.release = serveRelease
    unsafe table.fsync = serveFsync
    unsafe table.opendir = serveOpendir
    unsafe table.readdir = serveReaddir
    unsafe table.readdirplus = serveReaddirplus
    unsafe table.fsyncdir = serveFsync
    unsafe table.statfs = serveStatfs
    unsafe table.getxattr = serveGetxattr
    unsafe table.listxattr = serveListxattr
    unsafe table.removexattr = serveRemovexattr
    unsafe table.create = serveCreate
    unsafe table.lseek = serveLseek
    unsafe table.fallocate = serveFallocate
    unsafe table.copy_file_range = serveCopyFileRange
    unsafe table.bmap = serveBmap
    unsafe table.ioctl = serveIoctl
    return table
}

/// Limits and capabilities of the connection.
enum Connection {
    /// The most bytes in one FUSE_WRITE or FUSE_READ: 256 pages, the most that kernels give by default.
    static var transferByteCount: Int { 1 << 20 }
    /// Readahead and direct requests that the kernel may have in flight.
    static var backgroundLimit: CUnsignedInt { 64 }
    /// FUSE_HANDLE_KILLPRIV_V2, which libfuse 3.14 does not know: set-id bits are ours to clear on write, truncate and
    /// chown, and the kernel need not ask for security.capability before every write.
    static var handlesPrivileges: UInt64 { 1 << 28 }
    /// FUSE_SETXATTR_EXT, unknown to it as well: the kernel says when an access list takes the set-group-id bit away.
    static var extendedSetxattr: UInt64 { 1 << 29 }
    /// FUSE_INIT_EXT: a second word of flags.
    static var hasMoreFlags: UInt64 { 1 << 30 }
    /// FUSE_OVER_IO_URING, offered where the kernel's module has enable_uring set.
    static var hasRings: UInt64 { 1 << 41 }

    /// What we want where the kernel has it.
    static var wanted: CUnsignedInt {
        let flags = [
            FUSE_CAP_ASYNC_READ, FUSE_CAP_PARALLEL_DIROPS, FUSE_CAP_ASYNC_DIO, FUSE_CAP_READDIRPLUS,
            FUSE_CAP_READDIRPLUS_AUTO, FUSE_CAP_POSIX_ACL, FUSE_CAP_DONT_MASK, FUSE_CAP_CACHE_SYMLINKS,
            FUSE_CAP_EXPORT_SUPPORT, FUSE_CAP_EXPLICIT_INVAL_DATA, FUSE_CAP_NO_OPEN_SUPPORT,
            FUSE_CAP_NO_OPENDIR_SUPPORT,
        ]
        return flags.reduce(0) { $0 | CUnsignedInt($1) }
    }
    /// What libfuse turns on by itself and would do harm: nobody changes data behind the kernel's back, and truncate
    /// on open comes as a setattr, since there is no open.
    static var unwanted: CUnsignedInt {
        let flags = [
            FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_ATOMIC_O_TRUNC, FUSE_CAP_HANDLE_KILLPRIV, FUSE_CAP_SPLICE_READ,
            FUSE_CAP_SPLICE_WRITE, FUSE_CAP_SPLICE_MOVE, FUSE_CAP_WRITEBACK_CACHE,
        ]
        return flags.reduce(0) { $0 | CUnsignedInt($1) }
    }
}

@c(jext4_serve_init)
func serveInit(_ context: UnsafeMutableRawPointer?, _ connection: UnsafeMutablePointer<fuse_conn_info>?) {
    guard let context = unsafe context, let connection = unsafe connection else { return }
    let session = unsafe Unmanaged<Session>.fromOpaque(context).takeUnretainedValue()
    let capable = unsafe connection.pointee.capable
    var want = unsafe connection.pointee.want & ~Connection.unwanted | Connection.wanted & capable
    if !session.usesAccessLists { want &= ~CUnsignedInt(FUSE_CAP_POSIX_ACL) }
    if session.usesWritebackCache { want |= CUnsignedInt(FUSE_CAP_WRITEBACK_CACHE) & capable }
    unsafe connection.pointee.want = want
    unsafe connection.pointee.max_write = CUnsignedInt(Connection.transferByteCount)
    unsafe connection.pointee.max_background = Connection.backgroundLimit
    unsafe connection.pointee.congestion_threshold = Connection.backgroundLimit * 3 / 4
    unsafe connection.pointee.time_gran = session.fileSystem.limits.timeGranularity
    session.begin(capable: capable, DirectRequest.offer)
    var added = Connection.handlesPrivileges | Connection.extendedSetxattr
    if session.usesRings { added |= Connection.hasRings }
    if session.iomap.isAgreed { added |= IomapTransport.flag }
    jext4_add_init_flags(added)
}

@c(jext4_serve_destroy)
func serveDestroy(_ context: UnsafeMutableRawPointer?) {
    guard let context = unsafe context else { return }
    let session = unsafe Unmanaged<Session>.fromOpaque(context).takeUnretainedValue()
    session.waitForOthers()
    session.volume.close()
    session.iomap.close()
}
