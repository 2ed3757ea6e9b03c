import CrashLab
import Ext4Format
import FileSystem
import Testing

/// What the promises of a write are, one by one, while the kernel has the data.
@Suite struct IomapScenarioTests {
    private static func number(_ file: KernelFile) -> InodeNumber { InodeNumber(UInt32(file.inode)) }

    /// What a crash would leave, were the running transaction committed.
    private static func published(_ mount: TestMount, _ file: KernelFile) throws -> [UInt8] {
        try IomapRandomTests.content(mount.fileSystem, number(file))
    }

    private static func sectors(_ mount: TestMount, _ file: KernelFile) throws -> UInt64 {
        try mount.fileSystem.attributes(of: number(file)).sectorCount
    }

    private static func zeros(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }

    /// The data of a file go to the device without this server, and a read finds them.
    @Test(arguments: [TestImage.small, .large]) func bufferedAndDirectWritesAreRead(image: TestImage) throws {
        let mount = try TestMount(image)
        let file = try mount.create()
        let bytes = TestMount.pattern(1, 50_000), more = TestMount.pattern(2, 64 << 10)
        try file.write(bytes, at: 0)
        #expect(try file.read(0..<file.size) == bytes)
        try file.fsync()
        try file.writeDirect(more, at: 128 << 10)
        file.drop(0..<file.size)
        let expected = bytes + Self.zeros(128 << 10 - bytes.count) + more
        #expect(try file.read(0..<file.size) == expected)
        #expect(try file.contentOnDevice() == expected)
        try mount.finish()
    }

    // MARK: Holes and what is unwritten

