internal import BlockIO
internal import CFuseShims
internal import Ext4Format
internal import Glibc

/// FUSE over io_uring: the kernel keeps a queue of requests for each processor, and a thread there hands in an answer
/// and takes the next request with one system call. Since Linux 6.14, where the administrator lets it.
enum Rings {
    /// The switch of the kernel's module for all servers that ask; N at first. None in kernels without.
    private static let settingPath = "/sys/module/fuse/parameters/enable_uring"

    /// How many queues the kernel keeps: one for each processor that there may ever be.
    static var queueCount: Int {
        // "0-3", or "0,2-7".
        let last = readText("/sys/devices/system/cpu/possible")?.split(whereSeparator: { !$0.isNumber }).last
        return last.flatMap { Int($0) }.map { $0 + 1 } ?? max(1, sysconf(CInt(_SC_NPROCESSORS_CONF)))
    }

    /// Turns the kernel's switch on. `.refused` says what is missing.
    static func allow() throws(Ext4Error) {
        guard let setting = readText(settingPath) else {
            throw .refused("option 'io_uring': this kernel has no FUSE over io_uring, which came with Linux 6.14")
        }
        guard !setting.hasPrefix("Y") else { return }
        let file = unsafe Glibc.open(settingPath, O_WRONLY | O_CLOEXEC)
        defer { if file >= 0 { close(file) } }
        guard file >= 0, unsafe write(file, "Y", 1) == 1 else {
            throw .refused("option 'io_uring': it is off for this system; as root: echo Y >\(settingPath)")
        }
    }

    /// Whether this process may make a ring: the answer to INIT is too late to find out.
    static var arePossible: Bool {
        guard let ring = unsafe jext4_ring_open(-1, 0, nil, 0) else { return false }
        unsafe jext4_ring_close(ring)
        return true
    }
}
