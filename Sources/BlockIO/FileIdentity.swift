internal import Glibc

/// What a path leads to, whatever its name: an inode of a file system, or a block device, which may have several.
package struct FileIdentity: Equatable, Sendable {
    private let isBlockDevice: Bool
    private let device: UInt
    private let inode: UInt

    init(_ status: stat) {
        isBlockDevice = status.st_mode & S_IFMT == S_IFBLK
        (device, inode) = isBlockDevice ? (status.st_rdev, 0) : (status.st_dev, status.st_ino)
    }

    /// Nil when there is nothing.
    package init?(path: String) {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { return nil }
        self.init(status)
    }
}
