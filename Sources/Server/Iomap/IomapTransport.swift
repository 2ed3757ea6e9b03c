internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Synchronization

/// fuse-iomap on one connection: the kernel asks where the data of a file are, and moves them itself.
final class IomapTransport: Sendable {
    /// Nil: not wanted.
    private let kernel: (any IomapKernel)?

    private enum State {
        case off
        /// Said in INIT; the device is not registered yet.
        case agreed
        case on(connection: CInt, device: UInt32)
    }
    private let state = Mutex(State.off)

    init(_ kernel: (any IomapKernel)?) { self.kernel = kernel }

    /// FUSE_IOMAP in INIT. Other kernels have the same bit for other things: it says nothing by itself.
    static var flag: UInt64 { 1 << 43 }
    /// Of the protocol that has it.
    private static var minorVersion: UInt32 { 99 }

    /// Called while INIT is answered: whether both sides want it.
    func agree(_ connection: CInt, minorVersion: UInt32, offered: UInt64) -> Bool {
        guard let kernel, minorVersion == Self.minorVersion, offered & Self.flag != 0, kernel.isThere(connection) else {
            return false
        }
        state.withLock { $0 = .agreed }
        return true
    }

    var isAgreed: Bool { state.withLock { if case .off = $0 { false } else { true } } }

    /// Registers the device, once; the kernel lets nothing else through before it has been answered.
    func configure(_ connection: CInt, blockByteCount: Int) throws(Ext4Error) {
        guard let kernel, case .agreed = state.withLock({ $0 }) else { throw .posix(ENOSYS) }
        let device = try kernel.open(connection, blockByteCount: blockByteCount)
        state.withLock { $0 = .on(connection: connection, device: device) }
    }

    /// What the kernel calls the device. ENOSYS without one.
    func device() throws(Ext4Error) -> UInt32 {
        guard case .on(_, let device) = state.withLock({ $0 }) else { throw .posix(ENOSYS) }
        return device
    }

    // MARK: What the kernel remembers

    /// The kernel need not ask again where these data are. On the thread that serves the request that asked: the kernel
    /// takes it before the answer.
    func remember(_ run: IomapRun, node: UInt64, _ inode: InodeNumber) {
        notify(IomapNotice.remember, IomapNotice.remember(run, node: node, inode: UInt64(inode.rawValue)))
    }

    /// The data of a file from `position` (bytes, the start of a block) on have moved, or will when they are written.
    func forget(_ inode: InodeNumber, from position: UInt64 = 0) {
        guard let node = NodeID.node(inode) else { return }
        notify(IomapNotice.forget, IomapNotice.forget(from: position, node: node, inode: UInt64(inode.rawValue)))
    }

    /// A kernel that has let go of the inode has nothing to remember or to forget: its refusal is no error.
    private func notify(_ code: Int32, _ body: [UInt8]) {
        guard case .on(let connection, _) = state.withLock({ $0 }) else { return }
        DirectRequest.send(notice: code, body, to: connection)
    }

    /// Before DESTROY is answered: the kernel lets go of the device.
    func close() {
        let old = state.withLock { state in
            defer { state = .off }
            return state
        }
        if case .on(let connection, let device) = old { kernel?.close(connection, device: device) }
    }

    /// `fuse_attr.flags`: which files the kernel moves the data of. The first answer about a file decides.
    func flags(of attributes: Attributes) -> UInt32 {
        /// FUSE_ATTR_EXCLUSIVE with it, and FUSE_ATTR_ATOMIC.
        let iomap: UInt32 = 12, atomic: UInt32 = 16
        let hasExtents: UInt32 = 0x80000
        guard isAgreed, FileType(mode: attributes.mode) == .regular, attributes.flags & hasExtents != 0
        else { return 0 }
        var flags = iomap | atomic
        // The kernel enforces these itself for such files: FS_SYNC_FL, FS_IMMUTABLE_FL and FS_APPEND_FL.
        for (ours, theirs) in [(0x8, 32), (0x10, 64), (0x20, 128)] as [(UInt32, UInt32)]
        where attributes.flags & ours != 0 {
            flags |= theirs
        }
        return flags
    }
}
