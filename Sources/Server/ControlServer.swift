internal import CFuseShims
package import Ext4Format
internal import Glibc
internal import Synchronization
internal import Threads

/// Answers `jext4 status`, `jext4 sync`, `jext4 mark` and `jext4 umount` of one mount. Only the user who mounted, and
/// root, are heard.
package final class ControlServer: Sendable {
    private let path: String
    private let listener: CInt
    /// Those who asked to be told of the end.
    private let waiting = Mutex<[CInt]>([])
    private let serve: @Sendable (ControlSocket.Command) throws(Ext4Error) -> String

    /// Listens for the mount with the device number `device`. `serve` gives the answer to every command but "wait", on
    /// the thread of the server. Nil when there is no place for the socket.
    package init?(device: String, _ serve: @escaping @Sendable (ControlSocket.Command) throws(Ext4Error) -> String) {
        guard let folder = ControlSocket.makeFolder() else { return nil }
        path = ControlSocket.path(in: folder, device: device)
        self.serve = serve
        listener = ControlSocket.make()
        // What lies there is left from a server that was killed: the device number is ours now.
        unsafe unlink(path)
        let bound = unsafe ControlSocket.withAddress(path) { unsafe bind(listener, $0, $1) }
        guard bound == 0, listen(listener, 16) == 0 else {
            close(listener)
            return nil
        }
    }

    /// Starts to answer. The thread lives as long as the process.
    package func start() {
        _ = Thread(name: "jext4-control") { [self] in
            while true {
                let peer = accept(listener, nil, nil)
                if peer >= 0 { answer(peer) } else if !Self.isPassing(errno) { return }
                dropThoseGone()
            }
        }
    }

    /// Whether accept(2), which failed with `number`, is to be called again. Where there was no room for one more,
    /// others get some time to make it.
    private static func isPassing(_ number: CInt) -> Bool {
        let pauseMicroseconds: UInt32 = 100_000
        switch number {
        case EINTR, ECONNABORTED: return true
        case EMFILE, ENFILE, ENOBUFS, ENOMEM:
            usleep(pauseMicroseconds)
            return true
        default: return false
        }
    }

    /// Who asked to be told of the end and could not bring it about, as files were in use, waits no more.
    private func dropThoseGone() {
        waiting.withLock { peers in
            peers.removeAll { peer in
                var state = pollfd(fd: peer, events: 0, revents: 0)
                guard unsafe poll(&state, 1, 0) > 0 else { return false }
                close(peer)
                return true
            }
        }
    }

    private func answer(_ peer: CInt) {
        var user = uid_t.max
        guard unsafe jext4_peer_user(peer, &user) == 0, user == 0 || user == geteuid() else {
            close(peer)
            return
        }
        ControlSocket.limitWaiting(peer, seconds: 5)
        guard let line = ControlSocket.readLine(peer), let command = ControlSocket.Command(line: line) else {
            ControlSocket.send("\(ControlSocket.failure)unknown command\n", to: peer)
            close(peer)
            return
        }
        if command == .wait {
            waiting.withLock { $0.append(peer) }
            ControlSocket.send(ControlSocket.success, to: peer)
            return
        }
        do throws(Ext4Error) {
            ControlSocket.send(ControlSocket.success + (try serve(command)), to: peer)
        } catch {
            ControlSocket.send("\(ControlSocket.failure)\(error)\n", to: peer)
        }
        close(peer)
    }

    /// Tells those who wait how the unmount went, and listens no more.
    package func finish(_ failure: Ext4Error?) {
        unsafe unlink(path)
        let text = failure.map { "\(ControlSocket.failure)\($0)\n" } ?? ControlSocket.success
        let peers = waiting.withLock { peers in
            defer { peers = [] }
            return peers
        }
        for peer in peers {
            ControlSocket.send(text, to: peer)
            close(peer)
        }
    }
}
