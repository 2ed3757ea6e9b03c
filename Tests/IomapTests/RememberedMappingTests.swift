import Ext4Format
import FileSystem
import Testing

/// What the server has the kernel remember, and has it forget in time.
@Suite struct IomapRememberedMappingTests {
    private static func setOutOfPlace(_ mount: TestMount, _ file: KernelFile, _ value: String) throws {
        let setxattr: UInt32 = 21
        var body = Message(count: 8)
        body.put(UInt32(value.utf8.count), 0)
        let name = FileSystem.outOfPlaceAttribute + [0]
        _ = try mount.connection.call(setxattr, file.node, Message(body.bytes + name + Array(value.utf8)))
    }

    /// Data that lie still are asked for once; what an atomic write or a hole needs is asked for always.
    @Test func dataThatLieStillAreRemembered() throws {
        let mount = try TestMount()
        let file = try mount.create()
        let bytes = TestMount.pattern(1, 64 << 10), new = TestMount.pattern(2, 8 << 10)
        try file.writeDirect(bytes, at: 0)
        #expect(file.remembered.maps.isEmpty)
        #expect(try file.readDirect(0..<file.size) == bytes)
        let map = try #require(file.remembered.at(0))
        #expect(map.length == 64 << 10 && map.type == Mapping.mapped)
        try file.write(new, at: 10_000)
        #expect(try file.contentOnDevice() == bytes[..<10_000] + new + bytes[(10_000 + new.count)...])
        // Too small a part is not worth it.
        let small = try mount.create("small")
        try small.writeDirect(new, at: 0)
        #expect(try small.readDirect(0..<8_192) == new)
        #expect(small.remembered.maps.isEmpty)
        try mount.finish()
    }

    /// A file whose overwrites go elsewhere is asked about every time.
    @Test func whatGoesOutOfPlaceIsNotRemembered() throws {
        let mount = try TestMount(outOfPlace: true)
        let file = try mount.create()
        try file.writeDirect(TestMount.pattern(1, 64 << 10), at: 0)
        _ = try file.readDirect(0..<file.size)
        try file.write(TestMount.pattern(2, 9), at: 0)
        #expect(file.remembered.maps.isEmpty)
        try mount.finish()
    }

    /// A truncate into a block writes that block anew elsewhere: who went on at the old place would write into what is
    /// free.
    @Test func aTailThatMovedIsForgotten() throws {
        let mount = try TestMount()
        let file = try mount.create()
        let bytes = TestMount.pattern(3, 64 << 10)
        try file.writeDirect(bytes, at: 0)
        _ = try file.readDirect(0..<file.size)
        let before = try #require(file.remembered.at(32 << 10))
        // Whatever the kernel drops by itself.
        let size: UInt64 = 32 << 10 | 100
        _ = try mount.connection.call(KernelConnection.Opcode.setattr, file.node, KernelConnection.setSize(size))
        let now = try file.begin(.report, 32 << 10, 1).map
        #expect(now.place(of: 32 << 10) != before.place(of: 32 << 10))
        #expect(file.remembered.at(32 << 10) == nil && file.remembered.at(0) != nil)
        try file.truncate(to: size)
        let tail = TestMount.pattern(4, 50)
        try file.write(tail, at: 32 << 10)
        try file.fsync()
        #expect(try file.contentOnDevice() == bytes[..<(32 << 10)] + tail + bytes[(32 << 10 | 50)..<(32 << 10 | 100)])
        try mount.finish()
    }

    /// In the middle of a writeback the file is said to go out of place: what is remembered has a stale cookie, and
    /// what is dirty before the word may go where it was, but never to a hole.
    @Test func aStaleMappingIsAskedForAnew() throws {
        let mount = try TestMount()
        let file = try mount.create()
        let old = TestMount.pattern(5, 32 << 10), new = TestMount.pattern(6, 32 << 10)
        try file.writeDirect(old, at: 0)
        _ = try file.readDirect(0..<file.size)
        #expect(file.remembered.at(0) != nil)
        try file.write(new, at: 0)
        file.meanwhile = { block in
            if block == 8 { try Self.setOutOfPlace(mount, file, "1") }
        }
        let submissions = try file.submit()
        #expect(file.remembered.maps.isEmpty)
        for submission in submissions { try file.report(submission) }
        file.meanwhile = { _ in }
        #expect(try file.contentOnDevice() == new)
        // From now on they move.
        try file.write(old, at: 0)
        let moved = try file.submit()
        #expect(moved.allSatisfy { $0.flags & Ended.shared != 0 })
        #expect(try IomapRandomTests.content(mount.fileSystem, InodeNumber(UInt32(file.inode))) == new)
        for submission in moved { try file.report(submission) }
        #expect(try file.contentOnDevice() == old)
        try mount.finish()
    }
}
