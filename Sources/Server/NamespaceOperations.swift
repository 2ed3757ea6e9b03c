internal import CFuse3
internal import CFuseShims
internal import Ext4Format
internal import FileSystem
internal import Glibc

// Names: lookup and forget, making, linking, renaming and removing.

@c(jext4_serve_lookup)
func serveLookup(_ raw: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        if let found = try request.fileSystem.lookup(unsafe FileName(name), in: NodeID.inode(parent)) {
            request.answer(entry: found)
        } else {
            request.answerNoEntry()
        }
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_forget)
func serveForget(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ count: UInt64) {
    let request = unsafe Request(raw)
    request.fileSystem.forget(NodeID.inode(node), count: count)
    request.finish()
}

@c(jext4_serve_forget_multi)
func serveForgetMulti(_ raw: fuse_req_t?, _ count: Int, _ forgets: UnsafeMutablePointer<fuse_forget_data>?) {
    let request = unsafe Request(raw)
    let fileSystem = request.fileSystem
    let items = unsafe UnsafeBufferPointer(start: forgets, count: count)
    for index in 0..<items.count {
        fileSystem.forget(NodeID.inode(unsafe items[index].ino), count: unsafe items[index].nlookup)
    }
    request.finish()
}

@c(jext4_serve_mknod)
func serveMknod(
    _ raw: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?, _ mode: mode_t, _ device: dev_t
) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let made: Attributes
        let parent = NodeID.inode(parent)
        if mode & S_IFMT == S_IFREG {
            made = try request.fileSystem.createFile(
                unsafe FileName(name), in: parent, mode: UInt16(mode & 0o7777), caller: request.caller)
        } else {
            let number = DeviceNumber.decode(UInt32(truncatingIfNeeded: device))
            made = try request.fileSystem.makeNode(
                unsafe FileName(name), in: parent, mode: UInt16(truncatingIfNeeded: mode), major: number.major,
                minor: number.minor, caller: request.caller)
        }
        request.answer(entry: made)
    } catch {
        request.fail(error)
    }
}

/// Where open costs no message, neither should create: after ENOSYS the kernel makes a file with MKNOD alone, and sends
/// no RELEASE for it at close. It holds the directory's lock over lookup and MKNOD, so that O_EXCL stays exact. A file
/// without a name (O_TMPFILE, Linux 6.2) is made by this alone.
@c(jext4_serve_create)
func serveCreate(
    _ raw: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?, _ mode: mode_t,
    _ file: UnsafeMutablePointer<fuse_file_info>?
) {
    let request = unsafe Request(raw)
    let parent = NodeID.inode(parent), mode = UInt16(mode & 0o7777)
    let isNameless = unsafe jext4_worker()?.pointee.is_nameless ?? false
    guard isNameless || !request.session.mayRefuseOpen else { return request.fail(ENOSYS) }
    do throws(Ext4Error) {
        let made =
            isNameless
            ? try request.fileSystem.createNamelessFile(in: parent, mode: mode, caller: request.caller)
            : try request.fileSystem.createFile(unsafe FileName(name), in: parent, mode: mode, caller: request.caller)
        unsafe request.session.open(file)
        unsafe request.answer(created: made, file)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_mkdir)
func serveMkdir(_ raw: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?, _ mode: mode_t) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let made = try request.fileSystem.makeDirectory(
            unsafe FileName(name), in: NodeID.inode(parent), mode: UInt16(mode & 0o7777), caller: request.caller)
        request.answer(entry: made)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_symlink)
func serveSymlink(
    _ raw: fuse_req_t?, _ target: UnsafePointer<CChar>?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?
) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let made = try request.fileSystem.makeSymlink(
            unsafe FileName(name), in: NodeID.inode(parent), target: unsafe cStringBytes(target),
            caller: request.caller)
        request.answer(entry: made)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_link)
func serveLink(_ raw: fuse_req_t?, _ node: fuse_ino_t, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let linked = try request.fileSystem.link(
            NodeID.inode(node), as: unsafe FileName(name), in: NodeID.inode(parent), by: request.caller)
        request.answer(entry: linked)
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_unlink)
func serveUnlink(_ raw: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        try request.fileSystem.unlink(unsafe FileName(name), in: NodeID.inode(parent))
        request.succeed()
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_rmdir)
func serveRmdir(_ raw: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        try request.fileSystem.removeDirectory(unsafe FileName(name), in: NodeID.inode(parent))
        request.succeed()
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_rename)
func serveRename(
    _ raw: fuse_req_t?, _ parent: fuse_ino_t, _ name: UnsafePointer<CChar>?, _ newParent: fuse_ino_t,
    _ newName: UnsafePointer<CChar>?, _ flags: CUnsignedInt
) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        try request.fileSystem.rename(
            unsafe FileName(name), in: NodeID.inode(parent), to: unsafe FileName(newName),
            in: NodeID.inode(newParent), flags: RenameFlags(rawValue: flags), by: request.caller)
        request.succeed()
    } catch {
        request.fail(error)
    }
}

@c(jext4_serve_readlink)
func serveReadlink(_ raw: fuse_req_t?, _ node: fuse_ino_t) {
    let request = unsafe Request(raw)
    do throws(Ext4Error) {
        let target = try request.fileSystem.readLink(NodeID.inode(node))
        request.answer(target)
    } catch {
        request.fail(error)
    }
}
