internal import CLinux
package import Ext4Format
internal import Glibc
internal import Synchronization

/// The right to an image: while it is held, no other jext4 opens the same one, and at the time it was taken the kernel
/// did not have it mounted. A block device can be kept from the kernel for as long as it is held.
package final class ImageClaim: Sendable {
    package let path: String
    package let identity: FileIdentity
    package let isBlockDevice: Bool
    private let lockFile: String?
    /// The locked descriptor; -1 once released.
    private let descriptor: Atomic<CInt>
    /// Keeps mounts of the kernel off a block device; -1 when nothing does.
    private let exclusive = Atomic<CInt>(-1)

    /// Opens and locks `path`, absolute, and makes `lockFile`. `.refused` says who has it or what is wrong with it.
    /// `keepsMountsOff` is not for a FUSE mount of a block device: the kernel takes the device for that itself.
    package init(
        _ path: String, readOnly: Bool, lockFile: String?, keepsMountsOff: Bool = false
    ) throws(Ext4Error) {
        self.path = path
        self.lockFile = lockFile
        let opened = unsafe open(path, (readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        descriptor = Atomic(opened)
        guard opened >= 0 else { throw Self.cannotOpen(path, errno, readOnly) }
        var status = stat()
        let isKnown = unsafe fstat(opened, &status) == 0
        identity = FileIdentity(status)
        isBlockDevice = isKnown && status.st_mode & S_IFMT == S_IFBLK
        do throws(Ext4Error) {
            guard isBlockDevice || status.st_mode & S_IFMT == S_IFREG else {
                throw .refused("\(path) is neither an image file nor a block device")
            }
            try Self.lock(opened, path, readOnly ? LOCK_SH : LOCK_EX, isBlockDevice: isBlockDevice)
            if isBlockDevice {
                let probed = try Self.probe(path, path)
                if keepsMountsOff { exclusive.store(probed, ordering: .relaxed) } else { Self.letGo(probed) }
            } else {
                try checkLoopDevices(readOnly: readOnly)
            }
            try checkMountTable()
            if let lockFile { try Self.make(lockFile) }
        } catch {
            Self.letGo(exclusive.load(ordering: .relaxed))
            close(opened)
            throw error
        }
    }

    private static func cannotOpen(_ path: String, _ number: CInt, _ readOnly: Bool) -> Ext4Error {
        let isForbidden = !readOnly && (number == EACCES || number == EROFS || number == EPERM)
        return .refused("cannot open \(path)\(isForbidden ? " for writing" : ""): \(systemText(number))")
    }

    /// udev locks a block device too, for a moment, while it looks at what mkfs has just made.
    private static func lock(
        _ descriptor: CInt, _ path: String, _ kind: CInt, isBlockDevice: Bool
    ) throws(Ext4Error) {
        let pollMicroseconds: UInt32 = 50_000
        var attempts = isBlockDevice ? 40 : 1
        while flock(descriptor, kind | LOCK_NB) != 0 {
            guard errno == EWOULDBLOCK else { throw .refused("cannot lock \(path): \(systemText(errno))") }
            attempts -= 1
            guard attempts > 0 else { throw .refused("\(path) is in use: another jext4 or jext4-replay holds it") }
            usleep(pollMicroseconds)
        }
    }

    private static func make(_ lockFile: String) throws(Ext4Error) {
        let made = unsafe open(lockFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard made >= 0 else { throw .refused("cannot make the lock file \(lockFile): \(systemText(errno))") }
        close(made)
    }

    /// O_EXCL on a block device fails while a mount, in any mount namespace, or another owner has it. Answers the
    /// descriptor, which does the same to others; -1 when the device cannot be asked.
    private static func probe(_ device: String, _ image: String) throws(Ext4Error) -> CInt {
        let opened = unsafe open(device, O_RDONLY | O_EXCL | O_CLOEXEC)
        guard opened >= 0 else {
            guard errno == EBUSY else { return -1 }
            throw .refused(
                device == image
                    ? "\(image) is in use: mounted, or part of another device"
                    : "\(image) is in use: \(device) shows it and is mounted")
        }
        return opened
    }

    private static func letGo(_ descriptor: CInt) {
        if descriptor >= 0 { close(descriptor) }
    }

    /// The kernel mounts an image file through a loop device: whether one that shows this file is taken. A mount of
    /// ours may have it to read, as we may: our lock says that none of ours writes.
    private func checkLoopDevices(readOnly: Bool) throws(Ext4Error) {
        guard let folder = unsafe opendir("/sys/block") else { return }
        let mounts = MountTable.records
        defer { unsafe closedir(folder) }
        while let entry = unsafe readdir(folder) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { name in
                unsafe name.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            guard name.hasPrefix("loop"),
                let backing = readText("/sys/block/\(name)/loop/backing_file")?.split(separator: "\n").first
            else { continue }
            guard FileIdentity(path: String(backing)) == identity else { continue }
            let device = "/dev/\(name)"
            if readOnly, mounts.contains(where: { $0.isOurs && $0.source == device }) { continue }
            Self.letGo(try Self.probe(device, path))
        }
    }

    /// A FUSE server that locks nothing, as fuse2fs, shows only as the source of its mount. Ours lock.
    private func checkMountTable() throws(Ext4Error) {
        for record in MountTable.records where record.source.hasPrefix("/") && !record.isOurs {
            guard FileIdentity(path: record.source) != identity else {
                throw .refused("\(path) is in use: mounted at \(record.directory)")
            }
        }
    }

    /// Lets go of the image. Once; later calls do nothing.
    package func release() {
        let held = descriptor.exchange(-1, ordering: .acquiringAndReleasing)
        guard held >= 0 else { return }
        if let lockFile { unsafe unlink(lockFile) }
        Self.letGo(exclusive.exchange(-1, ordering: .acquiringAndReleasing))
        close(held)
    }
}
