internal import BlockIO
internal import CFuseShims
internal import Ext4Format
internal import Glibc

/// FUSE over io_uring: the kernel keeps a queue of requests for each processor, and a thread there hands in an answer
/// and takes the next request with one system call. Since Linux 6.14, where the administrator lets it.
enum Rings {
    /// The switch of the kernel's module for all servers that ask; N at first. None in kernels without.
    private static let settingPath = "/sys/module/fuse/parameters/enable_uring"

    /// How many queues the kernel keeps: one for each processor that there may ever be. Nil where their numbers have
    /// gaps, and a processor's number is not that of its queue.
    static var queueCount: Int? {
        // "0" or "0-3"; with gaps "0,2-7".
        let words = readText("/sys/devices/system/cpu/possible")?.split { !$0.isNumber && $0 != "," } ?? []
        guard words.count <= 2, words.first == "0", let last = words.last else { return nil }
        return Int(last).map { $0 + 1 }
    }

    /// Turns the kernel's switch on. `.refused` says what is missing.
    static func allow() throws(Ext4Error) {
        guard arePossible, queueCount != nil else {
            throw .refused("option 'io_uring': this process may not use io_uring (kernel.io_uring_disabled, seccomp)")
        }
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
