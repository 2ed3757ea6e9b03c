import BlockIO
import Ext4Format
import Journal
import Synchronization
import Testing
import Threads

func inThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    let threads = (0..<count).map { index in Thread(name: "test \(index)") { body(index) } }
    for thread in threads { thread.join() }
}

/// Threads that change, create, free, sync and wait for log space at once end with every byte where it belongs.
@Test(arguments: [48, 400] as [UInt32])
func threadsShareTheJournal(_ logBlocks: UInt32) throws {
    // Commit and checkpoint run beside the handles here, with a log that is always nearly full.
    var shape = Bench.Shape()
    shape.logBlocks = logBlocks
    shape.isManual = false
    shape.cacheBytes = 64 << 10
    let bench = try Bench(shape)
    let failures = Mutex<[String]>([])
    inThreads(6) { index in
        // Each thread owns every sixth block, so that the last value of each is known; the counter block is shared.
        do throws(Ext4Error) {
            for round in 0..<200 {
                let number = UInt64(6 + index + 6 * (round % 20))
                try bench.journal.withHandle(credits: 2) { handle throws(Ext4Error) in
                    let block =
                        round % 3 == 0 ? try handle.create(FSBlock(number)) : try bench.cache.block(FSBlock(number))
                    try handle.modify(block) { $0.fill(0..<$0.byteCount, with: UInt8(round)) }
                    let shared = try bench.cache.block(FSBlock(0))
                    try handle.modify(shared) { $0[LE<UInt64>(8 * index)] += 1 }
                }
                if round % 17 == index { try bench.journal.sync() }
                if round % 29 == index { try bench.journal.makeDurable(bench.journal.runningTransaction) }
            }
        } catch {
            failures.withLock { $0.append("\(error)") }
        }
    }
    #expect(failures.withLock { $0 } == [])
    try bench.journal.sync()
    for disk in [
        try bench.recovered(shape).disk,
        try {
            try bench.journal.close(); return try bench.bytes
        }(),
    ] {
        for index in 0..<6 {
            #expect(disk[8 * index] == 200)
            for slot in 0..<20 {
                #expect(Bench.uniform(UInt64(6 + index + 6 * slot), disk) == UInt8(180 + slot))
            }
        }
    }
}

/// Many who wait for one transaction share its commit.
@Test func oneCommitServesAllWaiters() throws {
    // 16 fsyncs at once must not cost 16 commits.
    var shape = Bench.Shape()
    shape.logBlocks = 512
    shape.isManual = false
    let slow = SlowDevice(try MemoryDevice(Bench.format(shape)), flushMilliseconds: 5)
    let bench = try Bench(shape, on: slow)
    inThreads(16) { index in
        for round in 0..<10 {
            do throws(Ext4Error) {
                let id = try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
                    let block = try bench.cache.block(FSBlock(UInt64(index)))
                    try handle.modify(block) { $0.fill(0..<4, with: UInt8(round)) }
                    return handle.transaction
                }
                try bench.journal.makeDurable(id)
            } catch {
                Issue.record("\(error)")
            }
        }
    }
    #expect(bench.journal.counters.commits < 80)
    try bench.journal.close()
}

/// An abort wakes those who wait for durability, for space and for a locked transaction.
@Test func anAbortWakesEveryWaiter() throws {
    // P5: a waiter that sleeps on is a hung process.
    var shape = Bench.Shape()
    shape.logBlocks = 48
    shape.isManual = false
    let faulty = try FaultyDevice(MemoryDevice(Bench.format(shape)))
    let bench = try Bench(shape, on: faulty)
    let ended = Atomic(0)
    faulty.arm(FaultyDevice.Fault(.flush, ordinal: 30, isPersistent: true))
    inThreads(8) { index in
        for round in 0..<10_000 {
            do throws(Ext4Error) {
                try bench.fill(UInt64(index), UInt8(truncatingIfNeeded: round))
                if round % 5 == 0 { try bench.journal.makeDurable(bench.journal.runningTransaction) }
            } catch {
                ended.add(1, ordering: .relaxed)
                return
            }
        }
    }
    #expect(ended.load(ordering: .relaxed) == 8)
    #expect(throws: Ext4Error.aborted) { try bench.journal.close() }
}

/// Readers of one block read it once, and the capacity holds while nothing is dirty.
@Test func theCacheIsBoundedAndShared() throws {
    // Resident memory is a promise (cache_size), and a second read of a shared block is wasted time.
    let faulty = try FaultyDevice(MemoryDevice(Bench.format(Bench.Shape())))
    var shape = Bench.Shape()
    shape.cacheBytes = 128 << 10
    let bench = try Bench(shape, on: faulty)
    let before = faulty.requestCount(.read)
    inThreads(8) { _ in _ = try? bench.cache.block(FSBlock(77)) }
    #expect(faulty.requestCount(.read) == before + 1)
    for number in 0..<UInt64(512) { _ = try bench.cache.block(FSBlock(number)) }
    #expect(bench.cache.residentCount <= 128 + 32)
    #expect(throws: Ext4Error.self) { _ = try bench.cache.block(FSBlock(512)) }
    let reads = faulty.requestCount(.read)
    bench.cache.drop(FSBlock(200), count: 16)
    bench.cache.prefetch(FSBlock(200), count: 16)
    #expect(faulty.requestCount(.read) == reads + 1)
    for number in 200..<UInt64(216) { _ = try bench.cache.block(FSBlock(number)) }
    #expect(faulty.requestCount(.read) == reads + 1)
}
