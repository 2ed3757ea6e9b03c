internal import CFuse3
internal import CFuseShims
internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Journal

/// The ioctls that are known on a file or directory of the mount: docs/IOCTLS.md.
private enum Control {
    /// FS_IOC_SHUTDOWN, which is EXT4_IOC_SHUTDOWN.
    static var shutDown: CUnsignedInt { 0x8004_587D }
    /// FITRIM, _IOWR('X', 121, struct fstrim_range).
    static var trim: CUnsignedInt { 0xC018_5879 }
    /// F2FS_IOC_START_ATOMIC_WRITE, F2FS_IOC_COMMIT_ATOMIC_WRITE and F2FS_IOC_ABORT_ATOMIC_WRITE: _IO(0xF5, 1), 2
    /// and 5.
    static var startBatch: CUnsignedInt { 0xF501 }
    static var commitBatch: CUnsignedInt { 0xF502 }
    static var abortBatch: CUnsignedInt { 0xF505 }
    /// F2FS_IOC_GET_FEATURES, _IOR(0xF5, 12, u32), and the one feature that we have: F2FS_FEATURE_ATOMIC_WRITE.
    static var features: CUnsignedInt { 0x8004_F50C }
    static var hasBatches: UInt32 { 1 << 2 }
    /// JEXT4_IOC_SET_OUTOFPLACE, _IOW('J', 1, u32), and JEXT4_IOC_GET_OUTOFPLACE, _IOR('J', 2, u32).
    static var setOutOfPlace: CUnsignedInt { 0x4004_4A01 }
    static var getOutOfPlace: CUnsignedInt { 0x8004_4A02 }
}

/// `struct fstrim_range` of ioctl_fitrim(2), in bytes. `count` is answered with what was trimmed.
private struct TrimRange: BitwiseCopyable {
    var start: UInt64
    var count: UInt64
    var least: UInt64
}

/// ioctl(2) on any file or directory of the mount. What is not known here is ENOTTY.
@c(jext4_serve_ioctl)
func serveIoctl(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ command: CUnsignedInt, _ argument: UnsafeMutableRawPointer?,
    _ file: UnsafeMutablePointer<fuse_file_info>?, _ flags: CUnsignedInt, _ input: UnsafeRawPointer?,
    _ inputCount: Int, _ room: Int
) {
    let request = unsafe Request(raw)
    let inode = NodeID.inode(node)
    let mayBatch = request.session.servesBatches
    switch command {
    case Control.shutDown:
        request.shutDown(argument: UInt64(UInt(bitPattern: argument)))
    case Control.trim:
        guard let input = unsafe input, inputCount == MemoryLayout<TrimRange>.size else { return request.fail(EINVAL) }
        request.trim(unsafe input.loadUnaligned(as: TrimRange.self))
    case Control.features where mayBatch:
        request.answerControl(word: Control.hasBatches)
    case Control.startBatch where mayBatch, Control.commitBatch where mayBatch, Control.abortBatch where mayBatch:
        request.serveBatch(command, on: inode, handle: unsafe file?.pointee.fh ?? 0)
    case Control.getOutOfPlace:
        request.answerControl { request throws(Ext4Error) in
            try request.fileSystem.writesOutOfPlace(inode) ? 1 : 0
        }
    case Control.setOutOfPlace:
        guard let input = unsafe input, inputCount == MemoryLayout<UInt32>.size else { return request.fail(EINVAL) }
        request.setOutOfPlace(unsafe input.loadUnaligned(as: UInt32.self), of: inode)
    case FlagControl.getFlags, FlagControl.setFlags, FlagControl.getVersion, FlagControl.getVersionOfExt4,
        FlagControl.getExtended, FlagControl.setExtended:
        unsafe request.serveFlags(command, of: inode, input, inputCount)
    default:
        request.fail(ENOTTY)
    }
}

extension Request {
    /// Answers with the word that `body` gives, or with its error.
    fileprivate consuming func answerControl(_ body: (borrowing Request) throws(Ext4Error) -> UInt32) {
        do throws(Ext4Error) {
            answerControl(word: try body(self))
        } catch {
            fail(error)
        }
    }

    fileprivate consuming func shutDown(argument: UInt64) {
        guard mayAdminister else { return fail(EPERM) }
        guard let number = callerWord(at: argument) else { return fail(EFAULT) }
        guard let mode = ShutdownMode(rawValue: number) else { return fail(EINVAL) }
        do throws(Ext4Error) {
            try session.shutDown(mode)
            answerControl()
        } catch {
            fail(error)
        }
    }

    fileprivate consuming func trim(_ range: TrimRange) {
        guard mayAdminister else { return fail(EPERM) }
        do throws(Ext4Error) {
            var done = range
            done.count = try fileSystem.trim(from: range.start, count: range.count, least: range.least)
            unsafe answerControl(bytes: &done, count: MemoryLayout<TrimRange>.size)
        } catch {
            fail(error)
        }
    }

    fileprivate consuming func serveBatch(_ command: CUnsignedInt, on inode: InodeNumber, handle: UInt64) {
        let fileSystem = fileSystem, session = session, caller = caller
        do throws(Ext4Error) {
            switch command {
            case Control.startBatch:
                let process = jext4_thread_group(callerProcess.id)
                // Nobody would end the batch of a process that cannot be seen from here.
                guard process != 0, handle != 0 else { return fail(EOPNOTSUPP) }
                try fileSystem.startBatch(inode, owner: BatchOwner(process: process, handle: handle), by: caller)
            case Control.commitBatch:
                do throws(Ext4Error) {
                    try fileSystem.commitBatch(inode, by: caller)
                } catch {
                    session.forgetContent(of: inode)
                    throw error
                }
            default:
                if try fileSystem.abortBatch(inode, by: caller) { session.forgetContent(of: inode) }
            }
            answerControl()
        } catch {
            fail(error)
        }
    }

    /// 1: out of place; 0: in place; whatever the mount says.
    fileprivate consuming func setOutOfPlace(_ choice: UInt32, of inode: InodeNumber) {
        guard choice <= 1 else { return fail(EINVAL) }
        let caller = caller
        do throws(Ext4Error) {
            let attributes = try fileSystem.attributes(of: inode)
            guard mode_t(attributes.mode) & S_IFMT == S_IFREG else { return fail(EINVAL) }
            guard caller.uid == 0 || caller.uid == attributes.uid else { return fail(EACCES) }
            try fileSystem.setExtendedAttribute(
                FileSystem.outOfPlaceAttribute, of: inode, to: [UInt8(ascii: "0") + UInt8(choice)], create: false,
                replace: false, by: caller)
            session.iomap.forget(inode)
            answerControl()
        } catch {
            fail(error)
        }
    }

    /// Root without its capabilities may not; the user who runs the server may, who could end it too.
    fileprivate var mayAdminister: Bool {
        caller.uid == 0 ? holds(.administer) : caller.uid == geteuid()
    }

    /// Four bytes of the caller's memory, in which it waits for this answer. The kernel passes only the address: by its
    /// number FS_IOC_SHUTDOWN reads nothing from the caller.
    fileprivate func callerWord(at address: UInt64) -> UInt32? {
        var word: UInt32 = 0
        return unsafe jext4_read_memory(callerProcess.id, address, &word, MemoryLayout<UInt32>.size) ? word : nil
    }
}
