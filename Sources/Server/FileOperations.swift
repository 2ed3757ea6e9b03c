internal import CFuse3
internal import CFuseShims
internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Threads

// Data: open, read, write, seek and sync. Files have no open state here but for batches: a read or write names the
// inode, and the reference that the lookup took keeps an unlinked one alive.

/// ENOSYS once tells the kernel that no open or release is wanted; it then keeps the page cache over opens.
@c(jext4_serve_open)
func serveOpen(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ file: UnsafeMutablePointer<fuse_file_info>?) {
    let request = unsafe Request(raw)
    guard !request.session.mayRefuseOpen else { return request.fail(ENOSYS) }
    unsafe request.session.open(file)
    unsafe request.answer(opened: file)
}

@c(jext4_serve_read)
func serveRead(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ count: Int, _ offset: off_t,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    let request = unsafe Request(raw)
    guard let worker = unsafe jext4_worker(), offset >= 0, count >= 0, unsafe count <= worker.pointee.scratch_size
    else { return request.fail(EINVAL) }
    do throws(Ext4Error) {
        var span = unsafe MutableRawSpan(_unsafeStart: worker.pointee.scratch, byteCount: count)
        let done = try request.fileSystem.read(
            NodeID.inode(node), at: UInt64(offset), into: &span, movesAccessTime: DirectRequest.movesAccessTime)
        request.answer(scratch: done)
    } catch {
        request.fail(error)
    }
}

/// The flags of `fuse_write_in`, which lies right before the payload: libfuse does not pass them on.
private enum WriteHeader {
    /// From the payload back to the flags, in bytes.
    static var flagsBefore: Int { 20 }
    /// Pages of the kernel's cache, which a program has changed some time ago.
    static var isWrittenBack: UInt32 { 1 << 0 }
    /// The caller may not keep set-user-id and set-group-id bits over a write.
    static var killPrivileges: UInt32 { 1 << 2 }
}

@c(jext4_serve_write)
func serveWrite(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ bytes: UnsafePointer<CChar>?, _ count: Int, _ offset: off_t,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    let request = unsafe Request(raw)
    guard let bytes = unsafe bytes, offset >= 0 else { return request.fail(EINVAL) }
    let payload = unsafe UnsafeRawPointer(bytes)
    let inode = NodeID.inode(node)
    do throws(Ext4Error) {
        let flags = unsafe payload.loadUnaligned(fromByteOffset: -WriteHeader.flagsBefore, as: UInt32.self)
        if flags & WriteHeader.killPrivileges != 0 { try request.killPrivileges(of: inode) }
        let data = unsafe RawSpan(_unsafeStart: payload, byteCount: count)
        if flags & WriteHeader.isWrittenBack != 0 {
            try request.writeBack(inode, at: UInt64(offset), data)
            return request.answer(written: count)
        }
        let isAppending = unsafe (file?.pointee.flags ?? 0) & O_APPEND != 0
        let done = try request.fileSystem.write(
            inode, at: UInt64(offset), data, by: request.caller, isAppending: isAppending)
        request.answer(written: done)
    } catch {
        request.fail(error)
    }
}

extension Request {
    /// A kernel that collects what is written asks for no attributes afterwards; but how many blocks a file has, it
    /// cannot know.
    fileprivate func writeBack(_ inode: InodeNumber, at offset: UInt64, _ data: RawSpan) throws(Ext4Error) {
        guard session.usesWritebackCache else { return try fileSystem.writeBack(inode, at: offset, data) }
        let before = try fileSystem.attributes(of: inode).sectorCount
        try fileSystem.writeBack(inode, at: offset, data)
        if try fileSystem.attributes(of: inode).sectorCount != before { session.forgetAttributes(of: inode) }
    }
}

/// Part of close(2). ENOSYS once, and the kernel asks no more; but who dies must not leave a batch behind, and the
/// locks that the process holds are released only when this has been answered.
@c(jext4_serve_flush)
func serveFlush(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ file: UnsafeMutablePointer<fuse_file_info>?) {
    let request = unsafe Request(raw)
    guard request.session.servesBatches else { return request.fail(ENOSYS) }
    let thread = request.callerProcess.id
    request.abortBatch(of: NodeID.inode(node)) { owner in
        owner.process == jext4_thread_group(thread) && jext4_is_exiting(thread)
    }
}

/// The last use of an open file has ended.
@c(jext4_serve_release)
func serveRelease(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ file: UnsafeMutablePointer<fuse_file_info>?) {
    let request = unsafe Request(raw)
    let handle = unsafe file?.pointee.fh
    request.abortBatch(of: NodeID.inode(node)) { $0.handle == handle }
}

