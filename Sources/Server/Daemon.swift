internal import CFuseShims
internal import Ext4Format
internal import Glibc

/// A process in the background that tells the one that started it how the start went.
enum Daemon {
    /// The child's end of the pipe.
    struct Announcer {
        fileprivate let descriptor: CInt

        /// Says that all is well, and lets go of the terminal and of the working directory.
        func succeed() {
            _ = unsafe chdir("/")
            jext4_silence()
            send([0])
        }

        /// Says why not. The caller exits.
        func fail(_ text: String) { send([1] + Array(text.utf8)) }

        private func send(_ bytes: [UInt8]) {
            _ = unsafe write(descriptor, bytes, bytes.count)
            close(descriptor)
        }
    }

    enum Role {
        case child(Announcer)
        /// What the child said: nil for success.
        case parent(failure: String?)
    }

    /// Forks; in the parent, returns when the child has announced itself or is gone. Before any thread is started.
    static func start() -> Role {
        var ends: [CInt] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { return .parent(failure: "pipe: \(systemText(errno))") }
        let process = jext4_fork()
        guard process >= 0 else { return .parent(failure: "fork: \(systemText(errno))") }
        if process == 0 {
            close(ends[0])
            _ = fcntl(ends[1], F_SETFD, FD_CLOEXEC)
            setsid()
            return .child(Announcer(descriptor: ends[1]))
        }
        close(ends[1])
        defer { close(ends[0]) }
        let said = readAll(ends[0])
        guard let first = said.first else {
            return .parent(failure: "the server ended unexpectedly: \(ending(process))")
        }
        return .parent(failure: first == 0 ? nil : String(decoding: said.dropFirst(), as: UTF8.self))
    }

    private static func ending(_ process: pid_t) -> String {
        var status: CInt = 0
        guard unsafe waitpid(process, &status, 0) == process else { return "lost" }
        let signal = status & 0x7f
        return signal == 0 ? "exit status \(status >> 8 & 0xff)" : "signal \(signal)"
    }
}

/// Everything up to the end of a pipe or socket, or up to an error.
func readAll(_ descriptor: CInt) -> [UInt8] {
    var bytes: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = unsafe read(descriptor, &part, part.count)
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else { return bytes }
        bytes += part[..<count]
    }
}
