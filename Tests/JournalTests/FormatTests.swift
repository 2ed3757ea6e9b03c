import BlockIO
import Ext4Format
import Foundation
import Journal
import Testing

/// Every format that a log may have had since 1999.
private let formats: [LogAuthor.Format] = {
    var all: [LogAuthor.Format] = []
    for checksums in [.none, .v1, .v2, .v3] as [JournalFormat.ChecksumKind] {
        for isWide in [false, true] {
            for (hasManyUUIDs, isAsync) in [(false, false), (true, false), (false, true)] {
                var format = LogAuthor.Format(checksums: checksums, isWide: isWide)
                format.hasManyUUIDs = hasManyUUIDs
                format.isAsync = isAsync
                all.append(format)
            }
        }
    }
    return all + [LogAuthor.Format(version: 1, checksums: .none, isWide: false)]
}()

/// Four transactions over `homes`, eight blocks of a volume: two descriptors, escaped blocks, a revoke block used to
/// its last record, the end of the ring between, and the last one without a commit.
private func write(_ author: inout LogAuthor, over homes: [UInt64]) {
    let size = author.format.blockByteCount
    func item(_ index: Int, _ byte: UInt8, looksLikeJournal: Bool = false) -> LogAuthor.Item {
        var content = [UInt8](repeating: byte, count: size)
        if looksLikeJournal { content.replaceSubrange(0..<4, with: [0xC0, 0x3B, 0x39, 0x98]) }
        return LogAuthor.Item(home: homes[index], content: content)
    }
    author.log([item(0, 0x10, looksLikeJournal: true), item(1, 0x11)])
    author.log([item(2, 0x12), item(3, 0x13)])
    author.commit()
    let strangers = (1...UInt64(author.revokesPerBlock - 1)).map { 100_000 + $0 }
    author.revoke(strangers + [homes[2]])
    author.log([item(1, 0x21)])
    author.commit()
    author.log([item(4, 0x34)])
    author.commit()
    author.log([item(5, 0x45)])
}
/// What fills each of the eight afterwards, behind the first bytes; nil for what it was before.
private let outcome: [UInt8?] = [0x10, 0x21, nil, 0x13, 0x34, nil, nil, nil]

/// A log in any format, at any block size, is read for what it says.
@Test(arguments: formats, [1024, 2048, 4096, 65536])
func everyFormatIsRead(_ format: LogAuthor.Format, _ size: Int) throws {
    // Scenarios J15 and J21: a tag that is taken for two bytes longer or shorter sends every block to a wrong home.
    var format = format
    format.blockByteCount = size
    let log = try LogArea(
        device: MemoryDevice(byteCount: 64 * size), blockByteCount: size, runs: [(FSBlock(20), 44)])
    // Only the length is there before the author comes.
    var first = [UInt8](repeating: 0, count: size)
    LogAuthor.put(UInt32(44), at: 0x10, in: &first)
    try log.write(first.span.bytes, at: 0, mode: .cached)
    var author = LogAuthor(format, end: 44, start: 35, sequence: 0xFFFF_FFFE)
    write(&author, over: Array(4..<12))
    try author.write(to: log)
    let target = ReplayTarget(blockCount: 20, sharesDeviceWithLog: true)
    let plan = try RecoveryPlan.scan(log, for: target)
    #expect(plan.transactions.map(\.id.rawValue) == [0xFFFF_FFFE, 0xFFFF_FFFF, 0])
    #expect(
        plan.transactions.map(\.blockCount) == [4, 1, 1] && plan.transactions[1].revokeCount == author.revokesPerBlock)
    #expect(plan.endID == TransactionID(1) && plan.nextSequence == TransactionID(2))
    if case .torn = plan.end {} else { Issue.record("the end is \(plan.end)") }
    try plan.apply(from: log, to: log.device)
    let block = AlignedBuffer(byteCount: size)
    for (index, byte) in outcome.enumerated() {
        try log.device.read(into: block, at: UInt64(4 + index) * UInt64(size))
        let bytes = block.withBytes { $0.array(0..<size) }
        #expect(bytes[4...].allSatisfy { $0 == byte ?? 0 }, "block \(index)")
        #expect(bytes[0..<4] == (index == 0 ? [0xC0, 0x3B, 0x39, 0x98] : bytes[4..<8]), "block \(index)")
    }
    try plan.markEmpty(log)
    #expect(try RecoveryPlan.scan(log, for: target).isEmpty)
}

/// e2fsck reads the same logs in the same way.
@Test(
    .enabled(if: E2fsprogs.isPresent, E2fsprogs.need), arguments: formats.filter { !$0.isAsync }, [1024, 4096])
func everyFormatEndsAsWithE2fsck(_ format: LogAuthor.Format, _ size: Int) throws {
    // Our author could be wrong in the same way as our reader.
    var format = format
    format.blockByteCount = size
    let features = format.checksums == .v3 ? "metadata_csum" : "^metadata_csum"
    let image = try ImageFile.make(
        [
            "-t", "ext4", "-b", "\(size)", "-O", features + (format.isWide ? ",64bit" : ",^64bit"), "-J",
            "size=\(size / 1024)",
        ],
        size: "24M")
    let homes = try image.addPayload(blocks: 8, of: size)
    let device = try FileDevice(path: image.path, readOnly: false)
    let log = try image.log(on: device, blockByteCount: size)
    var author = LogAuthor(
        format, end: log.blockCount, start: log.blockCount - 9, sequence: 0x7FFF_FFFF,
        uuid: try log.readSuperBlock().uuid)
    write(&author, over: homes)
    try author.write(to: log)
    try device.flush()
    _ = try image.debugfs(["feature needs_recovery"])

    let ours = try image.copy(), theirs = try image.copy()
    #expect(try ours.recover(blockByteCount: size).transactions.count == 3)
    let result = try theirs.fsck(["-fy", "-E", "journal_only"])
    #expect(result.status <= 1 && result.output.contains("recovering journal"), "\(result.output)")
    let (a, b) = (try ours.bytes(), try theirs.bytes())
    for (index, home) in homes.enumerated() {
        let range = Int(home) * size..<(Int(home) + 1) * size
        #expect(a[range] == b[range], "block \(index)")
        #expect(a[range.lowerBound + 4] == outcome[index] ?? 0x5A, "block \(index)")
    }
}

