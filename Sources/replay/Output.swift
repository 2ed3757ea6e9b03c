internal import Glibc

enum Output {
    /// Writes all of `text`; a reader that has gone away (head, less) is no error of ours.
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
            guard count > 0 else { return }
            done += count
        }
    }
}
