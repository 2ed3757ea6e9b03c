package import BlockIO
package import Ext4Format

/// What `stat` tells of an inode.
package struct Attributes: Equatable, Sendable {
    package var inode: InodeNumber
    package var generation: UInt32
    /// Type and permissions, `S_IF*`.
    package var mode: UInt16
    package var linkCount: UInt32
    package var uid: UInt32
    package var gid: UInt32
    /// Bytes.
    package var size: UInt64
    /// Units of 512 bytes.
    package var sectorCount: UInt64
    package var access: Timestamp
    package var modification: Timestamp
    package var change: Timestamp
    package var creation: Timestamp
    /// Of a device node; 0 for all else.
    package var deviceMajor: UInt32
    package var deviceMinor: UInt32
    /// `i_flags`.
    package var flags: UInt32
}

/// Who asks: the owner of what is created, and the one who may use the reserved blocks or not.
package struct Caller: Sendable {
    package var uid: UInt32
    package var gid: UInt32
    package var umask: UInt16
    /// Who may do anything: also what the system does on its own behalf.
    package static var root: Self { Self(uid: 0, gid: 0, umask: 0) }
    package init(uid: UInt32, gid: UInt32, umask: UInt16) {
        self.uid = uid
        self.gid = gid
        self.umask = umask
    }
}

/// One component of a path: 1 ... 255 bytes without '/' and NUL.
package struct FileName: Hashable, Sendable {
    package let bytes: [UInt8]
    package init(_ bytes: [UInt8]) throws(Ext4Error) {
        guard bytes.count <= 255 else { throw .posix(Errno.nameTooLong) }
        guard !bytes.isEmpty, !bytes.contains(0), !bytes.contains(UInt8(ascii: "/")) else {
            throw .posix(Errno.invalid)
        }
        self.bytes = bytes
    }
    package var isDot: Bool { bytes == [0x2E] }
    package var isDotOrDotDot: Bool { isDot || bytes == [0x2E, 0x2E] }
}

/// What setattr changes; nil leaves a field alone.
package struct AttributeChanges: Sendable {
    package enum TimeChange: Sendable {
        case now
        case to(Timestamp)
    }
    /// Permission bits (07777); the type stays.
    package var mode: UInt16?
    package var uid: UInt32?
    package var gid: UInt32?
    package var size: UInt64?
    package var access: TimeChange?
    package var modification: TimeChange?
    package var change: TimeChange?
    package init() {}
}

/// `RENAME_*` of Linux.
package struct RenameFlags: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static var noReplace: Self { Self(rawValue: 1) }
    package static var exchange: Self { Self(rawValue: 2) }
    /// The old name stays, as that of a whiteout. Goes with `noReplace`, not with `exchange`.
    package static var whiteout: Self { Self(rawValue: 4) }
    package static var all: Self { [.noReplace, .exchange, .whiteout] }
}

/// One name in a directory.
package struct DirectoryRecord: Sendable {
    package var name: [UInt8]
    package var inode: InodeNumber
    /// `DT_*`.
    package var type: UInt8
    /// Reading resumes after this name when this is passed.
    package var cookie: UInt64
    package var attributes: Attributes?
}

/// What `statfs` tells.
package struct VolumeStatistics: Equatable, Sendable {
    package var blockByteCount: Int
    package var blocks: UInt64
    package var freeBlocks: UInt64
    package var availableBlocks: UInt64
    package var inodes: UInt64
    package var freeInodes: UInt64
    package var fsid: UInt64
}

/// The most that a file of the volume can have.
package struct VolumeLimits: Sendable {
    package var fileByteCount: UInt64
    package var linkCount: UInt32
    /// Nanoseconds: times are multiples of it.
    package var timeGranularity: UInt32
    /// Seconds.
    package var times: ClosedRange<Int64>
}

package struct MountOptions: Sendable {
    /// `errors=`: what happens when the image contradicts itself.
    package enum ErrorBehaviour: Sendable {
        case `continue`, remountReadOnly, panic
    }
    package var readOnly = false
    /// Read-only without a replay: the log stays as it is (norecovery, noload).
    package var noRecovery = false
    /// The longest that a finished change stays in memory alone.
    package var commitSeconds = 5
    /// The bound of clean metadata in memory.
    package var cacheByteCount = 64 << 20
    /// nil: as the super block says (`s_errors`).
    package var errors: ErrorBehaviour?
    package var discard = false
    /// Names change durably, in every directory (dirsync). chattr(1) says it of one: `FileSystem.settle`.
    package var synchronousNames = false
    /// Overwrites go to new blocks, so that each is there whole or not at all. A file may say otherwise:
    /// `FileSystem.outOfPlaceAttribute`.
    package var outOfPlace = false
    /// The caller says by `setAttributes` when the data of a file have changed, as the kernel does where it collects
    /// what is written: what changes them here leaves the times alone.
    package var kernelKeepsTimes = false
    /// Whether reading moves the access time; and of directories too.
    package var movesAccessTimes = true
    package var movesDirectoryAccessTimes = true
    /// Whether access lists are inherited, and follow the mode. Without, they lie there and do nothing.
    package var usesAccessLists = true
    /// References are given back by other threads than those that call, as a kernel does: who finds no room just after
    /// a removal waits for that.
    package var awaitsForgets = false
    /// Hears of what someone who looks after the volume should know, a line each. May be called on any thread and with
    /// locks held: it must not call the file system.
    package var notify: @Sendable (String) -> Void = { _ in }
    /// Holds the journal of a volume whose super block says that it lies elsewhere (`journal_dev=`).
    package var journalDevice: (any BlockDevice)?
    /// Commit and checkpoint are driven by the caller alone: for tests in which a seed decides everything.
    package var manualJournal = false
    /// Time of day; a test may freeze it.
    package var clock: @Sendable () -> Timestamp = systemClock
    /// The generation of the first inode that is made; the following ones count up.
    package var firstGeneration = UInt32.random(in: 1 ... .max)
    package init() {}
}

/// The file types of `i_mode`, and their codes in directory entries (`EXT4_FT_*`) and for readdir (`DT_*`).
package enum FileType: UInt16, Sendable {
    case fifo = 0x1000
    case characterDevice = 0x2000
    case directory = 0x4000
    case blockDevice = 0x6000
    case regular = 0x8000
    case symlink = 0xA000
    case socket = 0xC000

    package static let mask: UInt16 = 0xF000

    package init?(mode: UInt16) { self.init(rawValue: mode & Self.mask) }

    /// `EXT4_FT_*`.
    package var entryCode: UInt8 {
        switch self {
        case .regular: 1
        case .directory: 2
        case .characterDevice: 3
        case .blockDevice: 4
        case .fifo: 5
        case .socket: 6
        case .symlink: 7
        }
    }

    /// `DT_*` of an entry code; 0 (unknown) for codes that ext4 does not define.
    package static func direntType(ofEntryCode code: UInt8) -> UInt8 {
        let types: [UInt8] = [0, 8, 4, 2, 6, 1, 12, 10]
        return code < types.count ? types[Int(code)] : 0
    }
}
