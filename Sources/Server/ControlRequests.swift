internal import CFuse3
internal import CFuseShims
internal import Ext4Format
internal import Glibc
internal import Journal

/// ioctl(2) on any file or directory of the mount. What is not known here is ENOTTY.
@c(jext4_serve_ioctl)
func serveIoctl(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ command: CUnsignedInt, _ argument: UnsafeMutableRawPointer?,
    _ file: UnsafeMutablePointer<fuse_file_info>?, _ flags: CUnsignedInt, _ input: UnsafeRawPointer?,
    _ inputCount: Int, _ room: Int
) {
    /// FS_IOC_SHUTDOWN, which is EXT4_IOC_SHUTDOWN.
    let shutDown: CUnsignedInt = 0x8004_587D
    let request = unsafe Request(raw)
    guard command == shutDown else { return request.fail(ENOTTY) }
    guard request.mayAdminister else { return request.fail(EPERM) }
    guard let number = request.callerWord(at: UInt64(UInt(bitPattern: argument))) else { return request.fail(EFAULT) }
    guard let mode = ShutdownMode(rawValue: number) else { return request.fail(EINVAL) }
    do throws(Ext4Error) {
        try request.session.shutDown(mode)
        request.answerControl()
    } catch {
        request.fail(error)
    }
}

extension Request {
    /// Whether the caller has CAP_SYS_ADMIN where the server runs; or is the user who runs it, who could end it too.
    fileprivate var mayAdminister: Bool {
        let (user, process) = callerProcess
        if user != 0 { return user == geteuid() }
        let administer: UInt64 = 1 << 21
        return jext4_capabilities(process) & administer != 0
    }

    /// Four bytes of the caller's memory, in which it waits for this answer. The kernel passes only the address: by its
    /// number FS_IOC_SHUTDOWN reads nothing from the caller.
    fileprivate func callerWord(at address: UInt64) -> UInt32? {
        var word: UInt32 = 0
        return unsafe jext4_read_memory(callerProcess.id, address, &word, MemoryLayout<UInt32>.size) ? word : nil
    }
}
