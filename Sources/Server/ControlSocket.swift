internal import CFuseShims
internal import Ext4Format
internal import Glibc

/// Where the servers listen: one Unix socket per mount, named by the device number of its files.
///
/// A client sends one line and reads until the end: "ok" and a newline before what it asked for, or "error" and why
/// not. For "wait" the first line comes at once and the second, the outcome of the unmount, when the volume is closed.
package enum ControlSocket {
    package enum Command: Equatable, Sendable {
        case status
        case statusJSON
        case sync
        case wait
        /// Puts a mark with this label into the log of `-o record=LOG`.
        case mark(String)

        private static var marking: String { "mark " }

        init?(line: String) {
            switch line {
            case "status": self = .status
            case "status-json": self = .statusJSON
            case "sync": self = .sync
            case "wait": self = .wait
            default:
                guard line.hasPrefix(Self.marking), line.utf8.count > Self.marking.utf8.count else { return nil }
                self = .mark(String(line.dropFirst(Self.marking.count)))
            }
        }

        var line: String {
            switch self {
            case .status: "status"
            case .statusJSON: "status-json"
            case .sync: "sync"
            case .wait: "wait"
            case .mark(let label): Self.marking + label
            }
        }
    }

    /// The longest label of a mark, in bytes: what a header of 512 bytes has room for.
    package static var labelLimit: Int { 479 }

    static var success: String { "ok\n" }
    static var failure: String { "error " }

    /// The folder of a server's own sockets, the first that it can make. Nil when there is none.
    static func makeFolder() -> String? {
        let user = geteuid()
        var folders: [String] = []
        if user == 0 {
            folders.append("/run/jext4")
        } else if let runtime = unsafe getenv("XDG_RUNTIME_DIR") {
            folders.append("\(unsafe String(cString: runtime))/jext4")
        }
        folders.append(lastResort(user))
        return folders.first { folder in
            unsafe mkdir(folder, 0o700)
            var status = stat()
            return unsafe lstat(folder, &status) == 0 && status.st_mode & (S_IFMT | 0o077) == S_IFDIR
                && status.st_uid == user && access(folder, W_OK) == 0
        }
    }

    private static func lastResort(_ user: uid_t) -> String { "/tmp/jext4-\(user)" }

    /// Where a client looks for the server of a mount that `user` made.
    static func folders(of user: uid_t) -> [String] {
        if user == 0 { return ["/run/jext4", lastResort(user)] }
        var folders = ["/run/user/\(user)/jext4", lastResort(user)]
        if user == geteuid(), let runtime = unsafe getenv("XDG_RUNTIME_DIR") {
            folders.insert("\(unsafe String(cString: runtime))/jext4", at: 0)
        }
        return folders
    }

    static func path(in folder: String, device: String) -> String { "\(folder)/\(device)" }

    /// Runs `body` with the address of `path`. Nil when the path is too long for one.
    static func withAddress<R>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let fits = unsafe withUnsafeMutableBytes(of: &address.sun_path) { target in
            guard bytes.count < target.count else { return false }
            unsafe target.copyBytes(from: bytes)
            return true
        }
        guard fits else { return nil }
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }

    static func make() -> CInt { socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0) }

    /// A peer that stops reading or writing may hold us up so long, in seconds; with SO_SNDTIMEO alone, one that takes
    /// no connection or stops reading.
    static func limitWaiting(_ descriptor: CInt, seconds: Int, whatFor options: [CInt] = [SO_RCVTIMEO, SO_SNDTIMEO]) {
        var limit = timeval(tv_sec: seconds, tv_usec: 0)
        for option in options {
            unsafe setsockopt(descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    /// Sends all of `text`; false when the peer is gone.
    @discardableResult static func send(_ text: String, to descriptor: CInt) -> Bool {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    /// One line without its end, of at most 512 bytes. Nil when there is none.
    static func readLine(_ descriptor: CInt) -> String? {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while line.count <= 512 {
            let count = unsafe read(descriptor, &byte, 1)
            if count < 0 && errno == EINTR { continue }
            guard count == 1 else { return nil }
            if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
            line.append(byte)
        }
        return nil
    }
}
