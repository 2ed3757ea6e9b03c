import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Server
import Testing

/// What the two sides say to one another beside the data.
@Suite struct IomapConnectionTests {
    private static func mounted() throws -> FileSystem {
        try FileSystem.mount(on: MemoryDevice(TestImage.small.make()), options: .deterministic())
    }

    /// A kernel that means something else by the bit of INIT, or that says no when it is asked, has no fuse-iomap.
    @Test(arguments: [(46, true), (99, false)] as [(UInt32, Bool)])
    func theBitAloneSaysNothing(minorVersion: UInt32, isThere: Bool) throws {
        let connection = try KernelConnection(
            Self.mounted(), script: ScriptedKernel(isThere: isThere), minorVersion: minorVersion)
        #expect(connection.agreedFlags & KernelConnection.flag == 0)
        #expect(throws: Refusal(number: KernelFile.noSystemCall, opcode: KernelConnection.Opcode.configure)) {
            try connection.configure()
        }
        let entry = try connection.create("file")
        #expect(entry.get(124, as: UInt32.self) == 0)
        let file = KernelFile(entry, connection, MemoryDevice(byteCount: 512), unit: 1024)
        #expect(throws: Refusal(number: KernelFile.noSystemCall, opcode: KernelConnection.Opcode.begin)) {
            try file.begin([], 0, 4096)
        }
        try connection.close()
        #expect(!connection.script.isOpen)
    }

    /// Whoever demands it gets it, or a mount that says why not.
    @Test func whatIsDemandedAndAbsentIsRefused() throws {
        #expect(try MountWords(parsing: ["iomap"]).demandsIomap)
        #expect(try !MountWords(parsing: ["iomap,noiomap"]).demandsIomap)
        for words in ["iomap,record=log", "iomap,io_uring"] {
            #expect(throws: Ext4Error.self) { try MountWords(parsing: [words]) }
        }
        let connection = try KernelConnection(
            Self.mounted(), words: MountWords(parsing: ["iomap"]), minorVersion: 46)
        connection.hangUp()
        guard case .refused(let reason) = connection.failure else {
            Issue.record("\(String(describing: connection.failure))")
            return
        }
        #expect(reason.contains("'iomap'"))
    }

    /// The kernel sizes its inodes and times by this, and pads must be zeros.
    @Test func theVolumeIsDescribed() throws {
        let mount = try TestMount(.large)
        #expect(mount.connection.agreedFlags & KernelConnection.flag != 0)
        #expect(mount.connection.script.isOpen)
        let answer = mount.configuration
        #expect(answer.bytes.count == 104)
        #expect(answer.get(0, as: UInt64.self) == 0x3f)
        #expect(Array(answer.bytes[40..<56]) == mount.fileSystem.uuid)
        #expect(answer.get(56, as: UInt8.self) == 16 && answer.bytes[57..<60].allSatisfy { $0 == 0 })
        #expect(answer.get(60, as: UInt32.self) == 4_096 && answer.get(64, as: UInt32.self) == 65_000)
        #expect(answer.get(68, as: UInt32.self) == 1)
        #expect(answer.get(72, as: Int64.self) == -0x8000_0000)
        #expect(answer.get(80, as: Int64.self) == 0x3_7fff_ffff)
        #expect(answer.get(88, as: Int64.self) == 0xffff_ffff * 4_096)
        #expect(answer.bytes[96...].allSatisfy { $0 == 0 })
        #expect(throws: Refusal(number: KernelFile.noSystemCall, opcode: KernelConnection.Opcode.configure)) {
            try mount.connection.configure()
        }
        try mount.finish()
    }

    /// The first answer about a file decides who moves its data; a directory's are nobody's.
    @Test func everyAnswerAboutAFileEnablesIt() throws {
        let mount = try TestMount()
        let wanted: UInt32 = 4 | 8 | 16
        let entry = try mount.connection.create("file")
        let node: UInt64 = entry.get(0)
        #expect(entry.get(124, as: UInt32.self) == wanted)
        #expect(try mount.connection.lookup("file").get(124, as: UInt32.self) == wanted)
        #expect(try mount.connection.attributes(node).get(100, as: UInt32.self) == wanted)
        #expect(try mount.connection.attributes(KernelConnection.root).get(100, as: UInt32.self) == 0)
        #expect(try mount.connection.lookup("lost+found").get(124, as: UInt32.self) == 0)
        let flags = try mount.connection.listRoot().filter { $0.value != 0 }
        #expect(flags == ["file": wanted])
        try mount.finish()
    }

    /// Nothing of a frozen volume is lost by a power cut; a shut down one gives nothing any more.
    @Test func freezeThawAndShutDown() throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.writeDirect(TestMount.pattern(1, 4_096), at: 0)
        let commits = try #require(mount.fileSystem.journalCounters).commits
        _ = try mount.connection.call(KernelConnection.Opcode.freeze, KernelConnection.root, Message(count: 8))
        #expect(try #require(mount.fileSystem.journalCounters).commits > commits)
        _ = try mount.connection.call(KernelConnection.Opcode.unfreeze, KernelConnection.root, Message(count: 0))
        _ = try mount.connection.call(KernelConnection.Opcode.shutDown, KernelConnection.root, Message(count: 8))
        #expect(throws: Refusal(number: Errno.ioError, opcode: KernelConnection.Opcode.begin)) {
            try file.begin(.write, 0, 4_096)
        }
        try mount.finish()
    }

    /// FIEMAP and SEEK_DATA: data that are only in the page cache are data.
    @Test func promisedDataAreReported() throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.truncate(to: 65_536)
        try file.write(TestMount.pattern(1, 4_096), at: 8_192)
        let hole = try file.begin(.report, 0, 65_536).map, data = try file.begin(.report, 8_192, 65_536).map
        #expect(hole.type == Mapping.hole && hole.end == 8_192)
        #expect(data.type == Mapping.delayed && data.offset == 8_192 && data.end == 12_288)
        let submissions = try file.submit()
        #expect(try file.begin(.report, 8_192, 1).map.type == Mapping.delayed)
        for submission in submissions { try file.report(submission) }
        #expect(try file.begin(.report, 8_192, 1).map.type == Mapping.mapped)
        #expect(throws: Refusal(number: Errno.notSupported, opcode: KernelConnection.Opcode.begin)) {
            try file.begin([.swap, .report], 0, 65_536)
        }
        try mount.finish()
    }

    /// P6: whatever the bytes of a request are, it has an answer and the volume stays whole.
    @Test func anyBytesAreAnswered() throws {
        let mount = try TestMount()
        let file = try mount.create()
        let bytes = TestMount.pattern(1, 30_000)
        try file.write(bytes, at: 0)
        try file.fsync()
        var random = SeededRandom(seed: 77)
        for _ in 0..<3_000 {
            let opcode = UInt32.random(in: 4_093...4_095, using: &random)
            var body = Message(count: random.once(in: 8) ? Int.random(in: 0..<72, using: &random) : 72)
            for offset in stride(from: 0, to: body.bytes.count - 7, by: 8) {
                let value = random.next() >> UInt64.random(in: 0..<64, using: &random)
                body.put(random.once(in: 5) ? value : value % 70_000, offset)
            }
            if body.bytes.count > 16, !random.once(in: 8) { body.put(file.inode, 8) }
            // What is said to be written in place of data would be: here nothing was.
            if opcode == KernelConnection.Opcode.ioend, body.bytes.count >= 8 { body.put(Int32(-5), 4) }
            _ = try? mount.connection.call(opcode, random.once(in: 9) ? random.next() : file.node, body)
        }
        #expect(try file.begin([], 0, 1).map.hasAddress)
        #expect(try IomapRandomTests.content(mount.fileSystem, InodeNumber(UInt32(file.inode))) == bytes)
        try mount.finish()
    }
}
