internal import Ext4Format
internal import Glibc

enum Output {
    /// A write to a pipe that nobody reads then fails with EPIPE, and the process lives. Call before the first write.
    static func ignoreBrokenPipes() { _ = signal(SIGPIPE, SIG_IGN) }

    /// Writes all of `text`; a reader that has gone away (head, less) is no error of ours. Any other error on standard
    /// output ends the process: what a script reads must not be short behind a good exit status.
    static func write(_ text: String, toErrors: Bool = false) { write([UInt8](text.utf8), toErrors: toErrors) }

    static func write(_ bytes: [UInt8], toErrors: Bool = false) {
        var done = 0
        while done < bytes.count {
            let descriptor = toErrors ? STDERR_FILENO : STDOUT_FILENO
            let count = unsafe bytes.withUnsafeBytes { memory in
                guard let base = memory.baseAddress else { return 0 }
                return unsafe Glibc.write(descriptor, base + done, memory.count - done)
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                if toErrors || errno == EPIPE { return }
                write("jext4-replay: cannot write to standard output: \(systemText(errno))\n", toErrors: true)
                exit(Status.failed)
            }
            done += count
        }
    }
}
