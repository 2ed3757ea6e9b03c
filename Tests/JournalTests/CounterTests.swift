import BlockIO
import Journal
import Testing
import Threads

/// Who tunes commit= and looks for a slow disk reads these figures beside those of /proc/fs/jbd2: they must mean the
/// same.
@Suite struct CounterTests {
    @Test func commitsAreCounted() throws {
        let bench = try Bench()
        for number in 0..<6 as Range<UInt64> { try bench.fill(number % 3, 1) }
        try bench.journal.commitNow()
        try bench.fill(7, 1)
        try bench.journal.makeDurable(bench.journal.runningTransaction)
        try bench.journal.sync()
        try bench.fill(8, 1)
        try bench.journal.commitNow()
        let counters = bench.journal.counters
        // The sync found nothing to commit, so only one commit was asked for; and what it asked is forgotten.
        #expect(counters.commits == 3 && counters.requested == 1 && counters.handles == 8)
        // Each has a descriptor and a commit block.
        #expect(counters.loggedBlocks == 5 && counters.logBlocks == 5 + 2 * 3)
        #expect(counters.checkpoints == 0 && counters.averageCommit > 0)
        try bench.journal.checkpointNow()
        #expect(bench.journal.counters.checkpoints == 1 && bench.journal.counters.homeBlocks == 5)
    }

    /// Each phase has its own time: a slow flush is not to look like a slow log.
    @Test func timeGoesToThePhaseThatTookIt() throws {
        let millisecond: UInt64 = 1_000_000
        let device = try SlowDevice(MemoryDevice(Bench.format(Bench.Shape())), flushMilliseconds: 30)
        var shape = Bench.Shape()
        shape.isManual = false
        let bench = try Bench(shape, on: device)
        let handle = try bench.journal.begin(credits: 1)
        let block = try bench.cache.block(.init(3))
        try handle.modify(block) { $0.fill(0..<$0.byteCount, with: 3) }
        let wanted = handle.transaction
        let waiter = Thread(name: "waiter") { try? bench.journal.makeDurable(wanted) }
        pause(20)
        // Comes while the transaction is locked.
        let other = Thread(name: "other") { try? bench.fill(4, 4) }
        pause(40)
        handle.close()
        waiter.join()
        other.join()
        let counters = bench.journal.counters
        #expect(counters.commits == 1 && counters.requested == 1)
        #expect(counters.flushing >= 30 * millisecond && counters.locked >= 20 * millisecond)
        #expect(counters.averageCommit >= counters.flushing + counters.locked)
        // The handle that waited belongs to the next transaction.
        try bench.journal.commitNow()
        #expect(bench.journal.counters.waiting >= millisecond)
        try bench.journal.close()
    }

    private func pause(_ milliseconds: Int) { _ = Monitor(()).wait(milliseconds: milliseconds) { _ -> Bool? in nil } }
}
