internal import BlockIO
package import Ext4Format
internal import Glibc
internal import Synchronization

/// What a kernel with fuse-iomap is asked beside its requests. Tests put one of their own here.
package protocol IomapKernel: Sendable {
    /// Whether it is there (FUSE_DEV_IOC_IOMAP_SUPPORT); false also for a kernel that offers the same bit of INIT for
    /// something else.
    func isThere(_ connection: CInt) -> Bool
    /// Registers the device that holds the volume, after INIT: its number.
    func open(_ connection: CInt, blockByteCount: Int) throws(Ext4Error) -> UInt32
    func close(_ connection: CInt, device: UInt32)
}

/// The kernel that is running.
final class SystemIomapKernel: IomapKernel {
    /// The block device whose first byte is that of the volume: known once that is mounted.
    private let path = Mutex("")
    private let isReadOnly: Bool

    init(isReadOnly: Bool) { self.isReadOnly = isReadOnly }

    func use(_ device: String) { path.withLock { $0 = device } }

    /// ioctl(2) on /dev/fuse.
    private enum Control {
        static var support: UInt { 0x8010_e563 }
        static var open: UInt { 0x4010_e501 }
        static var close: UInt { 0x4004_e502 }
        static var setBlockSize: UInt { 0x4008_e566 }
    }
    /// FUSE_BACKING_TYPE of a device for fuse-iomap, in the flags of open.
    private static var iomapType: UInt32 { 1 }
    /// FUSE_IOMAP_SUPPORT_FILEIO.
    private static var hasFiles: UInt64 { 1 }

    func isThere(_ connection: CInt) -> Bool { Self.isThere(connection) }

    static func isThere(_ connection: CInt) -> Bool {
        var answer: (flags: UInt64, padding: UInt64) = (0, 0)
        return unsafe ioctl(connection, Control.support, &answer) == 0 && answer.flags & hasFiles != 0
    }

    /// Before there is a mount to take down again. `.refused` says what is missing.
    static func demand() throws(Ext4Error) {
        let connection = unsafe Glibc.open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard connection >= 0 else { throw KernelMount.noDevice(errno) }
        defer { Glibc.close(connection) }
        guard isThere(connection) else { throw .refused("option 'iomap': this kernel has no fuse-iomap") }
    }

    func open(_ connection: CInt, blockByteCount: Int) throws(Ext4Error) -> UInt32 {
        let path = path.withLock { $0 }
        let device = unsafe Glibc.open(path, (isReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        guard device >= 0 else { throw .refused("option 'iomap': \(path): \(systemText(errno))") }
        // The kernel keeps the device from here on.
        defer { Glibc.close(device) }
        var request: (device: CInt, flags: UInt32, padding: UInt64) = (device, Self.iomapType, 0)
        let number = unsafe ioctl(connection, Control.open, &request)
        guard number > 0 else {
            throw .refused("option 'iomap': the kernel does not take \(path): \(systemText(errno))")
        }
        var size: (device: UInt32, byteCount: UInt32) = (UInt32(number), UInt32(blockByteCount))
        guard unsafe ioctl(connection, Control.setBlockSize, &size) == 0 else {
            let cause = errno
            close(connection, device: UInt32(number))
            throw .refused("option 'iomap': blocks of \(blockByteCount) bytes on \(path): \(systemText(cause))")
        }
        return UInt32(number)
    }

    func close(_ connection: CInt, device: UInt32) {
        var device = device
        _ = unsafe ioctl(connection, Control.close, &device)
    }
}
