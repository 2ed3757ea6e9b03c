internal import BlockIO
internal import CFuseShims
internal import Ext4Format
internal import Glibc

/// The kernel's side of a mount that root makes: /dev/fuse, a loop device where the image is a file, and mount(2).
///
/// On a block device (type fuseblk) the kernel sends syncfs, and umount waits until DESTROY has been answered. Where
/// there is no loop device to be had, or fuseblk is not allowed (a container), it is a plain fuse mount.
struct KernelMount {
    /// The open /dev/fuse.
    let descriptor: CInt
    /// The block device of a fuseblk mount.
    let device: String?
    /// Why it is not fuseblk.
    let fallback: String?

    /// `directory` and `image` are absolute. `.refused` names what failed.
    init(
        _ image: String, isBlockDevice: Bool, on directory: String, words: MountWords, blockByteCount: Int
    ) throws(Ext4Error) {
        descriptor = unsafe open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.noDevice(errno) }
        do throws(Ext4Error) {
            let outcome = Self.mountBlock(
                image, isBlockDevice: isBlockDevice, on: directory, words, descriptor, blockByteCount)
            device = outcome.device
            fallback = outcome.failure
            if outcome.device != nil { return }
            let number = Self.mount(image, on: directory, "fuse", words, descriptor, extra: "")
            guard number == 0 else { throw Self.cannotMount(directory, number) }
        } catch {
            close(descriptor)
            throw error
        }
    }

    static func noDevice(_ number: CInt) -> Ext4Error {
        switch number {
        case ENOENT, ENODEV, ENXIO: .refused("there is no /dev/fuse: load the fuse module")
        case EACCES, EPERM: .refused("no permission to open /dev/fuse (in a container: pass the device in)")
        default: .refused("cannot open /dev/fuse: \(systemText(number))")
        }
    }

    private static func cannotMount(_ directory: String, _ number: CInt) -> Ext4Error {
        number == EPERM
            ? .refused("not permitted to mount on \(directory) (needs CAP_SYS_ADMIN)")
            : .refused("cannot mount on \(directory): \(systemText(number))")
    }

    /// The device that is mounted, or the reason why none is.
    private static func mountBlock(
        _ image: String, isBlockDevice: Bool, on directory: String, _ words: MountWords, _ descriptor: CInt,
        _ blockByteCount: Int
    ) -> (device: String?, failure: String?) {
        // The kernel takes no unit above its page.
        let extra = ",blksize=\(min(blockByteCount, 4096))"
        if isBlockDevice {
            let number = mount(image, on: directory, "fuseblk", words, descriptor, extra: extra)
            return number == 0 ? (image, nil) : (nil, systemText(number))
        }
        let file = unsafe open(image, (words.isReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        guard file >= 0 else { return (nil, systemText(errno)) }
        var path = [CChar](repeating: 0, count: 32)
        let loop = unsafe jext4_loop_attach(file, words.offset, words.isReadOnly, image, &path, path.count)
        let cause = errno
        close(file)
        guard loop >= 0 else { return (nil, "no loop device: \(systemText(cause))") }
        // The mount keeps the loop device; without one it frees itself here.
        defer { close(loop) }
        let device = String(decoding: path.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let number = mount(device, on: directory, "fuseblk", words, descriptor, extra: extra)
        return number == 0 ? (device, nil) : (nil, "\(device): \(systemText(number))")
    }

    /// 0 or an errno.
    private static func mount(
        _ source: String, on directory: String, _ type: String, _ words: MountWords, _ descriptor: CInt,
        extra: String
    ) -> CInt {
        var flags: CUnsignedLong = 0
        if words.isReadOnly { flags |= jext4_ms_rdonly }
        if !words.allowsSetID { flags |= jext4_ms_nosuid }
        if !words.allowsDevices { flags |= jext4_ms_nodev }
        if !words.allowsExecution { flags |= jext4_ms_noexec }
        if !words.movesAccessTimes { flags |= jext4_ms_noatime }
        if !words.movesDirectoryAccessTimes { flags |= jext4_ms_nodiratime }
        // The kernel asks for an fsync after each write then.
        if words.isSynchronous { flags |= jext4_ms_synchronous }
        if words.hasSynchronousNames { flags |= jext4_ms_dirsync }
        // Permissions are checked by the kernel, as on any disk, so everybody may come in.
        let data =
            "fd=\(descriptor),rootmode=40000,user_id=\(geteuid()),group_id=\(getegid())"
            + ",default_permissions,allow_other\(extra)"
        let result = unsafe jext4_mount(source, directory, "\(type).\(MountTable.subtype)", flags, data)
        return result == 0 ? 0 : errno
    }

    /// libfuse's words for a mount by fusermount3.
    static func userArguments(_ image: String, _ words: MountWords) -> [String] {
        var source = ""
        for character in image {
            if character == "," || character == "\\" { source.append("\\") }
            source.append(character)
        }
        var list = ["fsname=\(source)", "subtype=\(MountTable.subtype)", "default_permissions"]
        if words.allowsOther { list.append("allow_other") }
        if words.isReadOnly { list.append("ro") }
        if !words.allowsExecution { list.append("noexec") }
        if !words.movesAccessTimes { list.append("noatime") }
        if words.isSynchronous { list.append("sync") }
        if words.hasSynchronousNames { list.append("dirsync") }
        return list.flatMap { ["-o", $0] }
    }
}
