import BlockIO
import Ext4Format
import Journal
import Synchronization
import Testing

/// What was committed is home after a checkpoint, and close leaves an empty log with a later sequence.
@Test func aCheckpointCarriesCommittedBlocksHome() throws {
    // The shortest way of a block through the log: if this fails, nothing else means anything.
    let bench = try Bench()
    try bench.fill(7, 0xA7)
    try bench.fill(8, 0xA8)
    try bench.journal.commitNow()
    #expect(try Bench.uniform(7, bench.bytes) == 0, "a block went home before its checkpoint")
    try bench.journal.close()
    #expect(try Bench.uniform(7, bench.bytes) == 0xA7)
    #expect(try Bench.uniform(8, bench.bytes) == 0xA8)
    let superBlock = try bench.log.readSuperBlock()
    #expect(superBlock.start == 0)
    #expect(superBlock.sequence == TransactionID(2))
}

/// A checkpoint that comes after close finds the journal closed, and records no error in a clean log.
@Test func aClosedJournalBearsNoError() throws {
    // The background thread may be about to start one: it once left s_errno set, and e2fsck called the volume damaged.
    let bench = try Bench()
    try bench.fill(7, 0xA7)
    try bench.journal.close()
    #expect(throws: Ext4Error.aborted) { try bench.journal.checkpointNow() }
    let superBlock = try bench.log.readSuperBlock()
    #expect(superBlock.errorNumber == 0)
    #expect(superBlock.start == 0)
}

/// A crash after a commit keeps it, a crash before loses it whole.
@Test func aCrashKeepsWhatWasCommittedAndNothingElse() throws {
    // P1 and P2 in their smallest form.
    let bench = try Bench()
    try bench.fill(1, 0x11)
    try bench.fill(2, 0x12)
    try bench.journal.commitNow()
    try bench.fill(1, 0x21)
    let (disk, plan) = try bench.recovered()
    #expect(plan.transactions.map(\.id.rawValue) == [1])
    #expect(Bench.uniform(1, disk) == 0x11)
    #expect(Bench.uniform(2, disk) == 0x12)
    #expect(plan.end == .clean)
}

/// An empty transaction writes nothing, takes no sequence number, and durability is still given by a flush.
@Test func anEmptyTransactionIsNotCommitted() throws {
    // fsync of an overwritten file must not cost a commit.
    let faulty = try FaultyDevice(MemoryDevice(Bench.format(Bench.Shape())))
    let bench = try Bench(on: faulty)
    let handle = try bench.journal.begin(credits: 3)
    let id = handle.transaction
    handle.close()
    let writes = faulty.requestCount(.write)
    try bench.journal.makeDurable(id)
    #expect(faulty.requestCount(.write) == writes)
    #expect(faulty.requestCount(.flush) == 1)
    #expect(bench.journal.runningTransaction == id)
    try bench.journal.close()
    #expect(faulty.requestCount(.write) == writes, "closing an unused journal wrote to it")
}

/// A block whose content begins with jbd2's magic comes back from the log byte for byte.
@Test(arguments: [[], [.checksumV2], [.checksumV3], [.checksumV3, .wide]] as [JournalIncompatibleFeatures])
func aBlockThatLooksLikeTheJournalIsEscaped(_ features: JournalIncompatibleFeatures) throws {
    // Scenario J16: without the escape, replay takes the block for one of the journal's own, or loses four bytes.
    var shape = Bench.Shape()
    shape.incompatible = features
    let bench = try Bench(shape)
    let block = try bench.cache.block(FSBlock(9))
    try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
        try handle.modify(block) { bytes in
            bytes.fill(0..<bytes.byteCount, with: 0x55)
            bytes[BE<UInt32>(0)] = JournalHeader.magic
            bytes[BE<UInt32>(4)] = 2
            bytes[BE<UInt32>(8)] = 1
        }
    }
    try bench.journal.commitNow()
    let (disk, plan) = try bench.recovered(shape)
    #expect(plan.copies.map(\.isEscaped) == [true])
    #expect(Array(disk[9 * 1024..<9 * 1024 + 6]) == [0xC0, 0x3B, 0x39, 0x98, 0, 0])
    #expect(disk[9 * 1024 + 12] == 0x55)
}

