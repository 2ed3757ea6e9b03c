internal import CFuse3
internal import Ext4Format
internal import FileSystem
internal import Glibc

// Attributes and extended attributes.

@c(jext4_serve_getattr)
func serveGetattr(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ file: UnsafeMutablePointer<fuse_file_info>?) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let attributes = try request.fileSystem.attributes(of: NodeID.inode(node))
        request.answer(attributes)
    } catch {
        request.fail(error)
    }
}

private func changes(
    _ status: stat, _ mask: CInt, of inode: InodeNumber, _ request: borrowing Request
) throws(Ext4Error) -> AttributeChanges {
    func has(_ flag: CInt) -> Bool { mask & flag != 0 }
    var changes = AttributeChanges()
    if has(FUSE_SET_ATTR_MODE) { changes.mode = UInt16(truncatingIfNeeded: status.st_mode & 0o7777) }
    if has(FUSE_SET_ATTR_UID) { changes.uid = status.st_uid }
    if has(FUSE_SET_ATTR_GID) { changes.gid = status.st_gid }
    if has(FUSE_SET_ATTR_SIZE) { changes.size = UInt64(bitPattern: Int64(status.st_size)) }
    if has(FUSE_SET_ATTR_ATIME) {
        changes.access = has(FUSE_SET_ATTR_ATIME_NOW) ? .now : .to(Timestamp(status.st_atim))
    }
    if has(FUSE_SET_ATTR_MTIME) {
        changes.modification = has(FUSE_SET_ATTR_MTIME_NOW) ? .now : .to(Timestamp(status.st_mtim))
    }
    if has(FUSE_SET_ATTR_CTIME) { changes.change = .to(Timestamp(status.st_ctim)) }
    // chown(2) that names no owner: nothing is told, but for the time by a kernel that keeps it, and it counts as one.
    let namesNothing = mask & ~FUSE_SET_ATTR_CTIME == 0
    if namesNothing { changes.change = changes.change ?? .now }
    // The kernel leaves it to us to take set-id bits away: on a new owner always, on a new size when it says so.
    let isNewOwner = has(FUSE_SET_ATTR_UID) || has(FUSE_SET_ATTR_GID) || namesNothing
    if changes.mode == nil && (isNewOwner || has(FUSE_SET_ATTR_KILL_SUID)) {
        changes.mode = try request.unprivilegedMode(of: inode)
    }
    return changes
}

@c(jext4_serve_setattr)
func serveSetattr(
    _ raw: fuse_req_t?, _ node: fuse_ino_t, _ status: UnsafeMutablePointer<stat>?, _ mask: CInt,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    let request = unsafe Request(raw)
    guard let status = unsafe status?.pointee else { return request.fail(EINVAL) }
    let inode = NodeID.inode(node)
    do throws(Ext4Error) {
        let fileSystem = request.fileSystem
        let changes = try changes(status, mask, of: inode, request)
        let attributes = try fileSystem.setAttributes(of: inode, changes)
        if let size = changes.size {
            // The last block has been written anew, elsewhere.
            let unit = UInt64(fileSystem.blockByteCount)
            request.session.iomap.forget(inode, from: size / unit * unit)
        }
        request.answer(attributes)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_getxattr)
func serveGetxattr(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ name: UnsafePointer<CChar>?, _ room: Int) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let name = unsafe cStringBytes(name)
        guard let value = try request.fileSystem.extendedAttribute(name, of: NodeID.inode(node)) else {
            return request.fail(ENODATA)
        }
        request.answer(value, room: room)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_listxattr)
func serveListxattr(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ room: Int) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        // The kernel refuses to read these for others, but leaves it to the file system not to list them.
        let hidden = request.caller.uid == 0 ? nil : Array("trusted.".utf8)
        let names = try request.fileSystem.extendedAttributes(of: NodeID.inode(node)).filter { name in
            hidden.map { !name.starts(with: $0) } ?? true
        }
        request.answer(names.flatMap { $0 + [0] }, room: room)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_removexattr)
func serveRemovexattr(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ name: UnsafePointer<CChar>?) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let name = unsafe cStringBytes(name), inode = NodeID.inode(node)
        try request.fileSystem.removeExtendedAttribute(name, of: inode)
        if name == FileSystem.outOfPlaceAttribute { request.session.iomap.forget(inode) }
        request.succeed()
    } catch {
        request.fail(error)
    }
}
