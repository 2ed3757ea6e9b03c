internal import CFuse3
internal import CFuseShims
internal import Ext4Format
internal import FileSystem
internal import Glibc

// Directories as streams. There is no open state: the cookie of a record says where to go on.

/// ENOSYS once: no more opendir or releasedir, and the kernel caches the records until it changes the directory.
@c(jext4_serve_opendir)
func serveOpendir(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ file: UnsafeMutablePointer<fuse_file_info>?) {
    let request = unsafe Request(raw)
    guard !request.session.mayRefuseOpendir else { return request.fail(ENOSYS) }
    unsafe file?.pointee.keep_cache = 1
    unsafe file?.pointee.cache_readdir = 1
    unsafe request.answer(opened: file)
}

private func serveRecords(
    _ request: consuming Request, _ node: fuse_ino_t, _ count: Int, _ offset: off_t, withEntries: Bool
) {
    guard let worker = unsafe jext4_worker(), count >= 0, unsafe count <= worker.pointee.scratch_size else {
        return request.fail(EINVAL)
    }
    var page = unsafe DirectoryPage(
        base: worker.pointee.scratch, room: count, blockByteCount: request.session.blockByteCount,
        request.session.iomap)
    do throws(Ext4Error) {
        try request.fileSystem.readDirectory(
            NodeID.inode(node), after: UInt64(bitPattern: Int64(offset)), withAttributes: withEntries,
            movesAccessTime: DirectRequest.movesAccessTime
        ) { page.add($0, withEntry: withEntries) }
    } catch {
        // What came before the damage is served first; the next call meets the error again, alone.
        guard page.count > 0 else { return request.fail(error) }
    }
    request.answer(scratch: page.count)
}

@c(jext4_serve_readdir)
func serveReaddir(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ count: Int, _ offset: off_t,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    serveRecords(unsafe Request(raw), node, count, offset, withEntries: false)
}

@c(jext4_serve_readdirplus)
func serveReaddirplus(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ count: Int, _ offset: off_t,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    serveRecords(unsafe Request(raw), node, count, offset, withEntries: true)
}