/// A block of the committing transaction is logged as it was, although the running one has changed it meanwhile.
@Test func aCommitLogsItsOwnVersionOfABlock() throws {
    // The hook runs with the transaction locked; the clock is asked after it: from there the test plays another thread
    // that changes a block between the switch and the copy.
    let shape = Bench.Shape()
    let device = try MemoryDevice(Bench.format(shape))
    let spy = WriteSpy(device)
    let bench = try Bench(shape, on: spy)
    try bench.fill(5, 0x51)
    spy.once = { () throws(Ext4Error) in try bench.fill(5, 0x52) }
    try bench.journal.commitNow()
    let first = try bench.recovered()
    #expect(Bench.uniform(5, first.disk) == 0x51)
    try bench.journal.commitNow()
    let second = try bench.recovered()
    #expect(Bench.uniform(5, second.disk) == 0x52)
    #expect(second.plan.transactions.count == 2)
    try bench.journal.close()
    #expect(try Bench.uniform(5, bench.bytes) == 0x52)
}

/// What a transaction changes while a checkpoint is under way does not go home before it is committed.
@Test func aCheckpointLeavesOutWhatATransactionHasTaken() throws {
    // More than a checkpoint writes at once: the block is taken after it was chosen and before it is copied.
    var shape = Bench.Shape()
    shape.homeBlocks = 1_200
    shape.logBlocks = 4_096
    shape.cacheBytes = 4 << 20
    let spy = WriteSpy(try MemoryDevice(Bench.format(shape)))
    let found = Mutex<[UInt8?]>([])
    let taken: UInt64 = 1_190
    let bench = try Bench(
        shape, on: spy,
        hook: { _ throws(Ext4Error) in
            guard let disk = try? spy.contents else { return }
            found.withLock { $0.append(Bench.uniform(taken, disk)) }
        })
    for number in 0..<UInt64(shape.homeBlocks) {
        try bench.fill(number, 0x11)
        if number % 400 == 399 { try bench.journal.commitNow() }
    }
    found.withLock { $0 = [] }
    spy.once = { () throws(Ext4Error) in try bench.fill(taken, 0x22) }
    try bench.journal.checkpointNow()
    #expect(found.withLock { $0 } == [0x00], "the block that was not committed yet went home")
    #expect(try Bench.uniform(taken, bench.bytes) == 0x22)
    try bench.journal.close()
}

/// Actions run after their transaction is durable, in order, and see the device with the commit on it.
@Test func actionsRunOnceTheTransactionIsDurable() throws {
    // The allocator gives out freed blocks from there: one moment too early is a stale block after a crash.
    let bench = try Bench()
    let seen = Mutex<[String]>([])
    let block = try bench.cache.block(FSBlock(3))
    try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
        try handle.modify(block) { $0.fill(0..<$0.byteCount, with: 1) }
        handle.onCommit {
            let plan = try? Bench.scan(Bench.Shape(), bench.device)
            seen.withLock { $0.append("first, \(plan?.transactions.count ?? -1) durable") }
        }
        handle.onCommit { seen.withLock { $0.append("second") } }
    }
    #expect(seen.withLock { $0.isEmpty })
    try bench.journal.commitNow()
    #expect(seen.withLock { $0 } == ["first, 1 durable", "second"])
}

