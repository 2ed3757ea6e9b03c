import BlockIO
import CrashLab
import Ext4Format
import Foundation
import Journal
import Synchronization
import Testing

/// A log of so many MiB, with escaped blocks, revoked ones, and blocks that are logged again and again.
private func longLog(_ shape: Bench.Shape) throws -> Bench {
    let bench = try Bench(shape)
    for round in 0..<6 {
        try bench.journal.withHandle(credits: 2000) { handle throws(Ext4Error) in
            for index in 0..<2000 {
                let block = try handle.create(FSBlock(UInt64((index * 7 + round * 900) % 8000)))
                try handle.modify(block) { bytes in
                    bytes[BE<UInt32>(0)] = index % 9 == 0 ? JournalHeader.magic : UInt32(index)
                    bytes[LE<UInt64>(512)] = UInt64(round)
                }
            }
        }
        try bench.journal.commitNow()
        try bench.journal.withHandle(credits: 40) { handle throws(Ext4Error) in
            for index in 0..<40 { try handle.revoke(FSBlock(UInt64((index * 14 + round * 900) % 8000))) }
        }
        try bench.journal.commitNow()
    }
    return bench
}

private let long: Bench.Shape = {
    var shape = Bench.Shape()
    shape.homeBlocks = 8192
    shape.logBlocks = 16384
    shape.cacheBytes = 64 << 20
    return shape
}()

/// However little of the log stays in memory, the same bytes come home; with enough of it the log is read once.
@Test func memoryDecidesAboutTimeAlone() throws {
    // The bound is there for a log of a GiB: what is dropped there must be found again.
    let bench = try longLog(long)
    let before = try bench.bytes
    var disks: [[UInt8]] = []
    for memory in [0, 300 << 10, 256 << 20] {
        let device = MemoryDevice(before)
        let log = try LogArea(device: device, blockByteCount: 1024, runs: long.runs)
        var options = RecoveryOptions()
        options.memoryByteCount = memory
        let steps = Mutex<[RecoveryProgress]>([])
        options.progress = { step in steps.withLock { $0.append(step) } }
        let plan = try RecoveryPlan.scan(
            log, for: ReplayTarget(blockCount: 8192, sharesDeviceWithLog: true), options: options)
        #expect(plan.transactions.count == 12 && plan.end == .clean && plan.revokedCopyCount == 240)
        let counters = try plan.apply(from: log, to: device, progress: options.progress)
        #expect(counters.blocks == plan.copies.count)
        #expect((counters.reads == 0) == (memory == 256 << 20))
        disks.append(device.bytes)
        let seen = steps.withLock { $0 }
        let last = RecoveryProgress(phase: .flushing, done: counters.blocks, total: counters.blocks)
        #expect(seen.count > 15 && seen.last == last)
        #expect(seen.allSatisfy { $0.done <= $0.total })
    }
    #expect(disks[0] == disks[1] && disks[1] == disks[2])
    let escaped = try Bench.scan(long, bench.device).copies.filter(\.isEscaped)
    #expect(escaped.count > 100)
    for copy in escaped {
        let start = Int(copy.home.rawValue) * 1024
        #expect(disks[0][start..<start + 4] == [0xC0, 0x3B, 0x39, 0x98], "an escaped block lost its first bytes")
    }
}

/// A log that the page cache holds is copied twice rather than kept, and the same bytes come home.
@Test func aLogAtHandIsReadTwice() throws {
    let path = "/var/tmp/jext4-at-hand-\(getpid())"
    let bench = try longLog(long), before = try bench.bytes, memory = MemoryDevice(before)
    defer { unlink(path) }
    var disks: [[UInt8]] = []
    func recover(_ device: any BlockDevice) throws -> Int {
        let log = try LogArea(device: device, blockByteCount: 1024, runs: long.runs)
        let plan = try RecoveryPlan.scan(log, for: ReplayTarget(blockCount: 8192, sharesDeviceWithLog: true))
        return try plan.apply(from: log, to: device).reads
    }
    #expect(try recover(memory) == 0)
    disks.append(memory.bytes)
    for isCached in [true, false] {
        try Data(before).write(to: URL(fileURLWithPath: path))
        let file = open(path, O_RDONLY)
        defer { close(file) }
        if !isCached { try #require(fsync(file) == 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0) }
        let device = try FileDevice(path: path, readOnly: false)
        let isAtHand = device.isAtHand(at: UInt64(long.homeBlocks) * 1024, count: 1 << 20)
        #expect(!isAtHand || isCached)
        #expect(try (recover(device) > 0) == isAtHand)
        disks.append([UInt8](try Data(contentsOf: URL(fileURLWithPath: path))))
    }
    #expect(disks[0] == disks[1] && disks[1] == disks[2])
}

/// A sector that cannot be read is an error where the log needs it, and nowhere else.
@Test func onlyWhatTheLogNeedsMustBeReadable() throws {
    // The log is read in large pieces: a bad sector in its unused part must not cost the volume.
    let bench = try longLog(long)
    let end = try Bench.scan(long, bench.device).endPosition
    for (position, isFatal) in [(end + 3, false), (end + 100, false), (end - 3, true), (5, true)] {
        let faulty = try FaultyDevice(MemoryDevice(bench.bytes))
        let start = UInt64(long.homeBlocks + position) * 1024
        faulty.arm(FaultyDevice.Fault(.read, ordinal: 1, isPersistent: true, range: start..<start + 1024))
        if isFatal {
            #expect(throws: Ext4Error.io(errno: 5, operation: "read", offset: start, count: 1024)) {
                try Bench.scan(long, faulty)
            }
        } else {
            #expect(try Bench.scan(long, faulty).end == .clean)
        }
    }
}

