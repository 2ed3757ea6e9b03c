internal import CFuse3
internal import Ext4Format
internal import FileSystem
internal import Glibc

/// FUSE calls the root 1 and ext4 calls it 2; every other node id is the inode number.
enum NodeID {
    static func inode(_ node: fuse_ino_t) -> InodeNumber {
        node == UInt64(FUSE_ROOT_ID) ? .root : InodeNumber(UInt32(truncatingIfNeeded: node))
    }
    /// Nil for inode 1, which no directory may name: its node id would be the root's.
    static func node(_ inode: InodeNumber) -> fuse_ino_t? {
        switch inode.rawValue {
        case InodeNumber.root.rawValue: fuse_ino_t(FUSE_ROOT_ID)
        case 0, 1: nil
        default: fuse_ino_t(inode.rawValue)
        }
    }
}

/// How long the kernel may trust an answer, in seconds. Nobody else writes the volume, and the kernel itself drops what
/// its own operations change; a day only bounds the damage of a mistake in that reasoning.
enum Validity {
    static var entrySeconds: Double { 86400 }
    static var attributeSeconds: Double { 86400 }
}

extension Timestamp {
    init(_ time: timespec) {
        self.init(seconds: Int64(time.tv_sec), nanoseconds: UInt32(truncatingIfNeeded: time.tv_nsec))
    }
    var system: timespec { timespec(tv_sec: Int(seconds), tv_nsec: Int(nanoseconds)) }
}

extension Attributes {
    /// As stat(2) tells it. `blockByteCount` is the unit that applications should transfer in.
    func status(blockByteCount: Int) -> stat {
        var status = stat()
        status.st_ino = UInt(inode.rawValue)
        status.st_mode = mode_t(mode)
        status.st_nlink = nlink_t(linkCount)
        status.st_uid = uid
        status.st_gid = gid
        status.st_size = off_t(truncatingIfNeeded: size)
        status.st_blocks = blkcnt_t(truncatingIfNeeded: sectorCount)
        status.st_blksize = blksize_t(blockByteCount)
        status.st_rdev = dev_t(DeviceNumber.encode(major: deviceMajor, minor: deviceMinor))
        status.st_atim = access.system
        status.st_mtim = modification.system
        status.st_ctim = change.system
        return status
    }
}

/// The 32-bit form in which FUSE passes device numbers: bits 8...19 are the major, the rest the minor.
enum DeviceNumber {
    static func encode(major: UInt32, minor: UInt32) -> UInt32 {
        minor & 0xff | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
    }
    static func decode(_ number: UInt32) -> (major: UInt32, minor: UInt32) {
        (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00)
    }
}