    /// Zeros over what reads as zeros take no space.
    @Test func zeroingAHoleAllocatesNothing() throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.truncate(to: 100_000)
        try file.zero(0..<100_000)
        try file.fsync()
        #expect(try Self.sectors(mount, file) == 0)
        try file.allocate(0..<32_768, mode: 1)
        let found = try file.begin(.zero, 5_000, 1_000)
        #expect(found.map.type == Mapping.unwritten)
        try mount.finish()
    }

    /// Zeros over what only the page cache has, dirty or on its way, go to the page cache: a hole would not be zeroed.
    @Test func zerosReachWhatThePageCacheHas() throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.truncate(to: 65_536)
        try file.write(TestMount.pattern(26, 4_096), at: 8_192)
        let before = try file.begin(.zero, 0, 65_536).map
        #expect(before.type == Mapping.hole && before.end == 8_192)
        #expect(try file.begin(.zero, 8_192, 65_536).map.type == Mapping.delayed)
        let submissions = try file.submit()
        #expect(try file.begin(.zero, 8_192, 65_536).map.type == Mapping.delayed)
        for submission in submissions { try file.report(submission) }
        #expect(try file.begin(.zero, 8_192, 65_536).map.type == Mapping.mapped)
        try mount.finish()
    }

    /// P3: an unwritten block that was given out reads as zeros until it is said to be written, and so do its
    /// neighbours for ever.
    @Test func onlyWhatWasWrittenIsConverted() throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.allocate(0..<65_536, mode: 0)
        let bytes = TestMount.pattern(3, 3_000)
        try file.write(bytes, at: 10_500)
        let submissions = try file.submit()
        #expect(try Self.published(mount, file) == Self.zeros(65_536))
        for submission in submissions { try file.report(submission) }
        let expected = Self.zeros(10_500) + bytes + Self.zeros(65_536 - 13_500)
        #expect(try Self.published(mount, file) == expected)
        #expect(try file.contentOnDevice() == expected)
        try mount.finish()
    }

    /// One writeback may be told in parts, last part first: the file has what was told of.
    @Test func aWritebackMayBeToldInParts() throws {
        let mount = try TestMount()
        let file = try mount.create()
        file.folioBlockCount = 16
        let bytes = TestMount.pattern(4, 16 << 10)
        try file.write(bytes, at: 0)
        let whole = try #require(try file.submit().first)
        #expect(whole.written == 16 << 10)
        var last = whole, middle = whole
        (last.position, last.written) = (12 << 10, 4 << 10)
        (middle.position, middle.written) = (4 << 10, 4 << 10)
        last.address = whole.address + (12 << 10)
        middle.address = whole.address + (4 << 10)
        try file.report(last)
        #expect(try Self.published(mount, file) == Self.zeros(12 << 10) + bytes[(12 << 10)...])
        try file.report(middle)
        let now = Self.zeros(4 << 10) + bytes[(4 << 10)..<(8 << 10)] + Self.zeros(4 << 10) + bytes[(12 << 10)...]
        #expect(try Self.published(mount, file) == now)
        try file.report(whole)
        #expect(try Self.published(mount, file) == bytes)
        try mount.finish()
    }

    /// The size is the server's only when the bytes are there.
    @Test func theSizeMovesWithTheData() throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.write(TestMount.pattern(5, 2_500), at: 0)
        let submissions = try file.submit()
        #expect(try mount.fileSystem.attributes(of: Self.number(file)).size == 0)
        for submission in submissions { try file.report(submission) }
        #expect(try mount.fileSystem.attributes(of: Self.number(file)).size == 2_500)
        #expect(file.diskSize == 2_500)
        try mount.finish()
    }

    /// An append that was written in place and never reported leaves bytes behind the end. A crash after a later write
    /// must not show them, though the kernel has not written its zeros yet.
    @Test func whatACrashLeftBehindTheEndIsNotShown() throws {
        let mount = try TestMount()
        let before = try mount.create()
        let bytes = TestMount.pattern(24, 100), new = TestMount.pattern(25, 1_024)
        try before.write(bytes, at: 0)
        try before.fsync()
        let place = try before.begin(.report, 0, 1).map.address
        #expect(try before.store([UInt8](repeating: 0xEE, count: 512), at: place + 512))
        mount.connection.forget(before.node)
        let file = try mount.open()
        try file.write(new, at: 5_120)
        let last = try #require(try file.submit(5_120..<6_144).first)
        #expect(last.position == 5_120)
        try file.report(last)
        #expect(try Self.published(mount, file) == bytes + Self.zeros(5_020) + new)
        try mount.finish()
    }

    // MARK: Out of place

    /// The old bytes stay until the new ones are reported, by an address in bytes or in sectors.
    @Test(arguments: [false, true]) func overwritesGoToNewBlocks(tellsSectors: Bool) throws {
        let mount = try TestMount(outOfPlace: true)
        let file = try mount.create()
        file.tellsSectors = tellsSectors
        let old = TestMount.pattern(6, 20_000), new = TestMount.pattern(7, 5_000)
        try file.write(old, at: 0)
        try file.fsync()
        let before = try file.begin(.report, 4_096, 1).map
        let sectors = try Self.sectors(mount, file)
        try file.write(new, at: 3_000)
        let submissions = try file.submit()
        #expect(submissions.allSatisfy { $0.flags & Ended.shared != 0 })
        #expect(try Self.published(mount, file) == old)
        for submission in submissions { try file.report(submission) }
        #expect(try Self.published(mount, file) == old[..<3_000] + new + old[8_000...])
        #expect(try file.begin(.report, 4_096, 1).map.place(of: 4_096) != before.place(of: 4_096))
        #expect(try Self.sectors(mount, file) == sectors)
        try mount.finish()
    }

    /// An address that was not given out is not published: nobody knows what lies there.
    @Test func aForeignAddressIsNotBelieved() throws {
        let mount = try TestMount(outOfPlace: true)
        let file = try mount.create()
        let old = TestMount.pattern(8, 8_192)
        try file.write(old, at: 0)
        try file.fsync()
        try file.write(TestMount.pattern(9, 8_192), at: 0)
        let submissions = try file.submit()
        for var submission in submissions {
            submission.address += file.unit
            try file.report(submission)
        }
        #expect(try Self.published(mount, file) == old)
        // Nor is what was written where it lay a word about what was given out.
        try file.ioend(Ended.writeback | Ended.append, 0, 8_192)
        #expect(try Self.published(mount, file) == old)
        for submission in submissions { try file.report(submission) }
        #expect(try Self.published(mount, file) == TestMount.pattern(9, 8_192))
        try mount.finish()
    }

    /// A direct write of a part of a block would not bring the rest along: the page cache does.
    @Test func aPartOfABlockGoesThroughThePageCache() throws {
        let mount = try TestMount(.large, outOfPlace: true)
        let file = try mount.create()
        let old = TestMount.pattern(10, 20_480), new = TestMount.pattern(11, 512)
        try file.writeDirect(old, at: 0)
        let tried = try file.submitDirect(new, at: 4_608)
        #expect(tried.isRefused && tried.written == 0)
        try file.writeDirect(new, at: 4_608)
        #expect(try file.contentOnDevice() == old[..<4_608] + new + old[5_120...])
        try mount.finish()
    }

    /// One block, whole or not at all, also where the mount writes in place.
    @Test func anAtomicWriteReplacesOneBlock() throws {
        let mount = try TestMount()
        let file = try mount.create()
        let old = TestMount.pattern(12, 4_096), new = TestMount.pattern(13, 1_024)
        try file.writeDirect(old, at: 0)
        let done = try file.submitDirect(new, at: 1_024, isAtomic: true)
        #expect(try Self.published(mount, file) == old)
        try file.report(done)
        #expect(try Self.published(mount, file) == old[..<1_024] + new + old[2_048...])
        #expect(throws: Refusal(number: Errno.invalid, opcode: KernelConnection.Opcode.begin)) {
            try file.submitDirect(TestMount.pattern(14, 2_048), at: 0, isAtomic: true)
        }
        try file.writeDirect(new, at: 8_192, isAtomic: true)
        #expect(try file.contentOnDevice() == old[..<1_024] + new + old[2_048...] + Self.zeros(4_096) + new)
        try mount.finish()
    }

    // MARK: Several writes at once

    /// What is rewritten while it is on its way is written back once more, and needs a place of its own then.
    @Test(arguments: [false, true]) func whatIsOnItsWayMayBeWrittenAgain(outOfPlace: Bool) throws {
        let mount = try TestMount(outOfPlace: outOfPlace)
        let file = try mount.create()
        try file.write(TestMount.pattern(15, 10_000), at: 0)
        let first = try file.submit()
        let new = TestMount.pattern(16, 10_000)
        try file.write(new, at: 0)
        for submission in first { try file.report(submission) }
        try file.fsync()
        #expect(try Self.published(mount, file) == new)
        #expect(try file.contentOnDevice() == new)
        try mount.finish()
    }

    /// Two direct writes of the same new blocks: the second goes through the page cache, and neither frees what the
    /// other writes.
    @Test(arguments: [Int32(0), -5]) func directWritesMayMeet(error: Int32) throws {
        let mount = try TestMount()
        let file = try mount.create()
        let second = TestMount.pattern(18, 4_096)
        var first = try file.submitDirect(TestMount.pattern(17, 8_192), at: 0)
        first.error = error
        try file.writeDirect(second, at: 2_048)
        #expect(try Self.published(mount, file) == Self.zeros(2_048) + second)
        try file.report(first)
        #expect(try file.contentOnDevice().count == (error == 0 ? 8_192 : 6_144))
        try mount.finish()
    }

    /// A report and a truncate of another part of the file are under way together.
    @Test func truncateMeetsWriteback() throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.write(TestMount.pattern(19, 40_960), at: 0)
        try file.fsync()
        try file.truncate(to: 0)
        let bytes = TestMount.pattern(20, 4_096)
        try file.write(bytes, at: 0)
        let submission = try #require(try file.submit().first)
        let connection = mount.connection, opcodes = (KernelConnection.Opcode.ioend, KernelConnection.Opcode.setattr)
        let flags = submission.flags | Ended.append
        let body = file.ioendBody(flags, error: 0, 0, 4_096, address: submission.address)
        let report = connection.send(opcodes.0, file.node, body)
        let cut = connection.send(opcodes.1, file.node, KernelConnection.setSize(20_000))
        _ = try connection.wait(for: cut, opcodes.1)
        _ = try connection.wait(for: report, opcodes.0)
        #expect(try Self.published(mount, file) == bytes + Self.zeros(20_000 - 4_096))
        try mount.finish()
    }

    /// What was cut off meanwhile is not brought back by a late report, and its blocks are free.
    @Test(arguments: [false, true]) func aLateReportPublishesNothing(isPunch: Bool) throws {
        let mount = try TestMount()
        let file = try mount.create()
        try file.truncate(to: 65_536)
        try file.write(TestMount.pattern(21, 16_384), at: 16_384)
        let submissions = try file.submit()
        if isPunch {
            try mount.connection.allocate(file.node, 8_192..<40_960, mode: 3)
        } else {
            _ = try mount.connection.call(
                KernelConnection.Opcode.setattr, file.node, KernelConnection.setSize(1_000))
        }
        for submission in submissions { try file.report(submission) }
        #expect(try Self.published(mount, file) == Self.zeros(isPunch ? 65_536 : 1_000))
        #expect(try Self.sectors(mount, file) == 0)
        try mount.finish()
    }

    // MARK: Failures

    /// A write that the device refused leaves the file as it was, and its blocks free.
    @Test(arguments: [false, true], [false, true]) func aFailedWriteIsGivenBack(isDirect: Bool, outOfPlace: Bool) throws
    {
        let mount = try TestMount(outOfPlace: outOfPlace)
        let file = try mount.create()
        let old = outOfPlace ? TestMount.pattern(22, 16_384) : Self.zeros(16_384)
        if outOfPlace { try file.writeDirect(old, at: 0) } else { try file.truncate(to: 16_384) }
        try file.fsync()
        let free = mount.fileSystem.statistics().freeBlocks
        file.isBroken = { _ in true }
        let bytes = TestMount.pattern(23, 8_192)
        if isDirect {
            try file.writeDirect(bytes, at: 4_096)
        } else {
            try file.write(bytes, at: 4_096)
            try file.writeBack()
        }
        file.isBroken = { _ in false }
        #expect(try file.contentOnDevice() == old)
        #expect(mount.fileSystem.statistics().freeBlocks == free)
        try mount.finish()
    }

    /// A full volume is found out by write(2), and what that has taken is always written back.
    @Test func writebackNeverMeetsAFullVolume() throws {
        let mount = try TestMount()
        let file = try mount.create(), other = try mount.create("other")
        var expected: [UInt8] = [], refusal: Refusal?
        for step in 0..<20_000 where refusal == nil {
            let bytes = TestMount.pattern(step, 1_024)
            // Every other block: each may become an extent of its own.
            do {
                try file.write(bytes, at: UInt64(expected.count) + 1_024)
                expected += Self.zeros(1_024) + bytes
            } catch let error as Refusal { refusal = error }
        }
        #expect(refusal?.number == Errno.noSpace)
        #expect(expected.count > 2 << 20)
        #expect(throws: Refusal(number: Errno.noSpace, opcode: KernelConnection.Opcode.begin)) {
            try other.writeDirect(TestMount.pattern(1, 64 << 10), at: 0)
        }
        try file.writeBack { $0.reversed() }
        try file.connection.fsync(file.node)
        #expect(try Self.published(mount, file) == expected)
        try mount.finish()
    }

    /// What a write did not come to is free for others, but not what another write of the same blocks was promised.
    @Test func whatIsNotUsedGoesBack() throws {
        let mount = try TestMount()
        let file = try mount.create(), other = try mount.create("other")
        // More than half of the volume, and what one BEGIN gives.
        let most: UInt64 = 4_000 << 10
        func isRoom() throws -> Bool {
            do {
                let map = try other.begin(.write, 0, most).map
                try other.end(.write, 0, most, written: 0, map)
                return true
            } catch let refusal as Refusal {
                #expect(refusal.number == Errno.noSpace)
                return false
            }
        }
        #expect(try isRoom())
        let map = try file.begin(.write, 0, most).map
        #expect(try !isRoom())
        try file.end(.write, 0, most, written: -14, map)
        #expect(try isRoom())
        let again = try file.begin(.write, 0, most).map
        _ = try file.begin([.write, .fault], 0, most)
        try file.end(.write, 0, most, written: 0, again)
        #expect(try !isRoom())
        // The kernel lets go of the inode.
        mount.connection.forget(file.node)
        #expect(try isRoom())
        let direct = try file.begin([.direct, .write], 0, 1 << 20).map
        try file.end([.direct, .write], 0, direct.length, written: 0, direct)
        let anew = try file.begin([.direct, .write], 0, 1 << 20).map
        #expect(anew.hasAddress)
        try mount.finish()
    }
}