/// A replay up to a transaction leaves what that transaction left, and the log empty behind it.
@Test func aReplayStopsWhereItsOwnerSays() throws {
    // Someone who knows that a later transaction did harm wants the state before it, whole.
    let shape = Bench.Shape()
    let bench = try Bench(shape)
    for round in 1...5 {
        try bench.fill(7, UInt8(round))
        try bench.fill(UInt64(10 + round), UInt8(round))
        try bench.journal.commitNow()
    }
    func recover(upTo last: UInt32) throws -> (RecoveryPlan, [UInt8]) {
        let device = try MemoryDevice(bench.bytes)
        let log = try LogArea(device: device, blockByteCount: 1024, runs: shape.runs)
        var options = RecoveryOptions()
        options.last = TransactionID(last)
        let target = ReplayTarget(blockCount: UInt64(shape.homeBlocks), sharesDeviceWithLog: true)
        let plan = try RecoveryPlan.scan(log, for: target, options: options)
        try plan.apply(from: log, to: device)
        try plan.markEmpty(log)
        #expect(try log.readSuperBlock().sequence == TransactionID(7), "past all that the log holds")
        return (plan, device.bytes)
    }
    for last in 0...5 {
        let (plan, disk) = try recover(upTo: UInt32(last))
        #expect(plan.transactions.count == last && plan.unapplied.count == 5 - last)
        #expect(plan.isCut == (last < 5) && plan.endID == TransactionID(UInt32(last) + 1))
        #expect(Bench.uniform(7, disk) == UInt8(last))
        for round in 1...5 { #expect(Bench.uniform(UInt64(10 + round), disk) == (round <= last ? UInt8(round) : 0)) }
    }
    for last in [6, 99, .max] as [UInt32] {
        #expect(throws: Ext4Error.self) { try recover(upTo: last) }
    }
}

/// Power fails at any write of a recovery, whole or torn: the next recovery leaves the same bytes.
@Test(arguments: [1, 2] as [UInt64]) func aRecoveryCanBeCutAnywhere(_ seed: UInt64) throws {
    // P2 for recovery itself: it is the one moment when the log and the homes are both in use.
    var shape = Bench.Shape()
    shape.homeBlocks = 64
    shape.logBlocks = 40
    shape.isSplit = seed == 2
    let bench = try Bench(shape)
    for round in 0..<30 {
        for step in 0..<3 { try bench.fill(UInt64((round * 5 + step * 17) % 60), UInt8(round + step)) }
        if round % 5 == 4 { try bench.free(UInt64(round * 5 % 60)) }
        try bench.journal.commitNow()
    }
    let dirty = try bench.bytes
    let base = MemoryDevice(dirty)
    let whole = MemoryDevice(dirty)
    let trace = Trace()
    try Bench.recover(shape, RecordingDevice(whole, recorder: trace))
    let model = try CrashModel(base: base, events: trace.events)
    let states = TraceSample(model).states(seed: seed, prefixes: .max, inFlight: 60, subsets: 60)
    #expect(states.count > 60)
    try model.forEach(states) { state, disk in
        try Bench.recover(shape, disk)
        let again = AlignedBuffer(byteCount: dirty.count)
        try disk.read(into: again, at: 0)
        #expect(again.withBytes { $0.array(0..<dirty.count) } == whole.bytes, "\(state)")
    }
}

/// A log of one transaction, 10, in blocks 1 ... 3, and what tests put behind it.
private struct ShortLog {
    private let shape = Bench.Shape()
    private let device: MemoryDevice
    private let log: LogArea
    private let format: LogAuthor.Format
    static let block = LogAuthor.Item(home: 6, content: [UInt8](repeating: 2, count: 1024))

    init(_ format: LogAuthor.Format = LogAuthor.Format()) throws {
        self.format = format
        device = try MemoryDevice(Bench.format(shape))
        log = try LogArea(device: device, blockByteCount: 1024, runs: shape.runs)
    }

    func plan(_ write: (inout LogAuthor) -> Void = { _ in }) throws -> RecoveryPlan {
        var author = LogAuthor(format, end: 64, sequence: 10)
        author.log([LogAuthor.Item(home: 5, content: [UInt8](repeating: 1, count: 1024))])
        author.commit(at: 1_700_000_000)
        write(&author)
        try author.write(to: log)
        return try Bench.scan(shape, device)
    }

    /// Puts a transaction of another time at block 4.
    func graft(_ sequence: UInt32, at seconds: UInt64, uuid: [UInt8] = Array(1...16)) throws {
        var author = LogAuthor(format, end: 64, start: 4, sequence: sequence, uuid: uuid)
        author.log([Self.block])
        author.commit(at: seconds)
        for (position, bytes) in author.blocks { try log.write(bytes.span.bytes, at: position, mode: .cached) }
    }
}

/// What a log ends with is named for what it is.
@Test func theEndOfALogIsNamed() throws {
    // A torn end is nobody's loss, damage is, and what the ring held before is neither: a report that mixes them up
    // sends people to the wrong tool.
    let log = try ShortLog()
    let fresh = try log.plan()
    #expect(fresh.end == .clean && fresh.stop?.kind == .noBlock && fresh.nextSequence == TransactionID(12))

    try log.graft(3, at: 1_600_000_000)
    let wrapped = try log.plan()
    #expect(wrapped.end == .clean && wrapped.stop == RecoveryPlan.Problem(kind: .olderBlock, position: 4))

    // The next transaction began and the ring's old contents follow.
    let torn = try log.plan { $0.log([ShortLog.block]) }
    #expect(torn.end == .torn(RecoveryPlan.Problem(kind: .olderBlock, position: 6)))

    // The same sequence from an earlier life: wrong checksums, an earlier time.
    try log.graft(11, at: 1_600_000_000, uuid: [UInt8](repeating: 9, count: 16))
    let leftover = try log.plan()
    #expect(leftover.end == .clean && leftover.stop == RecoveryPlan.Problem(kind: .leftover, position: 4))

    // A transaction is missing.
    try log.graft(12, at: 1_700_000_001)
    let gap = try log.plan()
    let problem = RecoveryPlan.Problem(kind: .laterBlock, position: 4)
    #expect(gap.end == .damaged(problem, laterCommit: TransactionID(12)) && gap.isDamaged)
}

/// Commits whose times run backwards count, and are named.
@Test func aClockThatWasSetBackLosesNothing() throws {
    // Linux takes the order of times for a hint of age in doubtful cases only; a board without a clock battery must not
    // lose what it has synced.
    let log = try ShortLog()
    #expect(try log.plan().timeRunsBackwards == nil)
    let plan = try log.plan { author in
        author.log([ShortLog.block])
        author.commit(at: 1_500_000_000)
    }
    #expect(plan.end == .clean && plan.transactions.count == 2)
    #expect(plan.timeRunsBackwards == TransactionID(11))
}

/// An asynchronous commit block that reached the medium before what it commits is a torn end.
@Test(arguments: [JournalFormat.ChecksumKind.v1, .v2, .v3])
func aCommitThatOvertookItsBlocksEndsTheLog(_ kind: JournalFormat.ChecksumKind) throws {
    // Nobody waits between the two then: every power cut in a commit would make the volume refuse to mount.
    func log(isAsync: Bool = true) throws -> ShortLog {
        try ShortLog(LogAuthor.Format(checksums: kind, isAsync: isAsync))
    }
    func write(_ author: inout LogAuthor) {
        author.log([ShortLog.block])
        author.replaceLast { $0[600] ^= 1 }
        author.commit()
    }
    let torn = try log().plan(write)
    let problem =
        kind == .v1
        ? RecoveryPlan.Problem(kind: .payloadChecksum, position: 6)
        : RecoveryPlan.Problem(kind: .blockChecksum, position: 5)
    #expect(torn.end == .torn(problem) && torn.transactions.map(\.id) == [TransactionID(10)])
    // The commit block that is there must not come to life again.
    #expect(torn.nextSequence == TransactionID(12))

    // The next transaction is committed when this one is on the medium.
    let damaged = try log().plan { author in
        write(&author)
        author.log([ShortLog.block])
        author.commit()
    }
    #expect(damaged.end == .damaged(problem, laterCommit: TransactionID(12)) && damaged.transactions.count == 1)

    // Of what was overtaken the descriptor is missing too.
    let headless = try log().plan { author in
        author.log([])
        author.replaceLast { $0 = [UInt8](repeating: 0, count: 1024) }
        write(&author)
    }
    #expect(!headless.isDamaged && headless.transactions.count == 1 && headless.nextSequence == TransactionID(12))

    // A home past the end has reached the medium as it is.
    let misled = try log().plan { author in
        author.log([LogAuthor.Item(home: 600, content: ShortLog.block.content)])
        author.commit()
    }
    #expect(misled.isDamaged)

    // Where a commit waits for its blocks the same is damage.
    #expect(try log(isAsync: false).plan(write).isDamaged)
}
