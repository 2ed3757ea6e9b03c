internal import BlockIO
package import Ext4Format
internal import Glibc

/// A file that a command makes: never one that was there before.
package enum NewFile {
    /// Makes `path`, of `byteCount` zeros that take no space, readable by its owner alone. `.refused` when it exists.
    package static func make(_ path: String, byteCount: UInt64) throws(Ext4Error) {
        guard let size = off_t(exactly: byteCount) else {
            throw .refused("cannot make \(path) of \(byteCount) bytes: \(systemText(EFBIG))")
        }
        let made = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard made >= 0 else {
            throw .refused(
                errno == EEXIST
                    ? "\(path) exists; nothing is overwritten" : "cannot make \(path): \(systemText(errno))")
        }
        defer { close(made) }
        guard ftruncate(made, size) == 0 else {
            remove(path)
            throw .io(errno: errno, operation: "ftruncate of \(path)", offset: 0, count: 0)
        }
    }

    /// Makes the name durable; the contents are the writer's matter.
    package static func syncName(_ path: String) throws(Ext4Error) {
        let folder = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        let name = folder.isEmpty ? (path.hasPrefix("/") ? "/" : ".") : folder
        let opened = unsafe open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard opened >= 0 else { throw .io(errno: errno, operation: "open of \(name)", offset: 0, count: 0) }
        defer { close(opened) }
        guard fsync(opened) == 0 else { throw .io(errno: errno, operation: "fsync of \(name)", offset: 0, count: 0) }
    }

    /// Takes away what could not be finished.
    package static func remove(_ path: String) { _ = unsafe unlink(path) }
}
