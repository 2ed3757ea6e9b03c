import BlockIO
import Ext4Format
import Journal
import Testing

/// Many transactions through a tiny log: recovery after each gives exactly what was committed.
@Test(arguments: [16, 17, 23, 40, 64] as [UInt32], [false, true])
func aTinyLogWrapsManyTimes(_ logBlocks: UInt32, _ isSplit: Bool) throws {
    // Wrap, tail moves and reuse of log space, each at every alignment against the end of the ring.
    var shape = Bench.Shape()
    shape.logBlocks = logBlocks
    shape.isSplit = isSplit
    let bench = try Bench(shape)
    var expected: [UInt64: UInt8] = [:]
    for round in 0..<60 {
        for step in 0..<3 {
            let number = UInt64((round * 7 + step * 3) % 50), byte = UInt8(truncatingIfNeeded: round + step + 1)
            try bench.fill(number, byte)
            expected[number] = byte
        }
        try bench.journal.commitNow()
        let (disk, _) = try bench.recovered(shape)
        for (number, byte) in expected { #expect(Bench.uniform(number, disk) == byte, "round \(round)") }
    }
    #expect(bench.journal.counters.loggedBlocks > 2 * Int(logBlocks))
    try bench.journal.close()
    for (number, byte) in expected { #expect(try Bench.uniform(number, bench.bytes) == byte) }
}

/// Sequence numbers run over the sign change and over the end of 32 bits.
@Test(arguments: [0xFFFF_FFF0, 0x7FFF_FFF0] as [UInt32])
func sequencesWrap(_ start: UInt32) throws {
    // Scenario J14: a comparison that is not modular takes the newest transaction for the oldest.
    var shape = Bench.Shape()
    shape.logBlocks = 48
    shape.sequence = start
    let bench = try Bench(shape)
    for round in 0..<40 {
        try bench.fill(3, UInt8(round + 1))
        try bench.fill(UInt64(4 + round % 5), UInt8(round + 1))
        try bench.journal.commitNow()
        let (disk, plan) = try bench.recovered(shape)
        #expect(Bench.uniform(3, disk) == UInt8(round + 1))
        #expect(plan.endID.rawValue == start &+ UInt32(round) &+ 1)
    }
}

/// After a recovery the log goes on with numbers that nothing left in it can continue.
@Test func recoveryBreaksTheChain() throws {
    // Scenarios J3 to J6: a stale transaction with the right number is grafted onto a new log.
    let shape = Bench.Shape()
    let bench = try Bench(shape)
    for round in 1...3 {
        try bench.fill(UInt64(round), UInt8(round))
        try bench.journal.commitNow()
    }
    // The first mount crashes with three transactions, of which the third loses its commit.
    let device = try MemoryDevice(bench.bytes)
    let plan = try Bench.scan(shape, device)
    let third = try #require(plan.transactions.last)
    let log = try LogArea(device: device, blockByteCount: 1024, runs: shape.runs)
    let hole = [UInt8](repeating: 0, count: 1024)
    try log.write(hole.span.bytes, at: try #require(third.commit), mode: .cached)
    let torn = try Bench.recover(shape, device)
    #expect(torn.transactions.count == 2)
    guard case .torn = torn.end else {
        Issue.record("end is \(torn.end)")
        return
    }
    #expect(torn.nextSequence == TransactionID(4))
    // The second mount writes one transaction and crashes.
    let second = try Bench(shape, on: device)
    try second.fill(9, 9)
    try second.journal.commitNow()
    let (disk, last) = try second.recovered(shape)
    #expect(last.transactions.map(\.id.rawValue) == [4])
    #expect(Bench.uniform(9, disk) == 9)
    #expect(Bench.uniform(3, disk) == 0)
}

/// The second replay of one log changes nothing.
@Test func replayIsIdempotent() throws {
    // A power cut during replay is followed by the same replay.
    let shape = Bench.Shape()
    let bench = try Bench(shape)
    for round in 0..<10 {
        try bench.fill(UInt64(round % 4), UInt8(round + 1))
        try bench.journal.commitNow()
    }
    let device = try MemoryDevice(bench.bytes)
    let log = try LogArea(device: device, blockByteCount: 1024, runs: shape.runs)
    try Bench.scan(shape, device).apply(from: log, to: device)
    let once = device.bytes
    let plan = try Bench.scan(shape, device)
    let counters = try plan.apply(from: log, to: device)
    #expect(device.bytes == once)
    #expect(counters.blocks == 4)
    #expect(counters.writes == 1, "four neighbours are one write")
    try plan.markEmpty(log)
    #expect(try Bench.scan(shape, device).isEmpty)
}
