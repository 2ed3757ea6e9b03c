import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Glibc
import Logging
import Server
import Synchronization
import Testing
import Threads

/// What the server asks beside the connection: a device with the number 7, or none.
final class ScriptedKernel: IomapKernel {
    static let device: UInt32 = 7
    let isThere: Bool
    private let openCount = Mutex(0)

    init(isThere: Bool = true) { self.isThere = isThere }

    var isOpen: Bool { openCount.withLock { $0 == 1 } }

    func isThere(_ connection: CInt) -> Bool { isThere }
    func open(_ connection: CInt, blockByteCount: Int) throws(Ext4Error) -> UInt32 {
        openCount.withLock { $0 += 1 }
        return Self.device
    }
    func close(_ connection: CInt, device: UInt32) {
        precondition(device == Self.device)
        openCount.withLock { $0 -= 1 }
    }
}

/// An answer that is an errno.
struct Refusal: Error, Equatable, CustomStringConvertible {
    let number: Int32
    let opcode: UInt32
    var description: String { "errno \(number) for opcode \(opcode)" }
}

/// The kernel's end of a connection: real bytes over a socket pair, answered by a whole session.
final class KernelConnection {
    enum Opcode {
        static let lookup: UInt32 = 1, forget: UInt32 = 2, getattr: UInt32 = 3, setattr: UInt32 = 4
        static let unlink: UInt32 = 10, fsync: UInt32 = 20, initialize: UInt32 = 26, create: UInt32 = 35
        static let destroy: UInt32 = 38, fallocate: UInt32 = 43, readdirplus: UInt32 = 44, syncfs: UInt32 = 50
        static let freeze: UInt32 = 4089, unfreeze: UInt32 = 4090, shutDown: UInt32 = 4091
        static let configure: UInt32 = 4092, ioend: UInt32 = 4093, begin: UInt32 = 4094, end: UInt32 = 4095
    }
    static let flag: UInt64 = 1 << 43
    static let root: UInt64 = 1

    private let descriptor: CInt
    private let server: Threads.Thread
    private var lastUnique: UInt64 = 0
    private var replies: [UInt64: (failure: Int32, body: Message)] = [:]
    /// What INIT was answered.
    private(set) var agreedFlags: UInt64 = 0
    let script: ScriptedKernel
    /// What the server says without being asked: a code, and what follows the header.
    var hearNotice: ((Int32, Message) -> Void)?
    /// Why the session has ended, after `hangUp`.
    var failure: Ext4Error? { failureOfSession.value }
    private let failureOfSession = Failure()
    private final class Failure: Sendable {
        private let error = Mutex<Ext4Error?>(nil)
        var value: Ext4Error? { error.withLock { $0 } }
        func set(_ new: Ext4Error) { error.withLock { $0 = new } }
    }
    /// Who the next request is from.
    var user: UInt32 = 0