/// The hook changes blocks of every transaction that changed anything, as part of it.
@Test func theHookBelongsToTheTransaction() throws {
    // The super block's free counts must be those of the bitmaps they are committed with.
    let count = Atomic(0)
    let reference = Mutex<MetadataCache?>(nil)
    let bench = try Bench(hook: { handle throws(Ext4Error) in
        count.add(1, ordering: .relaxed)
        guard let block = try reference.withLock({ $0 })?.block(FSBlock(0)) else { return }
        try handle.modify(block) { $0.fill(0..<$0.byteCount, with: UInt8(handle.transaction.rawValue)) }
    })
    reference.withLock { $0 = bench.cache }
    try bench.fill(4, 4)
    try bench.journal.commitNow()
    try bench.journal.commitNow()
    #expect(count.load(ordering: .relaxed) == 1, "an empty transaction was committed")
    let (disk, plan) = try bench.recovered()
    #expect(plan.transactions.first?.blocks.map(\.home.rawValue).sorted() == [0, 4])
    #expect(Bench.uniform(0, disk) == 1)
}

/// Commit times never run backwards, whatever the clock does: Linux takes an older one, where its checksum is doubtful,
/// for a leftover.
@Test func commitTimesNeverRunBackwards() throws {
    let seconds = Atomic<UInt64>(1_700_000_000)
    let clock: CommitClock = {
        CommitTime(seconds: seconds.subtract(10, ordering: .relaxed).newValue, nanoseconds: 5)
    }
    let bench = try Bench(clock: clock)
    for round in 1...3 {
        try bench.fill(4, UInt8(round))
        try bench.journal.commitNow()
    }
    let times = try bench.recovered().plan.transactions.map { try #require($0.time) }
    #expect(times.count == 3 && times == [times[0], times[0], times[0]])
}

/// The hundredth commit calls its hook as directly as the first. A closure read out of a generic lock is wrapped anew
/// each time, and the lock keeps the wrapping: after a million commits no stack is deep enough.
@Test func theHookIsCalledTheSameWayEveryTime() throws {
    let places = Mutex<[UInt]>([])
    let bench = try Bench(hook: { _ throws(Ext4Error) in
        var local: UInt8 = 0
        withUnsafePointer(to: &local) { pointer in places.withLock { $0.append(UInt(bitPattern: pointer)) } }
    })
    for round in 0..<100 {
        try bench.fill(4, UInt8(round))
        try bench.journal.commitNow()
    }
    let seen = places.withLock { $0 }
    #expect(seen.count == 100 && Set(seen).count == 1)
}

/// A failure after a change aborts; a failure before the first change does not.
@Test func aHalfDoneOperationNeverCommits() throws {
    // P2: the alternative to an abort is a torn operation on the disk.
    let bench = try Bench()
    let block = try bench.cache.block(FSBlock(3))
    #expect(throws: Ext4Error.posix(28)) {
        try bench.journal.withHandle(credits: 1) { _ throws(Ext4Error) in throw .posix(28) }
    }
    #expect(!bench.journal.isAborted)
    #expect(throws: Ext4Error.posix(5)) {
        try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
            try handle.modify(block) { $0.fill(0..<8, with: 1) }
            throw .posix(5)
        }
    }
    #expect(bench.journal.isAborted)
    #expect(throws: Ext4Error.aborted) { try bench.fill(4, 4) }
    #expect(throws: Ext4Error.aborted) { try bench.journal.sync() }
    #expect(throws: Ext4Error.aborted) { try bench.journal.close() }
    #expect(try bench.recovered().plan.transactions.isEmpty)
    #expect(try bench.log.readSuperBlock().errorNumber == -5)
}

/// A handle gets more credits while there is room, is told when there is none, and gives back what it did not use.
@Test func creditsAreCountedPerTransaction() throws {
    // Too generous a count overruns the log; too strict a one commits for every operation.
    var shape = Bench.Shape()
    shape.logBlocks = 256
    let bench = try Bench(shape)
    let most = bench.journal.maximumCredits
    let handle = try bench.journal.begin(credits: most - 4)
    let (fits, isTooMany) = (handle.extend(credits: 4), !handle.extend(credits: 1))
    #expect(fits && isTooMany)
    let id = handle.transaction
    handle.close()
    let again = try bench.journal.begin(credits: most)
    let sameID = again.transaction
    #expect(sameID == id, "unused credits were not given back")
    again.close()
    #expect(throws: Ext4Error.self) { _ = try bench.journal.begin(credits: most + 1) }
}
