package import BlockIO
internal import CFuseShims
package import Ext4Format
internal import Glibc

/// A mount of jext4 as seen from another process: what `jext4 umount`, `sync` and `status` do.
package struct MountClient {
    package let record: MountRecord

    /// `directory` is where it is mounted. `.refused` when it is not, or is none of ours.
    package init(_ directory: String) throws(Ext4Error) {
        guard let resolved = resolvedPath(directory) else {
            throw .refused("\(directory): \(systemText(errno))")
        }
        guard let record = MountTable.record(at: resolved) else { throw .refused("\(directory) is not a mount point") }
        guard record.isOurs else { throw .refused("\(directory) is mounted as \(record.type), not by jext4") }
        self.record = record
    }

    package init(record: MountRecord) { self.record = record }

    package func status(json: Bool) throws(Ext4Error) -> String {
        try ask(json ? .statusJSON : .status, connect())
    }

    /// Puts a mark into the log that the mount records. `.refused` without one, and for a label that is empty, longer
    /// than 479 bytes or has a newline or a NUL.
    package func mark(_ label: String) throws(Ext4Error) {
        let count = label.utf8.count
        guard count >= 1, count <= ControlSocket.labelLimit, !label.utf8.contains(where: { $0 == 10 || $0 == 0 }) else {
            throw .refused("a mark is one line of 1 to \(ControlSocket.labelLimit) bytes")
        }
        _ = try ask(.mark(label), connect())
    }

    /// Everything that was written before is on the device when it returns.
    package func sync() throws(Ext4Error) {
        // The kernel brings its own dirty pages to the server first, and on a block mount has the server sync as well.
        let opened = openDirectory()
        guard opened >= 0 else { throw .refused("\(record.directory): \(systemText(errno))") }
        defer { close(opened) }
        guard jext4_syncfs(opened) == 0 else {
            throw .refused("sync of \(record.directory) failed: \(systemText(errno))")
        }
        if !record.isBlock { _ = try ask(.sync, connect()) }
    }

    /// Where only the user who mounted is let in, root becomes that user, for good. -1 and errno.
    private func openDirectory() -> CInt {
        func attempt() -> CInt { unsafe open(record.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
        let opened = attempt()
        guard opened < 0, errno == EACCES, geteuid() == 0, setgid(record.group) == 0, setuid(record.user) == 0 else {
            return opened
        }
        return attempt()
    }

    /// Unmounts, and returns when everything is on the device and the server has let go of the image. `.refused` also
    /// when it is unmounted and nobody could say how that went.
    package func unmount() throws(Ext4Error) {
        let server = Result(catching: enlist)
        do throws(Ext4Error) {
            try geteuid() == 0 ? unmountAsRoot() : unmountAsUser()
        } catch {
            if case .success(let server) = server { close(server) }
            throw error
        }
        switch server {
        case .success(let server): try outcome(server)
        case .failure(let cause):
            // umount(2) of a disk has waited until the server was done.
            if record.isBlock { return }
            throw .refused("unmounted, but without a word of whether everything is on the device: \(cause)")
        }
    }

    private func unmountAsRoot() throws(Ext4Error) {
        guard unsafe jext4_umount(record.directory, false) == 0 else {
            throw .refused("cannot unmount \(record.directory): \(systemText(errno))")
        }
    }

    private func unmountAsUser() throws(Ext4Error) {
        guard runHelper(["fusermount3", "-u", record.directory]) == 0 else {
            throw .refused("fusermount3 could not unmount \(record.directory)")
        }
    }

    // MARK: The socket

    /// Asks to be told of the end; what is returned goes to `outcome`.
    package func enlist() throws(Ext4Error) -> CInt {
        let server = try connect()
        guard ControlSocket.send("\(ControlSocket.Command.wait.line)\n", to: server),
            ControlSocket.readLine(server) == "ok"
        else {
            close(server)
            throw .refused("the server of \(record.directory) does not answer")
        }
        return server
    }

    /// Waits for the end of the server that `enlist` reached. Throws what it says went wrong.
    package func outcome(_ server: CInt) throws(Ext4Error) {
        defer { close(server) }
        let said = String(decoding: readAll(server), as: UTF8.self)
        if said.hasPrefix(ControlSocket.success) { return }
        throw Self.failure(said, "the server ended without a word; check the volume with e2fsck -fn")
    }

    private func connect() throws(Ext4Error) -> CInt {
        var cause = ENOENT
        for folder in ControlSocket.folders(of: record.user) {
            let server = ControlSocket.make()
            // For an answer we wait: a sync takes as long as the device does.
            ControlSocket.limitWaiting(server, seconds: 5, whatFor: [SO_SNDTIMEO])
            let path = ControlSocket.path(in: folder, device: record.device)
            if unsafe ControlSocket.withAddress(path, { unsafe Glibc.connect(server, $0, $1) }) == 0 {
                var user = uid_t.max
                // Anyone may make a socket in /tmp: hear only the user who mounted.
                if unsafe jext4_peer_user(server, &user) == 0, user == record.user { return server }
                cause = EPERM
            } else if errno != ENOENT {
                cause = errno
            }
            close(server)
        }
        throw .refused("cannot reach the server of \(record.directory): \(systemText(cause))")
    }

    private func ask(_ command: ControlSocket.Command, _ server: CInt) throws(Ext4Error) -> String {
        defer { close(server) }
        ControlSocket.send("\(command.line)\n", to: server)
        let said = String(decoding: readAll(server), as: UTF8.self)
        guard said.hasPrefix(ControlSocket.success) else { throw Self.failure(said, "the server does not answer") }
        return String(said.dropFirst(ControlSocket.success.count))
    }

    private static func failure(_ said: String, _ otherwise: String) -> Ext4Error {
        guard said.hasPrefix(ControlSocket.failure) else { return .refused(otherwise) }
        return .refused(String(said.dropFirst(ControlSocket.failure.count).prefix { $0 != "\n" }))
    }
}

/// Runs a program of the path and waits: its exit status, or -1.
@discardableResult func runHelper(_ words: [String]) -> CInt {
    var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
    defer { unsafe arguments.forEach { unsafe free($0) } }
    var process = pid_t()
    guard unsafe posix_spawnp(&process, words[0], nil, nil, &arguments, environ) == 0 else { return -1 }
    var status: CInt = 0
    while unsafe waitpid(process, &status, 0) < 0 { if errno != EINTR { return -1 } }
    return status & 0x7f == 0 ? status >> 8 & 0xff : -1
}
