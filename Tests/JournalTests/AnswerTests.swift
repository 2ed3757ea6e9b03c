import BlockIO
import Ext4Format
import Journal
import Synchronization
import Testing
import Threads

/// A disk with a write cache of which a power cut leaves nothing, and whose flush takes a while.
private final class CachedDisk: BlockDevice {
    private let cached: MemoryDevice
    private let medium: MemoryDevice
    private let clock = Monitor(())

    init(_ bytes: [UInt8]) {
        cached = MemoryDevice(bytes)
        medium = MemoryDevice(bytes)
    }

    /// What a power cut would leave now.
    var durableBytes: [UInt8] { medium.bytes }

    var byteCount: UInt64 { cached.byteCount }
    var sectorByteCount: Int { cached.sectorByteCount }
    var isReadOnly: Bool { false }

    func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try cached.read(into: &bytes, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try cached.write(bytes, at: offset, mode: mode)
        if mode == .throughToMedia { try medium.write(bytes, at: offset, mode: mode) }
    }
    func flush() throws(Ext4Error) {
        let covered = cached.bytes
        _ = clock.wait(milliseconds: 1) { _ -> Bool? in nil }
        try medium.write(covered.span.bytes, at: 0, mode: .cached)
    }
}

/// P3: whoever asks to be told hears only when a power cut cannot take the change away any more, and hears once; they
/// share commits as those do who wait.
@Test func answersComeWhenTheChangeIsDurable() throws {
    var shape = Bench.Shape()
    shape.isManual = false
    shape.logBlocks = 256
    let disk = CachedDisk(try Bench.format(shape))
    let bench = try Bench(shape, on: disk)
    let found = Mutex<[[UInt64]: Int]>([:])
    let heard = Monitor(0)
    let layout = shape
    inThreads(8) { index in
        for round in 0..<12 {
            do throws(Ext4Error) {
                let byte = UInt8(round + 1)
                try bench.fill(UInt64(index), byte)
                bench.journal.makeDurable(bench.journal.runningTransaction) { failure in
                    if failure == nil, round % 4 == 3 {
                        let copy = MemoryDevice(disk.durableBytes)
                        let isRecovered = (try? Bench.recover(layout, copy)) != nil
                        let kept = isRecovered ? Bench.uniform(UInt64(index), copy.bytes) : nil
                        if kept.map({ $0 < byte }) ?? true { Issue.record("block \(index) of round \(round) is lost") }
                    }
                    found.withLock { $0[[UInt64(index), UInt64(round)], default: 0] += failure == nil ? 1 : 1000 }
                    heard.withLock { $0 += 1 }
                    heard.notifyAll()
                }
            } catch {
                Issue.record("\(error)")
            }
        }
    }
    heard.wait { $0 == 8 * 12 ? () : nil }
    #expect(found.withLock { $0.count == 96 && $0.values.allSatisfy { $0 == 1 } })
    #expect(bench.journal.counters.commits < 60)
    try bench.journal.close()
}

/// P5: when the journal aborts, all who were to be told hear of it, once, and nobody hears that the lost is durable.
@Test(arguments: [FaultyDevice.Operation.write, .flush], [3, 8, 21])
func anAbortAnswersEverybody(_ operation: FaultyDevice.Operation, _ ordinal: Int) throws {
    // No checkpoint is among the writes.
    let end = try answersAtAbort(logBlocks: 400, operation, ordinal)
    #expect(end?.lost ?? 0 > 0)
}

/// P5: the same where a write of a checkpoint may be the one that fails. All may be waiting for room then, and nobody
/// loses anything.
@Test(arguments: [FaultyDevice.Operation.write, .flush], [21, 34, 55])
func anAbortOfATightLogAnswersEverybody(_ operation: FaultyDevice.Operation, _ ordinal: Int) throws {
    _ = try answersAtAbort(logBlocks: 64, operation, ordinal)
}

/// Lets threads ask until a fault has aborted the journal; nil, and an issue, when not all of them have been told.
private func answersAtAbort(
    logBlocks: UInt32, _ operation: FaultyDevice.Operation, _ ordinal: Int
) throws -> (kept: Int, lost: Int)? {
    var shape = Bench.Shape()
    shape.isManual = false
    shape.logBlocks = logBlocks
    let faulty = try FaultyDevice(MemoryDevice(Bench.format(shape)))
    let bench = try Bench(shape, on: faulty)
    faulty.arm(FaultyDevice.Fault(operation, ordinal: ordinal, isPersistent: true))
    let asked = Atomic(0)
    let heard = Monitor((kept: 0, lost: 0))
    inThreads(6) { index in
        for round in 0..<100_000 {
            // Nobody may run so far ahead of the commits that the rounds end before the fault.
            let before = asked.load(ordering: .relaxed)
            heard.wait(milliseconds: 20_000) { before - $0.kept - $0.lost < 1000 ? () : nil }
            // Who comes after the abort is refused and asks for nothing.
            guard (try? bench.fill(UInt64(index), UInt8(truncatingIfNeeded: round))) != nil else { return }
            asked.add(1, ordering: .relaxed)
            bench.journal.makeDurable(bench.journal.runningTransaction) { failure in
                heard.withLock { if failure == nil { $0.kept += 1 } else { $0.lost += 1 } }
                heard.notifyAll()
            }
        }
    }
    let all = asked.load(ordering: .relaxed)
    let end = heard.wait(milliseconds: 20_000) { $0.kept + $0.lost == all ? $0 : nil }
    #expect(end != nil, "somebody has not been told")
    #expect(faulty.failureCount > 0, "the fault has not been met")
    #expect(throws: Ext4Error.aborted) { try bench.journal.close() }
    return end
}

/// P5: who asks about a transaction that is still empty hears of a flush that fails.
@Test func aFailedFlushAnswersThoseOfAnEmptyTransaction() throws {
    var shape = Bench.Shape()
    shape.isManual = false
    let faulty = try FaultyDevice(MemoryDevice(Bench.format(shape)))
    let bench = try Bench(shape, on: faulty)
    faulty.arm(FaultyDevice.Fault(.flush, ordinal: 1, isPersistent: true))
    let heard = Monitor<Ext4Error?>(nil)
    bench.journal.makeDurable(bench.journal.runningTransaction) { failure in
        heard.withLock { $0 = failure }
        heard.notifyAll()
    }
    #expect(heard.wait(milliseconds: 20_000) { $0 } != nil)
    #expect(throws: Ext4Error.aborted) { try bench.journal.close() }
}

/// Nobody is forgotten when the journal is closed, and an answer that needs no commit comes as well.
@Test func closingAnswersEverybody() throws {
    var shape = Bench.Shape()
    shape.isManual = false
    let bench = try Bench(shape)
    let answers = Mutex<[Bool]>([])
    try bench.fill(1, 1)
    let first = bench.journal.runningTransaction
    bench.journal.makeDurable(first) { failure in answers.withLock { $0.append(failure == nil) } }
    try bench.journal.sync()
    bench.journal.makeDurable(first) { failure in answers.withLock { $0.append(failure == nil) } }
    // The running transaction is empty.
    bench.journal.makeDurable(bench.journal.runningTransaction) { failure in
        answers.withLock { $0.append(failure == nil) }
    }
    try bench.journal.close()
    #expect(answers.withLock { $0 } == [true, true, true])
    bench.journal.makeDurable(first) { failure in answers.withLock { $0.append(failure == nil) } }
    #expect(answers.withLock { $0 } == [true, true, true, false])
}