    /// Serves `fileSystem` until `close`. `minorVersion` is what the kernel says in INIT.
    init(
        _ fileSystem: FileSystem, script: ScriptedKernel = ScriptedKernel(), words: MountWords = MountWords(),
        minorVersion: UInt32 = 99, threadCount: Int = 1
    ) throws {
        var pair: [CInt] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &pair) == 0)
        descriptor = pair[0]
        self.script = script
        let theirs = pair[1]
        let session = try Session(
            MountedVolume(fileSystem), arguments: [], words: words, crewLimit: threadCount, log: Logger(label: "test"),
            iomap: script)
        try session.attach(theirs)
        let failure = failureOfSession
        server = Threads.Thread(name: "server") {
            do throws(Ext4Error) {
                try session.serveFirst()
                session.serveRest()
            } catch { failure.set(error) }
            Glibc.close(theirs)
        }
        try greet(minorVersion)
    }

    private func greet(_ minorVersion: UInt32) throws {
        var body = Message(count: 64)
        let hasMoreFlags: UInt64 = 1 << 30
        let flags = Self.flag | hasMoreFlags
        body.put(UInt32(7), 0)
        body.put(minorVersion, 4)
        body.put(UInt32(truncatingIfNeeded: flags), 12)
        body.put(UInt32(flags >> 32), 16)
        let answer = try call(Opcode.initialize, 0, body)
        agreedFlags = UInt64(answer.get(12, as: UInt32.self)) | UInt64(answer.get(32, as: UInt32.self)) << 32
    }

    /// DESTROY, then the end of the connection: the volume is unmounted when it returns.
    func close() throws {
        _ = try call(Opcode.destroy, 0, Message(count: 0))
        hangUp()
    }

    /// The end of the connection without a word.
    func hangUp() {
        Glibc.close(descriptor)
        server.join()
    }

    // MARK: Requests

    /// Sends a request, and answers its number.
    func send(_ opcode: UInt32, _ node: UInt64, _ body: Message) -> UInt64 {
        lastUnique += 2
        var header = Message(count: 40)
        header.put(UInt32(40 + body.bytes.count), 0)
        header.put(opcode, 4)
        header.put(lastUnique, 8)
        header.put(node, 16)
        header.put(user, 24)
        header.put(user, 28)
        let all = header.bytes + body.bytes
        precondition(write(descriptor, all, all.count) == all.count, "the server is gone: errno \(errno)")
        return lastUnique
    }

    /// The answer to a request, whenever it comes.
    func wait(for unique: UInt64, _ opcode: UInt32) throws -> Message {
        while replies[unique] == nil {
            var bytes = [UInt8](repeating: 0, count: 1 << 16)
            let count = read(descriptor, &bytes, bytes.count)
            try #require(count >= 16, "no answer to opcode \(opcode)")
            let message = Message(Array(bytes[..<count]))
            #expect(Int(message.get(0, as: UInt32.self)) == count)
            if message.get(8, as: UInt64.self) == 0 {
                hearNotice?(message.get(4), message.part(16..<count))
                continue
            }
            replies[message.get(8)] = (-message.get(4, as: Int32.self), message.part(16..<count))
        }
        guard let (failure, body) = replies.removeValue(forKey: unique) else { preconditionFailure() }
        if failure != 0 { throw Refusal(number: failure, opcode: opcode) }
        return body
    }

    func call(_ opcode: UInt32, _ node: UInt64, _ body: Message) throws -> Message {
        try wait(for: send(opcode, node, body), opcode)
    }

    // MARK: Names and attributes

    static func name(_ text: String) -> [UInt8] { Array(text.utf8) + [0] }

    /// `fuse_entry_out`.
    func lookup(_ text: String) throws -> Message {
        try call(Opcode.lookup, Self.root, Message(Self.name(text)))
    }

    func create(_ text: String) throws -> Message {
        var body = Message(count: 16)
        body.put(UInt32(2), 0)
        body.put(UInt32(0o100644), 4)
        return try call(Opcode.create, Self.root, Message(body.bytes + Self.name(text)))
    }

    func unlink(_ text: String) throws { _ = try call(Opcode.unlink, Self.root, Message(Self.name(text))) }

    /// Nothing comes back: with one thread, the next request comes after it.
    func forget(_ node: UInt64) {
        var body = Message(count: 8)
        body.put(UInt64(1), 0)
        _ = send(Opcode.forget, node, body)
    }

    /// `fuse_attr_out`.
    func attributes(_ node: UInt64) throws -> Message { try call(Opcode.getattr, node, Message(count: 16)) }

    /// READDIRPLUS of the root: `fuse_attr.flags` by name.
    func listRoot() throws -> [String: UInt32] {
        var body = Message(count: 40)
        body.put(UInt32(4_096), 16)
        let answer = try call(Opcode.readdirplus, Self.root, body)
        var result: [String: UInt32] = [:]
        var start = 0
        while start < answer.bytes.count {
            let count = Int(answer.get(start + 144, as: UInt32.self))
            let name = answer.bytes[(start + 152)..<(start + 152 + count)]
            result[String(decoding: name, as: UTF8.self)] = answer.get(start + 124)
            start += 128 + (24 + count + 7) / 8 * 8
        }
        return result
    }

    static func setSize(_ size: UInt64) -> Message {
        var body = Message(count: 88)
        body.put(UInt32(1 << 3), 0)
        body.put(size, 16)
        return body
    }

    func fsync(_ node: UInt64, dataOnly: Bool = false) throws {
        var body = Message(count: 16)
        body.put(UInt32(dataOnly ? 1 : 0), 8)
        _ = try call(Opcode.fsync, node, body)
    }

    func allocate(_ node: UInt64, _ range: Range<UInt64>, mode: UInt32) throws {
        var body = Message(count: 32)
        body.put(range.lowerBound, 8)
        body.put(range.upperBound - range.lowerBound, 16)
        body.put(mode, 24)
        _ = try call(Opcode.fallocate, node, body)
    }

    func syncAll() throws { _ = try call(Opcode.syncfs, Self.root, Message(count: 8)) }

    /// CONFIG, `flags` of what the kernel accepts.
    func configure(flags: UInt64 = 0x3f) throws -> Message {
        var body = Message(count: 64)
        body.put(flags, 0)
        body.put(Int64.max, 8)
        return try call(Opcode.configure, 0, body)
    }
}
