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
        try hold(bench, milliseconds: 20)
        let first = bench.journal.counters
        #expect(first.commits == 1 && first.requested == 1)
        #expect(first.flushing >= 30 * millisecond && first.locked >= 15 * millisecond)
        #expect(first.averageCommit >= first.flushing + first.locked)
        // A handle that comes while the transaction is locked belongs to the next one, which says how long it waited.
        // On a busy machine it may come late: then it waits the next time.
        for _ in 0..<50 where bench.journal.counters.waiting == 0 {
            try hold(bench, milliseconds: 20)
            try bench.journal.commitNow()
        }
        #expect(bench.journal.counters.waiting >= millisecond / 10)
        try bench.journal.close()
    }

    /// Keeps a handle open while one thread waits for the commit of its transaction and another wants to come in.
    private func hold(_ bench: Bench, milliseconds: Int) throws {
        let handle = try bench.journal.begin(credits: 1)
        let block = try bench.cache.block(.init(3))
        try handle.modify(block) { $0.fill(0..<$0.byteCount, with: 3) }
        let transaction = handle.transaction
        let waiter = Thread(name: "waiter") { try? bench.journal.makeDurable(transaction) }
        pause(milliseconds)
        let other = Thread(name: "other") { try? bench.fill(4, 4) }
        pause(milliseconds)
        handle.close()
        waiter.join()
        other.join()
    }

    private func pause(_ milliseconds: Int) { _ = Monitor(()).wait(milliseconds: milliseconds) { _ -> Bool? in nil } }
}
