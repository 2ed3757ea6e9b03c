import BlockIO
import Ext4Format
import Journal
import Testing

/// Whatever write or flush fails, first or later, the volume hears of it and the log keeps what was acknowledged.
@Test(arguments: [FaultyDevice.Operation.write, .flush], [false, true])
func theNthFailureIsHonest(_ operation: FaultyDevice.Operation, _ isPersistent: Bool) throws {
    // Scenarios J9 and J10, P5: an error that is swallowed turns into a checkpoint that never happened.
    var shape = Bench.Shape()
    shape.homeBlocks = 32
    shape.logBlocks = 32
    for ordinal in 1...40 {
        let memory = try MemoryDevice(Bench.format(shape))
        let faulty = FaultyDevice(memory)
        let bench = try Bench(shape, on: faulty)
        faulty.arm(FaultyDevice.Fault(operation, ordinal: ordinal, isPersistent: isPersistent, tornByteCount: 512))
        var acknowledged: [UInt64: UInt8] = [:], tried: [UInt64: Set<UInt8>] = [:]
        var failure: Ext4Error?
        do throws(Ext4Error) {
            for round in 0..<24 {
                let number = UInt64(round % 7), byte = UInt8(round + 1)
                tried[number, default: []].insert(byte)
                try bench.fill(number, byte)
                try bench.journal.commitNow()
                acknowledged[number] = byte
                tried[number] = []
            }
            try bench.journal.close()
        } catch {
            failure = error
        }
        guard faulty.failureCount > 0 else { continue }
        #expect(failure != nil, "\(operation) \(ordinal) failed and nobody heard of it")
        #expect(bench.journal.isAborted)
        #expect(throws: Ext4Error.aborted) { try bench.journal.sync() }
        #expect(throws: Ext4Error.aborted) { _ = try bench.journal.begin(credits: 1) }
        let copy = MemoryDevice(memory.bytes)
        try Bench.recover(shape, copy)
        for (number, byte) in acknowledged {
            let found = Bench.uniform(number, copy.bytes)
            let isFine = found == byte || found.map { tried[number]?.contains($0) ?? false } ?? false
            #expect(isFine, "\(operation) \(ordinal): block \(number) is \(found ?? 0), not \(byte)")
        }
    }
}

/// A read error reaches the reader, is not cached, and does not abort.
@Test func aReadErrorIsTheReadersOwn() throws {
    // A bad sector under one directory must not take the volume down.
    let faulty = try FaultyDevice(MemoryDevice(Bench.format(Bench.Shape())))
    let bench = try Bench(on: faulty)
    faulty.arm(FaultyDevice.Fault(.read, ordinal: 1))
    #expect(throws: Ext4Error.self) { _ = try bench.cache.block(FSBlock(5)) }
    #expect(try bench.cache.block(FSBlock(5)).number == FSBlock(5))
    #expect(!bench.journal.isAborted)
    faulty.arm(FaultyDevice.Fault(.read, ordinal: 1))
    bench.cache.prefetch(FSBlock(10), count: 8)
    #expect(try bench.cache.block(FSBlock(12)).number == FSBlock(12))
}

/// The error number is recorded and the tail stays where it was.
@Test func anAbortFreezesTheTail() throws {
    // A tail that moves after a failed home write loses the only good copy.
    let shape = Bench.Shape()
    let faulty = try FaultyDevice(MemoryDevice(Bench.format(shape)))
    let bench = try Bench(shape, on: faulty)
    try bench.fill(3, 3)
    try bench.journal.commitNow()
    let before = try bench.log.readSuperBlock()
    let home = UInt64(3 * 1024)..<UInt64(4 * 1024)
    faulty.arm(FaultyDevice.Fault(.write, ordinal: 1, isPersistent: true, range: home))
    #expect(throws: Ext4Error.self) { try bench.journal.checkpointNow() }
    #expect(throws: Ext4Error.aborted) { try bench.journal.checkpointNow() }
    #expect(throws: Ext4Error.aborted) { try bench.journal.close() }
    let after = try bench.log.readSuperBlock()
    #expect(after.start == before.start && after.sequence == before.sequence)
    #expect(after.errorNumber == -5)
    faulty.disarm()
    #expect(try Bench.uniform(3, bench.recovered().disk) == 3)
}
