import Foundation
import Testing

/// jext4-replay on a volume whose journal lies on a device of its own.
@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct JournalElsewhereTests {
    /// The volume alone is not enough, and the wrong journal would destroy it.
    @Test func theJournalMustBeNamedAndBeTheRightOne() throws {
        let lived = try LivedImage.withJournalElsewhere()
        let stranger = try LivedImage.withJournalElsewhere()
        let own = try LivedImage()
        let journal = try #require(lived.journal)
        let alone = try replay("show", lived.image.path)
        #expect(alone.status == 8 && alone.output.contains("--journal"), "\(alone.output)")
        #expect(try replay("show", "--journal", journal.path, own.image.path).status == 8)
        #expect(try replay("show", "--journal", own.image.path, lived.image.path).status == 8)
        // Another UUID than the volume names.
        let other = try #require(stranger.journal)
        try other.put([1, 2, 3], at: 1024 + 0x68)
        #expect([4, 8].contains(try replay("apply", "--journal", other.path, lived.image.path).status))
    }

    /// All commands work as with a journal of the volume's own; the oracle is e2fsck -j.
    @Test func theCommandsReachIt() throws {
        let lived = try LivedImage.withJournalElsewhere()
        let journal = try #require(lived.journal)
        let (before, log) = (try lived.image.bytes(), try journal.bytes())
        let names = ["--journal", journal.path, lived.image.path]
        let show = try replay(["show", "--blocks", "--json"] + names)
        #expect(show.status == 0, "\(show.output)")
        for block in try jsonLines(show.output) where block["type"] as? String == "block" {
            #expect(block["owner_kind"] is String, "\(block)")
        }
        let plan = try replay(["plan"] + names)
        #expect(plan.status == 0 && plan.output.contains("of inode 2 /: name new added"), "\(plan.output)")
        #expect(try replay(["extract", "--block", "1", "--list"] + names).output.contains("block 1 in transaction"))
        #expect(try replay(["apply", "--undo", "/nonexistent/undo"] + names).status == 16)

        let copy = NewPath()
        #expect(try replay(["apply", "--output", copy.path] + names).status == 1)
        #expect(try lived.image.bytes() == before)
        #expect(try journal.bytes() == log)

        let theirs = (volume: try lived.image.copy(), journal: try journal.copy())
        #expect(try replay(["apply"] + names).status == 1)
        #expect(try lived.image.bytes() == [UInt8](try Data(contentsOf: URL(fileURLWithPath: copy.path))))
        #expect(try replay(["apply"] + names).status == 0)
        let check = try E2fsprogs.run(["e2fsck", "-fn", "-j", journal.path, lived.image.path])
        #expect(check.status == 0, "\(check.output)")
        try E2fsprogs.run(["e2fsck", "-y", "-E", "journal_only", "-j", theirs.journal.path, theirs.volume.path])
        let (ours, other) = (try lived.image.bytes(), try theirs.volume.bytes())
        let differing = (0..<ours.count / 1024).filter {
            ours[$0 * 1024..<($0 + 1) * 1024] != other[$0 * 1024..<($0 + 1) * 1024]
        }
        // e2fsck notes the time and itself in the super block.
        #expect(differing.allSatisfy { $0 == 1 }, "\(differing)")
    }
}
