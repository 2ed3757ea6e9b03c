import BlockIO
import Ext4Format
import Foundation
import Journal
import Testing

/// Where two replays of one log may differ: the volume's super block (times, counters, needs_recovery, checksum) and
/// the journal's own.
private func expectSameVolume(_ a: [UInt8], _ b: [UInt8], journalSuperBlock: UInt64, size: Int, _ what: String) {
    #expect(a.count == b.count)
    let skipped = [1024..<2048, Int(journalSuperBlock) * size..<(Int(journalSuperBlock) + 1) * size]
    var start = 0
    for range in skipped + [a.count..<a.count] {
        let same = a.withUnsafeBytes { a in
            b.withUnsafeBytes { b in
                memcmp(a.baseAddress! + start, b.baseAddress! + start, range.lowerBound - start) == 0
            }
        }
        #expect(same, "\(what): a difference between bytes \(start) and \(range.lowerBound)")
        start = range.upperBound
    }
}

private let writers: [[String]] = [
    ["-t", "ext4", "-b", "1024", "-J", "size=1"],
    ["-t", "ext4", "-b", "1024", "-O", "^64bit", "-J", "size=1"],
    ["-t", "ext4", "-b", "4096", "-O", "^metadata_csum", "-J", "size=4"],
    ["-t", "ext4", "-b", "4096", "-J", "size=4"],
    ["-t", "ext4", "-b", "2048", "-O", "^metadata_csum,^64bit", "-J", "size=2"],
]

/// A log that we wrote, wrapped several times, replays to the same bytes with e2fsck, debugfs and ourselves.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need), arguments: writers)
func othersReplayWhatWeWrite(_ arguments: [String]) throws {
    // P4. The blocks of a plain file stand for metadata, so that any content leaves a consistent volume.
    let size = Int(arguments[3]) ?? 0
    let image = try ImageFile.make(arguments, size: "24M")
    let payload = ImageFile()
    try Data(repeating: 0x5A, count: 600 * size).write(to: URL(fileURLWithPath: payload.path))
    _ = try image.debugfs(["write \(payload.path) payload", "feature needs_recovery"])
    let homes = try image.blocks(of: "/payload")
    try #require(homes.count == 600)
    try write(image, homes, size, arguments)
    #expect(try image.debugfs(["logdump"]).contains("Found expected sequence"))

    let ours = try image.copy(), theirs = try image.copy(), debugfs = try image.copy()
    let plan = try ours.recover(blockByteCount: size)
    #expect(plan.end == .clean && plan.transactions.count > 2)
    #expect(plan.revokedCopyCount > 0)
    let result = try theirs.fsck(["-fy", "-E", "journal_only"])
    #expect(result.status <= 1, "\(result.output)")
    #expect(result.output.contains("recovering journal"))
    _ = try debugfs.debugfs(["journal_run"])
    let log = try #require(try image.blocks(of: "<8>").first)
    expectSameVolume(try ours.bytes(), try theirs.bytes(), journalSuperBlock: log, size: size, "e2fsck")
    expectSameVolume(try ours.bytes(), try debugfs.bytes(), journalSuperBlock: log, size: size, "debugfs")
    _ = try ours.debugfs(["feature -needs_recovery"])
    let check = try ours.fsck(["-fn"])
    #expect(check.status == 0, "\(check.output)")
}

/// Runs enough transactions over `homes` to go round the log, and leaves it dirty.
private func write(_ image: ImageFile, _ homes: [UInt64], _ size: Int, _ arguments: [String]) throws {
    let device = try FileDevice(path: image.path, readOnly: false)
    let log = try image.log(on: device, blockByteCount: size)
    let cache = MetadataCache(
        device: device, blockByteCount: size, blockCount: device.byteCount / UInt64(size), capacityBytes: 1 << 20)
    var options = JournalOptions()
    options.isManual = true
    let words = arguments.joined()
    options.isWide = !words.contains("^64bit")
    options.wantsChecksums = !words.contains("^metadata_csum")
    let journal = try Journal(
        device: device, log: log, cache: cache, superBlock: log.readSuperBlock(), options: options,
        clock: { CommitTime(seconds: 1_700_000_000, nanoseconds: 0) })
    for round in 0..<40 {
        // Neighbours, strangers, one block in every transaction, and blocks that begin with the magic.
        let picks = [0] + (0..<60).map { (round * 31 + $0 * ($0 % 3 + 1)) % 500 }
        try journal.withHandle(credits: picks.count) { handle throws(Ext4Error) in
            for pick in picks {
                let block = try cache.block(FSBlock(homes[pick]))
                try handle.modify(block) { bytes in
                    bytes[LE<UInt64>(16)] = UInt64(round)
                    bytes[BE<UInt32>(0)] = (pick + round) % 5 == 0 ? JournalHeader.magic : UInt32(round)
                }
            }
        }
        if round % 2 == 1 { try journal.commitNow() }
        // A block that is logged, then freed and used for data: replay must leave the data.
        if round >= 36 {
            let number = FSBlock(homes[590 + round - 36])
            try journal.withHandle(credits: 1) { handle throws(Ext4Error) in
                let block = try handle.create(number)
                try handle.modify(block) { $0.fill(0..<64, with: 0xEE) }
            }
            try journal.commitNow()
            try journal.withHandle(credits: 1) { handle throws(Ext4Error) in try handle.revoke(number) }
            try journal.commitNow()
            let data = AlignedBuffer(byteCount: size)
            data.withMutableBytes { $0.fill(0..<$0.byteCount, with: 0xDA) }
            try device.write(data, at: number.rawValue * UInt64(size))
        }
    }
    try journal.commitNow()
    #expect(journal.counters.loggedBlocks > Int(log.blockCount))
}