/// A volume with blocks of 64 KiB, which no kernel here mounts, is recovered as e2fsck does it.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func blocksOf64KiBAreRecovered() throws {
    // 64 KiB pages are usual elsewhere, and their disks come to x86 for rescue.
    let size = 65536
    let image = try ImageFile.make(["-t", "ext4", "-b", "\(size)", "-J", "size=64"], size: "160M")
    let homes = try image.addPayload(blocks: 8, of: size)
    let device = try FileDevice(path: image.path, readOnly: false)
    let log = try image.log(on: device, blockByteCount: size)
    var format = LogAuthor.Format()
    format.blockByteCount = size
    var author = LogAuthor(format, end: log.blockCount, uuid: try log.readSuperBlock().uuid)
    write(&author, over: homes)
    try author.write(to: log)
    try device.flush()
    _ = try image.debugfs(["feature needs_recovery"])
    let theirs = try image.copy()
    #expect(try image.recover(blockByteCount: size).transactions.count == 3)
    #expect(try theirs.fsck(["-fy", "-E", "journal_only"]).status <= 1)
    let other = try FileDevice(path: theirs.path, readOnly: true)
    let (mine, its) = (AlignedBuffer(byteCount: size), AlignedBuffer(byteCount: size))
    for (index, home) in homes.enumerated() {
        try device.read(into: mine, at: home * UInt64(size))
        try other.read(into: its, at: home * UInt64(size))
        #expect(mine.isEqual(to: its), "block \(index)")
        #expect(mine.withBytes { $0.array(4..<5) } == [outcome[index] ?? 0x5A], "block \(index)")
    }
    _ = try image.debugfs(["feature -needs_recovery"])
    #expect(try image.fsck(["-fn"]).status == 0)
}

/// A journal of version 1 that is written to becomes one of version 2 with nothing in it that nobody put there.
@Test func aJournalOfVersion1IsUpgraded() throws {
    // What version 1 leaves undefined would be read as features, a head and users.
    var shape = Bench.Shape()
    shape.incompatible = []
    var bytes = try Bench.format(shape)
    let area = Int(shape.homeBlocks) * 1024
    bytes[area + 7] = 3
    for index in 0x24..<1024 { bytes[area + index] = 0xEE }
    let device = MemoryDevice(bytes)
    let bench = try Bench(shape, on: device, adjust: { $0.wantsChecksums = true })
    try bench.fill(9, 9)
    try bench.journal.commitNow()
    let superBlock = try bench.log.readSuperBlock()
    #expect(superBlock.version == 2 && superBlock.incompatible == [.revoke, .checksumV3])
    #expect(superBlock.compatible == [] && superBlock.readOnlyCompatible == 0)
    #expect(superBlock.fastCommitBlockCount == 0 && superBlock.userCount == 1)
    #expect(device.bytes[area + 0x100..<area + 0x400].allSatisfy { $0 == 0 })
    let (disk, _) = try bench.recovered(shape)
    #expect(Bench.uniform(9, disk) == 9)
}

/// A journal goes on in the ring where it stopped, says so when it is closed, and takes no head that is none.
@Test func theRingGoesOnWhereItStopped() throws {
    // Linux reads s_head of a clean journal and warns of one that lies outside.
    let shape = Bench.Shape()
    let device = try MemoryDevice(Bench.format(shape))
    var expected: UInt32 = 1
    for round in 0..<30 {
        let bench = try Bench(shape, on: device)
        try bench.fill(UInt64(round), 1)
        try bench.journal.commitNow()
        #expect(try Bench.scan(shape, device).superBlock.start == expected, "round \(round)")
        // Three blocks each, round a ring of 63; every third time the power fails.
        expected = expected + 3 > 63 ? 1 : expected + 3
        if round % 3 == 2 { try Bench.recover(shape, device) } else { try bench.journal.close() }
        let superBlock = try bench.log.readSuperBlock()
        #expect(superBlock.start == 0 && superBlock.head == expected)
    }
    for head in [64, .max, 0] as [UInt32] {
        var bytes = device.bytes
        let area = Int(shape.homeBlocks) * 1024
        var block = Array(bytes[area..<area + 1024])
        LogAuthor.put(head, at: 0x58, in: &block)
        LogAuthor.put(UInt32(0), at: 0xFC, in: &block)
        LogAuthor.put(CRC32C.of(block.span.bytes), at: 0xFC, in: &block)
        bytes.replaceSubrange(area..<area + 1024, with: block)
        let bench = try Bench(shape, on: MemoryDevice(bytes))
        try bench.fill(3, 3)
        try bench.journal.commitNow()
        #expect(try bench.log.readSuperBlock().start == 1, "head \(head)")
    }
}
