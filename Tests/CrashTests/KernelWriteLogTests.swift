import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// Logs that Linux wrote: they prove the reader against a writer that is not ours.
@Suite(.serialized, .enabled(if: Need.sharedFixtures, "needs the shared fixtures"))
struct KernelWriteLogTests {
    struct Fixture: CustomTestStringConvertible, Sendable {
        let name: String, byteCount: Int, entryCount: UInt64
        var testDescription: String { name }

        func load() throws -> MemoryDevice {
            let file = TemporaryFile(name)
            let path = "\(Need.sharedFolder)/fixtures/kernel-write-logs/\(name).log.xz"
            let result = Tools.run(["xz", "-dc", path], outputFile: file.path)
            try #require(result.status == 0, "xz -dc \(path)")
            return MemoryDevice(file.contents)
        }
    }

    static let fixtures = [
        Fixture(name: "linux73-ordered-1k", byteCount: 24 << 20, entryCount: 453),
        Fixture(name: "linux73-ordered-4k", byteCount: 32 << 20, entryCount: 949),
        Fixture(name: "linux73-datajournal-nocsum", byteCount: 16 << 20, entryCount: 1456),
    ]

    /// A reader that misread one header would lose its place in all that follows.
    @Test(arguments: fixtures) func everyEntryOfAKernelLogIsRead(fixture: Fixture) throws {
        let log = try fixture.load()
        #expect(try WriteLogReader.problems(on: log) == [])
        var reader = try WriteLogReader(on: log)
        #expect(reader.entryCount == fixture.entryCount && reader.sectorByteCount == 512)
        var marks: [String] = []
        while let entry = try reader.next() {
            #expect(entry.offset + entry.byteCount <= UInt64(fixture.byteCount))
            if entry.isMark { marks.append(entry.text) }
        }
        #expect(marks.prefix(2) == ["mkfs", "mounted"] && marks.suffix(2) == ["workload-end", "dm-log-writes-end"])
    }

    /// After an unmount there is nothing to replay: what the reader applied is what the kernel wrote, or fsck says no.
    @Test(arguments: fixtures) func aWholeKernelLogReplaysToACleanVolume(fixture: Fixture) throws {
        let disk = OverlayDevice(over: MemoryDevice(byteCount: fixture.byteCount))
        var reader = try WriteLogReader(on: try fixture.load())
        _ = try reader.apply(until: .end, onto: disk)
        let complaints = try Structure.complaints(of: disk)
        #expect(complaints == [])
    }

    /// At each FUA the kernel's own promise holds: e2fsck replays the journal and finds a sound volume.
    @Test(arguments: fixtures) func aKernelLogReplaysToARecoverableVolumeAtItsCommits(fixture: Fixture) throws {
        let disk = OverlayDevice(over: MemoryDevice(byteCount: fixture.byteCount))
        var reader = try WriteLogReader(on: try fixture.load())
        _ = try reader.apply(until: .mark("mounted"), onto: disk)
        var commits = 0
        while let entry = try reader.apply(until: .flag(.throughToMedia), onto: disk) {
            commits += 1
            guard commits % 20 == 1 else { continue }
            let image = TemporaryFile("image", contents: try contents(disk))
            let replay = Tools.run("e2fsck", "-y", "-E", "journal_only", image.path)
            #expect(replay.status <= 1, "entry \(entry.index): \(replay.output)")
            let check = Tools.run("e2fsck", "-fn", image.path)
            #expect(check.status == 0, "entry \(entry.index): \(check.output)")
        }
        #expect(commits > 20)
    }

    /// P4 and P1: what Linux logged and acknowledged is there after our replay, and e2fsck has nothing to say about it.
    @Test(arguments: fixtures) func whatLinuxSyncedIsThereAfterOurReplay(fixture: Fixture) throws {
        let disk = OverlayDevice(over: MemoryDevice(byteCount: fixture.byteCount))
        var reader = try WriteLogReader(on: try fixture.load())
        var seen = 0
        while let entry = try reader.next() {
            try reader.apply(entry, onto: disk)
            let words = entry.isMark ? entry.text.split(separator: ":").map(String.init) : []
            guard words.count == 3, words[0] == "fsync" else { continue }
            seen += 1
            guard seen % 5 == 1 else { continue }
            let state = disk.fork()
            let system = try FileSystem.mount(on: state, options: .deterministic())
            let content = try Self.read(words[1], system)
            try system.unmount()
            let file = TemporaryFile("content", contents: content)
            let digest = Tools.run("md5sum", file.path).output.prefix(32)
            #expect(digest == words[2], "\(entry.text)")
            let complaints = try Structure.complaints(of: state)
            #expect(complaints == [], "\(entry.text)")
        }
        #expect(seen > 10)
    }

    private static func read(_ path: String, _ system: FileSystem) throws -> [UInt8] {
        var number = InodeNumber.root, size: UInt64 = 0
        for name in path.split(separator: "/") {
            let found = try #require(try system.lookup(try FileName(Array(name.utf8)), in: number), "\(path)")
            number = found.inode
            size = found.size
        }
        guard size > 0 else { return [] }
        let buffer = AlignedBuffer(byteCount: Int(size))
        let count = try buffer.withMutableBytes { try system.read(number, at: 0, into: &$0) }
        return buffer.withBytes { $0.array(0..<count) }
    }
}