extension Request {
    fileprivate consuming func abortBatch(of inode: InodeNumber, where isMeant: (BatchOwner) -> Bool) {
        do throws(Ext4Error) {
            if fileSystem.hasBatches, try fileSystem.abortBatch(inode, where: isMeant) {
                session.forgetContent(of: inode)
            }
            succeed()
        } catch {
            fail(error)
        }
    }
}

@c(jext4_serve_fsync)
func serveFsync(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ dataOnly: CInt, _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    let request = unsafe Request(raw)
    let fileSystem = request.fileSystem
    let file = NodeID.inode(node), isDataOnly = dataOnly != 0
    guard !request.session.usesRings else {
        // The answer goes with the thread that took the request; asked like this, one commit serves many of them.
        let heard = Monitor<(isThere: Bool, failure: Ext4Error?)>((false, nil))
        fileSystem.sync(file, dataOnly: isDataOnly) { failure in
            heard.withLock { $0 = (true, failure) }
            heard.notifyAll()
        }
        let failure = heard.wait { $0.isThere ? .some($0.failure) : nil }
        return if let failure { request.fail(failure) } else { request.succeed() }
    }
    let waiting = WaitingRequest(request)
    fileSystem.sync(file, dataOnly: isDataOnly) { waiting.end(with: $0) }
}

@c(jext4_serve_fallocate)
func serveFallocate(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ mode: CInt, _ offset: off_t, _ length: off_t,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    let request = unsafe Request(raw)
    guard offset >= 0, length > 0 else { return request.fail(EINVAL) }
    let inode = NodeID.inode(node)
    do throws(Ext4Error) {
        try request.killPrivileges(of: inode)
        try request.fileSystem.allocate(
            inode, at: UInt64(offset), count: UInt64(length),
            mode: AllocationMode(rawValue: UInt32(bitPattern: mode)), by: request.caller)
        request.succeed()
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_copy_file_range)
func serveCopyFileRange(
    _ raw: fuse_req_t?, _ source: fuse_ino_t, _ sourceOffset: off_t,
    _ sourceFile: UnsafeMutablePointer<fuse_file_info>?,
    _ target: fuse_ino_t, _ targetOffset: off_t, _ targetFile: UnsafeMutablePointer<fuse_file_info>?, _ count: Int,
    _ flags: CInt
) {
    let request = unsafe Request(raw)
    guard sourceOffset >= 0, targetOffset >= 0, count >= 0, flags == 0 else { return request.fail(EINVAL) }
    let inode = NodeID.inode(target)
    do throws(Ext4Error) {
        try request.killPrivileges(of: inode)
        let done = try request.fileSystem.copy(
            from: NodeID.inode(source), at: UInt64(sourceOffset), to: inode, at: UInt64(targetOffset),
            count: UInt64(count), by: request.caller)
        request.answer(written: done)
    } catch {
        request.fail(error)
    }
}

/// FIBMAP, which the kernel asks of mounts on a block device only, and in units of its own: a block of ours is some of
/// those.
@c(jext4_serve_bmap)
func serveBmap(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ blockByteCount: Int, _ block: UInt64) {
    let request = unsafe Request(raw)
    let ratio = UInt64(request.fileSystem.blockByteCount / max(blockByteCount, 1))
    guard ratio > 0 else { return request.fail(EINVAL) }
    do throws(Ext4Error) {
        let found = try request.fileSystem.deviceBlock(of: NodeID.inode(node), at: block / ratio)
        request.answer(block: found == 0 ? 0 : found * ratio + block % ratio)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_lseek)
func serveLseek(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ offset: off_t, _ whence: CInt,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    /// SEEK_DATA and SEEK_HOLE of lseek(2); the kernel answers the others itself.
    let seekData: CInt = 3, seekHole: CInt = 4
    let request = unsafe Request(raw)
    // The kernel asks without a look at the pages that it has not sent. Told ENOSYS, it takes all of a file for data.
    if request.session.usesWritebackCache { return request.fail(ENOSYS) }
    guard whence == seekData || whence == seekHole else { return request.fail(EINVAL) }
    guard offset >= 0 else { return request.fail(ENXIO) }
    do throws(Ext4Error) {
        let found = try request.fileSystem.seek(NodeID.inode(node), from: UInt64(offset), for: whence == seekData)
        request.answer(position: found)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_statfs)
func serveStatfs(_ raw: fuse_req_t?, _ node: fuse_ino_t) {
    let request = unsafe Request(raw)
    let statistics = request.fileSystem.statistics()
    request.answer(statistics)
}
