import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Offline
import Testing

/// jext4-replay on logs of Linux that end with fast commits. What their replay comes to is FastCommitTests' matter.
@Suite(.enabled(if: E2fsprogs.hasFixtures && E2fsprogs.isPresent, E2fsprogs.fixturesNeed))
struct FastCommitCommandTests {
    private static let renamed = "linux-fast-commit/fc-create-rename.img.xz"
    private static let images = [renamed, "linux-fast-commit/fc-unlink-truncate.img.xz"]

    /// debugfs decodes the same records: each of its tags is one of ours, in order.
    @Test(arguments: images) func showDecodesEachFastCommit(name: String) throws {
        let image = try ImageFile.fixture(name)
        let show = try replay("show", "--blocks", "--json", image.path)
        #expect(show.status == 0)
        let lines = try jsonLines(show.output)
        let tags = lines.filter { $0["type"] as? String == "fast_commit_record" }.compactMap { $0["tag"] as? String }
        let words = [
            ("ADD_RANGE", "add_range"), ("DEL_RANGE", "delete_range"), ("CREAT_DENTRY", "create"),
            ("ADD_ENTRY", "link"), ("DEL_ENTRY", "unlink"), ("INODE", "inode"),
        ]
        let dump = try E2fsprogs.run(["debugfs", "-R", "logdump -a", image.path]).output
        let theirs = dump.split(separator: "\n").compactMap { line -> String? in
            guard line.hasPrefix("tag ") else { return nil }
            let tag = line.dropFirst(4).prefix { $0.isLetter || $0 == "_" }
            return words.first { $0.0 == tag }?.1
        }
        #expect(!tags.isEmpty && tags == theirs, "\(theirs)")
        let commits = lines.filter { $0["type"] as? String == "fast_commit" }
        let end = try #require(lines.last)
        #expect(end["fast_commits"] as? Bool == true && end["fast_commit_count"] as? Int == commits.count)
    }

    /// What plan foretells is what apply does, also where fast commits write blocks that nobody has logged.
    @Test func planForetellsFastCommits() throws {
        let image = try ImageFile.fixture(Self.renamed)
        let plan = try replay("plan", "--json", image.path)
        #expect(plan.status == 0)
        let lines = try jsonLines(plan.output)
        let names = lines.filter { $0["field"] as? String == "name" }.map { "\($0["path"] ?? ""):\($0["name"] ?? "")" }
        #expect(names == ["/:a2", "/:a3", "/:dd", "/dd:b1", "/dd:n"])
        let changed = lines.filter { $0["type"] as? String == "write" && $0["changes"] as? Bool == true }
            .compactMap { $0["block"] as? Int }
        #expect(changed.count == Set(changed).count)
        let before = try image.bytes()
        let log = Set(try image.blocks(of: "<8>").map { Int($0) })
        #expect(try replay("apply", image.path).status == 1)
        let after = try image.bytes()
        let differing = (0..<after.count / 4096).filter {
            before[$0 * 4096..<($0 + 1) * 4096] != after[$0 * 4096..<($0 + 1) * 4096]
        }
        #expect(differing.filter { !log.contains($0) } == changed)
    }

    /// The way back leads over the log and over all that the fast commits have changed.
    @Test(arguments: images) func anUndoFileTakesFastCommitsBack(name: String) throws {
        let image = try ImageFile.fixture(name)
        let before = try image.bytes()
        let undo = NewPath()
        #expect(try replay("apply", "--undo", undo.path, image.path).status == 1)
        let check = try image.fsck(["-fn"])
        #expect(check.status == 0, "\(check.output)")
        let applied = try image.copy()
        #expect(try replay("undo", undo.path, image.path).status == 1)
        #expect(try image.bytes() == before)
        #expect(try E2fsprogs.run(["e2undo", undo.path, applied.path]).status == 0)
        #expect(try applied.bytes() == before)
    }

    /// As for ordinary logs: a power cut at any write, then the way back.
    @Test func everyCrashOfTheirReplayCanBeUndone() throws {
        let image = MemoryDevice(try ImageFile.fixture(Self.renamed).bytes())
        var cuts = 0
        for ordinal in 1... {
            let disk = OverlayDevice(over: image)
            let device = FaultyDevice(disk, faults: powerCut(at: ordinal, tornByteCount: 512))
            let path = NewPath()
            try? applyWithUndo(of: image, to: device, undo: path.path)
            let undo = try UndoFile(path.path)
            #expect(throws: Never.self, "cut \(ordinal)") { try undo.check(disk) }
            try undo.restore(to: disk)
            var wrong: [UInt64] = []
            try disk.forEachChange { offset, bytes throws(Ext4Error) in
                let old = AlignedBuffer(byteCount: bytes.byteCount)
                try image.read(into: old, at: offset)
                let isSame = old.withBytes { $0.array(0..<$0.byteCount) == bytes.array(0..<bytes.byteCount) }
                if !isSame { wrong.append(offset) }
            }
            #expect(wrong.isEmpty, "cut \(ordinal)")
            if device.failureCount == 0 { break }
            cuts += 1
        }
        #expect(cuts > 10)
    }

    /// Fast commits are parts of the transaction behind the limit.
    @Test func aLimitLeavesFastCommitsOut() throws {
        let image = try ImageFile.fixture(Self.renamed)
        let result = try replay("apply", "--up-to", "2", image.path)
        #expect(result.status == 1 && result.output.contains("from transaction 3 on is left out"), "\(result.output)")
        let names = try E2fsprogs.run(["debugfs", "-R", "ls -p", image.path]).output
        #expect(names.contains("/a1/") && !names.contains("/a2/"), "\(names)")
        #expect(try image.fsck(["-fn"]).status == 0)
    }
}