/// A log that debugfs wrote, with revokes, escapes and an uncommitted end, replays as e2fsck replays it.
@Test(
    .enabled(if: E2fsprogs.isPresent, E2fsprogs.need), arguments: ["-c -v 3", "-c -v 2", "-c", ""], ["1024", "4096"])
func weReplayWhatDebugfsWrites(_ open: String, _ blockSize: String) throws {
    // P4 in the other direction: an independent writer's view of every tag layout.
    let size = Int(blockSize) ?? 0
    let image = try ImageFile.make(
        ["-t", "ext4", "-b", blockSize, "-O", open.isEmpty ? "^metadata_csum,^64bit" : "64bit"], size: "24M")
    let payload = ImageFile()
    try Data(repeating: 0x5A, count: 40 * size).write(to: URL(fileURLWithPath: payload.path))
    _ = try image.debugfs(["write \(payload.path) payload"])
    let homes = try image.blocks(of: "/payload")
    var content = Data(repeating: 0xC3, count: 8 * size)
    content.replaceSubrange(2 * size..<2 * size + 4, with: [0xC0, 0x3B, 0x39, 0x98])
    try content.write(to: URL(fileURLWithPath: payload.path))
    func list(_ range: Range<Int>) -> String { homes[range].map(String.init).joined(separator: ",") }
    let said = try image.debugfs([
        "journal_open \(open)", "journal_write -b \(list(0..<8)) \(payload.path)",
        "journal_write -b \(list(10..<18)) \(payload.path)", "journal_write -r \(list(12..<14))",
        "journal_write -b \(list(13..<14)) \(payload.path)",
        "journal_write -b \(list(20..<28)) -c \(payload.path)", "journal_close",
    ])
    let ours = try image.copy(), theirs = try image.copy()
    let plan = try ours.recover(blockByteCount: size)
    #expect(plan.transactions.count == 4, "\(said)")
    #expect(plan.copies.contains { $0.isEscaped })
    #expect(plan.revokedCopyCount == 2)
    if case .torn = plan.end {} else { Issue.record("the uncommitted end is \(plan.end)") }
    let result = try theirs.fsck(["-fy", "-E", "journal_only"])
    #expect(result.status <= 1, "\(result.output)")
    let log = try #require(try image.blocks(of: "<8>").first)
    expectSameVolume(try ours.bytes(), try theirs.bytes(), journalSuperBlock: log, size: size, "e2fsck")
    _ = try ours.debugfs(["feature -needs_recovery"])
    #expect(try ours.fsck(["-fn"]).status == 0)
}

