import BlockIO
import CrashLab
import Ext4Format
import Journal
import Synchronization
import Testing
import Threads

/// FS_IOC_SHUTDOWN: what each of its modes keeps, and that nothing is written after it.
@Suite struct ShutdownTests {
    /// A suite that cuts the power by ioctl counts on it that the image is what a cut at that moment leaves.
    @Test(arguments: [ShutdownMode.afterFreeze, .afterCommit, .atOnce])
    func eachModeKeepsWhatItSays(_ mode: ShutdownMode) throws {
        let trace = Trace()
        let shape = Bench.Shape()
        let memory = try MemoryDevice(Bench.format(shape))
        let bench = try Bench(shape, on: RecordingDevice(memory, recorder: trace))
        try bench.fill(3, 3)
        try bench.journal.commitNow()
        try bench.fill(4, 4)
        #expect(try bench.journal.shutDown(mode) == (mode == .afterFreeze))
        let events = trace.events.count
        #expect(throws: Ext4Error.shutDown) { try bench.fill(5, 5) }
        #expect(throws: Ext4Error.shutDown) { try bench.journal.sync() }
        #expect(throws: Ext4Error.shutDown) { try bench.journal.checkpointNow() }
        #expect(throws: Ext4Error.shutDown) { try bench.journal.close() }
        #expect(try !bench.journal.shutDown(mode))
        #expect(trace.events.count == events)

        let log = try bench.log.readSuperBlock()
        #expect(log.errorNumber == 0 && (log.start == 0) == (mode == .afterFreeze))
        try Bench.recover(shape, memory)
        #expect(Bench.uniform(3, memory.bytes) == 3)
        #expect(Bench.uniform(4, memory.bytes) == (mode == .atOnce ? 0 : 4))
    }

    /// Who asks for a commit first, and cannot have it, is told; and the volume is shut down all the same.
    @Test(arguments: [ShutdownMode.afterFreeze, .afterCommit]) func aModeThatCannotBeKeptSaysSo(_ mode: ShutdownMode)
        throws
    {
        let memory = try MemoryDevice(Bench.format(Bench.Shape()))
        let device = FaultyDevice(memory)
        let bench = try Bench(on: device)
        try bench.fill(4, 4)
        device.arm(.init(.flush, ordinal: 1, isPersistent: true))
        #expect(throws: Ext4Error.self) { try bench.journal.shutDown(mode) }
        #expect(throws: Ext4Error.self) { try bench.fill(5, 5) }
    }

    /// Threads in the middle of their work end with EIO, none hangs, and the device gets nothing more.
    @Test(arguments: [ShutdownMode.afterFreeze, .afterCommit, .atOnce])
    func underLoadEverybodyIsTold(_ mode: ShutdownMode) throws {
        var shape = Bench.Shape()
        shape.logBlocks = 48
        shape.isManual = false
        let trace = Trace()
        let memory = try MemoryDevice(Bench.format(shape))
        let bench = try Bench(shape, on: RecordingDevice(memory, recorder: trace))
        let written = Atomic(0), wrong = Atomic(0), after = Atomic(0)
        inThreads(6) { index in
            if index == 0 {
                while written.load(ordering: .relaxed) < 200 {}
                do throws(Ext4Error) { try bench.journal.shutDown(mode) } catch { wrong.add(1, ordering: .relaxed) }
                return after.store(trace.events.count, ordering: .relaxed)
            }
            for round in 0..<1_000_000 {
                do throws(Ext4Error) {
                    try bench.fill(UInt64(index), UInt8(truncatingIfNeeded: round))
                    written.add(1, ordering: .relaxed)
                    if round % 5 == 0 { try bench.journal.makeDurable(bench.journal.runningTransaction) }
                } catch {
                    if error != .shutDown { wrong.add(1, ordering: .relaxed) }
                    return
                }
            }
            wrong.add(1, ordering: .relaxed)
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
        #expect(trace.events.count == after.load(ordering: .relaxed))
        #expect(throws: Ext4Error.shutDown) { try bench.journal.close() }
        #expect(trace.events.count == after.load(ordering: .relaxed))
        let plan = try Bench.recover(shape, memory)
        #expect(!plan.isDamaged)
    }
}

/// fsync of what an abort has lost is EIO, whatever the cause: a program takes EROFS or EOPNOTSUPP for another matter.
@Test func whoWaitsForALostTransactionHearsOfTheLoss() throws {
    let device = try MemoryDevice(Bench.format(Bench.Shape()))
    let spy = WriteSpy(device)
    let bench = try Bench(on: spy)
    try bench.fill(2, 2)
    try bench.journal.commitNow()
    try bench.fill(3, 3)
    spy.once = { () throws(Ext4Error) in bench.journal.abort(.refused("no room")) }
    #expect(throws: Ext4Error.lost("no room")) { try bench.journal.makeDurable(bench.journal.runningTransaction) }
    #expect(throws: Ext4Error.aborted) { try bench.journal.sync() }
    #expect(try bench.log.readSuperBlock().errorNumber == -5)
}

/// So do those who wait for another's commit.
@Test func whoWaitsBehindTheLeaderHearsOfTheLossToo() throws {
    let spy = WriteSpy(try MemoryDevice(Bench.format(Bench.Shape())))
    let bench = try Bench(on: spy)
    try bench.fill(2, 2)
    try bench.journal.commitNow()
    try bench.fill(3, 3)
    let transaction = bench.journal.runningTransaction
    let heard = Monitor<Ext4Error??>(nil)
    spy.once = { () throws(Ext4Error) in
        _ = Thread(name: "behind") {
            var failure: Ext4Error?
            do throws(Ext4Error) { try bench.journal.makeDurable(transaction) } catch { failure = error }
            heard.withLock { $0 = .some(failure) }
            heard.notifyAll()
        }
        // Time to get into the queue. Who is late hears of the abort instead.
        _ = heard.wait(milliseconds: 100) { _ -> Bool? in nil }
        bench.journal.abort(.refused("no room"))
    }
    #expect(throws: Ext4Error.lost("no room")) { try bench.journal.makeDurable(transaction) }
    let failure = heard.wait { $0 }
    #expect(failure == .lost("no room") || failure == .aborted)
}

/// What is written home after an abort could overtake the record of the error that the abort writes.
@Test func nothingGoesHomeAfterAnAbort() throws {
    let device = try MemoryDevice(Bench.format(Bench.Shape()))
    let bench = try Bench(on: device)
    try bench.fill(3, 3)
    try bench.journal.commitNow()
    let heard = Mutex<[Ext4Error]>([])
    bench.journal.setAfterAbort { cause in heard.withLock { $0.append(cause) } }
    bench.journal.abort(.corrupt("inode", where: "here"))
    bench.journal.abort(.refused("later"))
    #expect(heard.withLock { $0 } == [.corrupt("inode", where: "here")])
    #expect(throws: Ext4Error.aborted) { try bench.journal.checkpointNow() }
    #expect(Bench.uniform(3, device.bytes) == 0)
    #expect(try bench.log.readSuperBlock().errorNumber == -117)
}
