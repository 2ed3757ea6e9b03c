import CrashLab
import Synchronization
import Testing
import Threads

/// A scheduler that decides who runs: what it finds must be found again, and what cannot go on must be told.
@Suite struct SchedulerTests {
    /// The order in which four threads get through a monitor, a range and a reader-writer lock.
    private static func order(seed: UInt64) throws -> [Int] {
        let order = Mutex<[Int]>([])
        try SeededScheduler(seed: seed, switchRate: 2).run {
            let count = Monitor(0), ranges = RangeLock(), lock = ReaderWriterLock()
            let threads = (0..<4).map { number in
                Thread(name: "worker \(number)") {
                    for round in 0..<5 {
                        let lease = ranges.acquire(UInt64(round)..<UInt64(round + number + 1), exclusive: number > 1)
                        lock.withWriteLock { count.withLock { $0 += 1 } }
                        count.notifyAll()
                        lease.release()
                        // The first two wait for one another.
                        if number < 2 { count.wait { $0 >= 2 * round ? () : nil } }
                        order.withLock { $0.append(number) }
                    }
                }
            }
            for thread in threads { thread.join() }
        }
        return order.withLock { $0 }
    }

    @Test func aSeedGivesTheSameOrderEveryTime() throws {
        let orders = try (1...8).map { try Self.order(seed: $0) }
        for (index, order) in orders.enumerated() { #expect(try Self.order(seed: UInt64(index + 1)) == order) }
        #expect(Set(orders).count > 4 && orders.allSatisfy { $0.count == 20 })
    }

    /// A wait with a limit ends when nothing else can happen, and no sooner than somebody notifies or chance says so.
    @Test func timePassesWhenNobodyElseCanGoOn() throws {
        let isOver = Mutex(false)
        try SeededScheduler(seed: 1, switchRate: 2).run {
            let answer = Monitor(0).wait(milliseconds: 3_600_000) { $0 > 0 ? true : nil }
            isOver.withLock { $0 = answer == nil }
        }
        #expect(isOver.withLock { $0 })
    }

    /// Two threads take two locks in different orders. Some interleaving meets it, and the report says who waits where.
    @Test func aDeadlockIsFoundAndTold() {
        var reports: [String] = []
        for seed in 1...20 as ClosedRange<UInt64> {
            let scheduler = SeededScheduler(seed: seed, switchRate: 2)
            do {
                try scheduler.run {
                    let locks = [ReaderWriterLock(), ReaderWriterLock()]
                    let threads = (0..<2).map { number in
                        Thread(name: "worker \(number)") {
                            scheduler.note("in order \(number)")
                            locks[number].withWriteLock { locks[1 - number].withReadLock {} }
                        }
                    }
                    for thread in threads { thread.join() }
                }
            } catch { reports.append("\(error)") }
        }
        #expect(!reports.isEmpty && reports.count < 20)
        let first = reports.first ?? ""
        #expect(first.contains("worker 1, in order 1: waits at CrashTests/SchedulerTests.swift"), "\(first)")
    }

    /// A notice that is never given is a deadlock too, also where threads with a limit wake up again and again.
    @Test func aForgottenNoticeIsADeadlock() {
        #expect(throws: SchedulerFailure.self) {
            try SeededScheduler(seed: 1, switchRate: 2).run {
                let isReady = Monitor(false), lock = ReaderWriterLock()
                let waiter = Thread(name: "waiter") { isReady.wait { $0 ? () : nil } }
                _ = Thread(name: "clock") {
                    while true { _ = Monitor(()).wait(milliseconds: 1) { _ -> Void? in nil } }
                }
                // Until the waiter waits.
                for _ in 0..<100 { lock.withReadLock {} }
                isReady.withLock { $0 = true }
                waiter.join()
            }
        }
    }
}