/// The journals of e2fsprogs' own tests: what is whole is replayed, what is damaged is named.
@Test(.enabled(if: E2fsprogs.isPresent && E2fsprogs.hasFixtures, E2fsprogs.fixturesNeed))
func theFixturesOfE2fsprogs() throws {
    // Found by others the hard way; e2fsck drops good transactions for these, we must not.
    func check(
        _ name: String, applied: [UInt32], _ kind: RecoveryPlan.Problem.Kind?, at position: UInt32 = 0,
        later: UInt32? = nil
    ) throws {
        let image = try ImageFile.fixture("e2fsprogs-journal/" + name)
        let device = try FileDevice(path: image.path, readOnly: true)
        let log = try image.log(on: device, blockByteCount: 1024)
        let plan = try RecoveryPlan.scan(
            log, for: ReplayTarget(blockCount: device.byteCount / 1024, sharesDeviceWithLog: true))
        #expect(plan.transactions.map(\.id.rawValue) == applied, "\(name)")
        guard let kind else {
            #expect(plan.end == .clean, "\(name)")
            return
        }
        let problem = RecoveryPlan.Problem(kind: kind, position: position)
        let end: RecoveryPlan.End =
            if let later { .damaged(problem, laterCommit: TransactionID(later)) } else { .torn(problem) }
        #expect(plan.end == end, "\(name)")
    }
    try check("j_corrupt_commit_csum.gz", applied: [], .commitChecksum, at: 4, later: 5)
    try check("j_corrupt_descr_csum.gz", applied: [], .descriptorChecksum, at: 1, later: 6)
    try check("j_corrupt_journal_block.gz", applied: [3], .blockChecksum, at: 6, later: 5)
    // Its bad revoke block is the last of the log: no commit follows, so nothing acknowledged is lost.
    try check("j_corrupt_revoke_csum.gz", applied: [3], .revokeChecksum, at: 5)
    try check("j_recover_csum2_32bit.bz2", applied: [1], nil)
    try check("j_recover_csum3_64bit.bz2", applied: [2, 3], nil)
    try check("j_recover_fast_commit.gz", applied: [5], nil)
    #expect(throws: Ext4Error.corrupt("journal super block", where: "checksum")) {
        try check("j_corrupt_sb_csum.gz", applied: [], nil)
    }
}

/// The recoverable journals of e2fsprogs' tests end with the same bytes as by e2fsck's hand.
@Test(
    .enabled(if: E2fsprogs.isPresent && E2fsprogs.hasFixtures, E2fsprogs.fixturesNeed),
    arguments: ["j_recover_csum2_32bit.bz2", "j_recover_csum3_64bit.bz2"])
func recoverableFixturesEndAlike(_ name: String) throws {
    // Tags and checksums that no code of ours produced. The volumes themselves have faults that replay must not touch.
    let ours = try ImageFile.fixture("e2fsprogs-journal/" + name), theirs = try ours.copy()
    let log = try #require(try ours.blocks(of: "<8>").first)
    try ours.recover(blockByteCount: 1024)
    let result = try theirs.fsck(["-y", "-E", "journal_only"])
    #expect(result.output.contains("recovering journal"))
    expectSameVolume(try ours.bytes(), try theirs.bytes(), journalSuperBlock: log, size: 1024, name)
}

/// A log that ends with fast commits is told from one whose fast-commit area is stale.
@Test(
    .enabled(if: E2fsprogs.isPresent && E2fsprogs.hasFixtures, E2fsprogs.fixturesNeed),
    arguments: [
        "e2fsprogs-journal/j_recover_fast_commit.gz", "linux-fast-commit/fc-create-rename.img.xz",
        "linux-fast-commit/fc-unlink-truncate.img.xz",
    ])
func fastCommitsAreNoticed(_ name: String) throws {
    // Ignoring them loses what was fsynced; seeing them where they are stale refuses a good volume.
    let image = try ImageFile.fixture(name)
    let device = try FileDevice(path: image.path, readOnly: false)
    let first = AlignedBuffer(byteCount: 4096)
    try device.read(into: first, at: 0)
    let size = 1024 << Int(first.withBytes { $0[LE<UInt32>(1024 + 0x18)] })
    let log = try image.log(on: device, blockByteCount: size)
    let target = ReplayTarget(blockCount: device.byteCount / UInt64(size), sharesDeviceWithLog: true)
    let plan = try RecoveryPlan.scan(log, for: target)
    #expect(plan.hasFastCommits)
    // The same area behind a log that goes on with a later transaction is a leftover.
    try plan.markEmpty(log)
    let cache = MetadataCache(
        device: device, blockByteCount: size, blockCount: target.blockCount, capacityBytes: 1 << 20)
    var options = JournalOptions()
    options.isManual = true
    options.isWide = true
    let journal = try Journal(
        device: device, log: log, cache: cache, superBlock: log.readSuperBlock(), options: options,
        clock: { CommitTime(seconds: 1_700_000_000, nanoseconds: 0) })
    let block = try cache.block(FSBlock(target.blockCount - 1))
    try journal.withHandle(credits: 1) { handle throws(Ext4Error) in
        try handle.modify(block) { $0.fill(0..<8, with: 1) }
    }
    try journal.commitNow()
    let later = try RecoveryPlan.scan(log, for: target)
    #expect(later.transactions.count == 1 && !later.hasFastCommits)
}
