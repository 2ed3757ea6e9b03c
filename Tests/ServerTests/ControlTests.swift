import BlockIO
import Ext4Format
import Glibc
import Server
import Testing

/// A server on a device number that no mount has, and a client of it.
@Suite struct ControlTests {
    private let record = MountRecord(
        device: "test-\(getpid())-\(UInt32.random(in: 0 ... .max))", directory: "/", type: "fuse.jext4",
        source: "image",
        user: geteuid(), group: getegid())

    private func server() throws -> ControlServer {
        let server = try #require(
            ControlServer(device: record.device) { command throws(Ext4Error) in
                switch command {
                case .status: return "blocks: 7\n"
                case .statusJSON: return "{\"blocks\":7}\n"
                case .sync: throw .corrupt("inode", where: "block 9")
                case .wait: return ""
                case .mark(let label):
                    guard label == "a mark: 1" else { throw .refused("another label: \(label)") }
                    return ""
                }
            })
        server.start()
        return server
    }

    /// Without root this socket is the only way to learn of the server, so what it says must come through whole.
    @Test func statusComesThrough() throws {
        let server = try server()
        let client = MountClient(record: record)
        #expect(try client.status(json: false) == "blocks: 7\n")
        #expect(try client.status(json: true) == "{\"blocks\":7}\n")
        server.finish(nil)
    }

    /// A label is anything on one line; another command must not come out of it.
    @Test func marksComeThroughWhole() throws {
        let server = try server()
        let client = MountClient(record: record)
        try client.mark("a mark: 1")
        #expect(throws: Ext4Error.self) { try client.mark("another") }
        for label in ["", "two\nlines", String(repeating: "x", count: 480)] {
            #expect(throws: Ext4Error.self) { try client.mark(label) }
        }
        server.finish(nil)
    }

    /// jext4 sync must not report success when the server could not sync.
    @Test func aFailedSyncIsAFailure() throws {
        let server = try server()
        let client = MountClient(record: record)
        do throws(Ext4Error) {
            try client.sync()
            Issue.record("the failure was lost")
        } catch {
            #expect(error.description.contains("corrupt inode (block 9)"))
        }
        server.finish(nil)
    }

    /// jext4 umount returns when the volume is closed, with the outcome of that, and not when the mount is gone.
    @Test func waitersHearOfTheEndAndOfItsFailure() throws {
        let good = try server()
        let client = MountClient(record: record)
        let waiting = try client.enlist()
        good.finish(nil)
        try client.outcome(waiting)

        let bad = try server()
        let other = try client.enlist()
        bad.finish(.io(errno: 5, operation: "flush", offset: 0, count: 0))
        #expect(throws: Ext4Error.self) { try client.outcome(other) }
    }

    /// A mount that somebody tries to unmount again and again must not run out of descriptors.
    @Test func whoGaveUpWaitingIsForgotten() throws {
        let server = try server()
        let client = MountClient(record: record)
        for _ in 0..<20 { close(try client.enlist()) }
        // Each connection that the server holds has the name of its socket, and so has the one that it listens on.
        func connectionCount() throws -> Int {
            let table = try #require(readText("/proc/net/unix"))
            return table.split(separator: "\n").count { $0.hasSuffix(record.device) }
        }
        var attempts = 100
        repeat {
            _ = try client.status(json: false)
            attempts -= 1
        } while try connectionCount() > 1 && attempts > 0
        #expect(try connectionCount() <= 1)
        server.finish(nil)
    }

    /// A server that dies says nothing: that is no success.
    @Test func silenceIsAFailure() throws {
        let client = MountClient(record: record)
        var ends: [CInt] = [0, 0]
        #expect(pipe(&ends) == 0)
        close(ends[1])
        #expect(throws: Ext4Error.self) { try client.outcome(ends[0]) }
    }
}
