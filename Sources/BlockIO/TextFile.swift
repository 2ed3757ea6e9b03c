internal import Glibc

/// The whole of a small text file of the system. Nil when it cannot be read.
package func readText(_ path: String) -> String? {
    let opened = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard opened >= 0 else { return nil }
    defer { close(opened) }
    var text: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = unsafe read(opened, &part, part.count)
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else { return count == 0 ? String(decoding: text, as: UTF8.self) : nil }
        text += part[..<count]
    }
}
