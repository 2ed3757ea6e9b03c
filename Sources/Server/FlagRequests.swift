internal import CFuseShims
internal import Ext4Format
internal import FileSystem
internal import Glibc

// The ioctls of lsattr(1) and chattr(1). The kernel asks for both views of an inode, whichever a program names, and
// checks who the caller is before it sends one that changes something; older ones check nothing.

/// FS_IOC_GETFLAGS and so on, of linux/fs.h.
enum FlagControl {
    /// FS_IOC_GETFLAGS, _IOR('f', 1, long), and FS_IOC_SETFLAGS, _IOW('f', 2, long): 32 bits for all that.
    static var getFlags: CUnsignedInt { 0x8008_6601 }
    static var setFlags: CUnsignedInt { 0x4008_6602 }
    /// FS_IOC_GETVERSION, _IOR('v', 1, long), and EXT4_IOC_GETVERSION, _IOR('f', 3, long): 32 bits again.
    static var getVersion: CUnsignedInt { 0x8008_7601 }
    static var getVersionOfExt4: CUnsignedInt { 0x8008_6603 }
    /// FS_IOC_FSGETXATTR, _IOR('X', 31, struct fsxattr), and FS_IOC_FSSETXATTR, _IOW('X', 32, struct fsxattr).
    static var getExtended: CUnsignedInt { 0x801C_581F }
    static var setExtended: CUnsignedInt { 0x401C_5820 }
}

/// `struct fsxattr` of linux/fs.h. ext4 has nothing to say of the sizes and counts of extents.
private struct ExtendedFlags: BitwiseCopyable {
    var flags: UInt32 = 0
    var extentSize: UInt32 = 0
    var extentCount: UInt32 = 0
    var project: UInt32 = 0
    var copiedExtentSize: UInt32 = 0
    var padding: (UInt32, UInt32) = (0, 0)

    /// FS_XFLAG_*, and what they are called in an inode.
    private static var names: [(UInt32, InodeRecord.Flags)] {
        [
            (0x8, .immutable), (0x10, .appendOnly), (0x20, .sync), (0x40, .noAccessTime), (0x80, .noDump),
            (0x200, .projectInherit), (0x8000, .directAccess), (0x2_0000, .verity),
        ]
    }

    init(_ inode: InodeFlags) {
        for (flag, own) in Self.names where inode.flags.contains(own) { flags |= flag }
        project = inode.project
    }

    /// Only the flags that have a name here change; what ext4 does not have is overlooked, as by Linux.
    func applied(to inode: InodeFlags) -> InodeFlags {
        var changed = inode.flags
        for (flag, own) in Self.names {
            if flags & flag != 0 { changed.insert(own) } else { changed.remove(own) }
        }
        return InodeFlags(flags: changed, project: project)
    }
}

extension Request {
    /// `command` is one of `FlagControl`.
    consuming func serveFlags(
        _ command: CUnsignedInt, of inode: InodeNumber, _ input: UnsafeRawPointer?, _ inputCount: Int
    ) {
        do throws(Ext4Error) {
            switch command {
            case FlagControl.getFlags: answerControl(word: try fileSystem.flags(of: inode).flags.rawValue)
            case FlagControl.getVersion, FlagControl.getVersionOfExt4:
                answerControl(word: try fileSystem.attributes(of: inode).generation)
            case FlagControl.getExtended:
                var answer = ExtendedFlags(try fileSystem.flags(of: inode))
                unsafe answerControl(bytes: &answer, count: MemoryLayout<ExtendedFlags>.size)
            case FlagControl.setFlags:
                guard let input = unsafe input, inputCount >= MemoryLayout<UInt32>.size else { return fail(EINVAL) }
                var wanted = try fileSystem.flags(of: inode)
                wanted.flags = InodeRecord.Flags(rawValue: unsafe input.loadUnaligned(as: UInt32.self))
                try setFlags(wanted, of: inode)
                answerControl()
            default:
                guard let input = unsafe input, inputCount >= MemoryLayout<ExtendedFlags>.size else {
                    return fail(EINVAL)
                }
                let wanted = unsafe input.loadUnaligned(as: ExtendedFlags.self)
                try setFlags(wanted.applied(to: try fileSystem.flags(of: inode)), of: inode)
                answerControl()
            }
        } catch {
            fail(error)
        }
    }

    private func setFlags(_ wanted: InodeFlags, of inode: InodeNumber) throws(Ext4Error) {
        let attributes = try fileSystem.attributes(of: inode), before = try fileSystem.flags(of: inode)
        guard caller.uid == attributes.uid || holds(.actAsOwner) else { throw .posix(Errno.notPermitted) }
        let fixing: InodeRecord.Flags = [.immutable, .appendOnly]
        let changed = wanted.flags.symmetricDifference(before.flags).intersection(fixing)
        guard changed.isEmpty || holds(.fixFiles) else { throw .posix(Errno.notPermitted) }
        // What the kernel has collected was written before.
        if !changed.isDisjoint(with: wanted.flags) { session.forgetContent(of: inode) }
        try fileSystem.setFlags(of: inode, to: wanted)
        // The change time has moved.
        session.forgetAttributes(of: inode)
    }
}
