import BlockIO
import CrashLab
import Ext4Format
import Journal
import Testing

/// A random life of a volume, with what each block must hold after each durable step.
private struct Life {
    /// What a block is to the pretended file system.
    enum Use: Equatable {
        case metadata(UInt8)
        case data(UInt8)
        /// Freed, and the data that will take its place not yet promised: anything goes.
        case undefined
    }
    /// Each block's use after each step. Any step may be the last of a transaction: a full one is committed unasked.
    var versions: [[UInt64: Use]] = [[:]]
    var current: [UInt64: Use] = [:]
    /// Blocks freed by the running transaction: nobody may have them before it commits.
    var pendingFrees: Set<UInt64> = []

    mutating func seal() { versions.append(current) }
}

private func live(_ bench: Bench, seed: UInt64, steps: Int) throws(Ext4Error) -> Life {
    var random = SeededRandom(seed: seed)
    var life = Life()
    func commit() throws(Ext4Error) {
        try bench.journal.commitNow()
        life.pendingFrees = []
        life.seal()
        bench.device.mark("\(life.versions.count - 1)")
    }
    for _ in 0..<steps {
        life.seal()
        let number = UInt64.random(in: 0..<24, using: &random)
        let byte = UInt8.random(in: 1...255, using: &random)
        switch (Int.random(in: 0..<10, using: &random), life.current[number]) {
        case (0..<5, .metadata):
            try bench.fill(number, byte)
            life.current[number] = .metadata(byte)
        case (0..<5, nil), (0..<5, .undefined), (0..<5, .data):
            guard !life.pendingFrees.contains(number) else { continue }
            try bench.create(number, byte)
            life.current[number] = .metadata(byte)
        case (5..<7, .metadata):
            try bench.free(number)
            life.current[number] = .undefined
            life.pendingFrees.insert(number)
        case (7, .undefined), (8, .undefined):
            guard !life.pendingFrees.contains(number) else { continue }
            bench.cache.drop(FSBlock(number), count: 1)
            try bench.writeData(number, byte)
            try bench.journal.sync()
            life.pendingFrees = []
            life.current[number] = .data(byte)
            life.seal()
            bench.device.mark("\(life.versions.count - 1)")
        case (8, _): try commit()
        case (9, _): if Int.random(in: 0..<4, using: &random) == 0 { try bench.journal.checkpointNow() }
        default: continue
        }
    }
    try commit()
    return life
}

/// The newest durable step that the trace vouches for at an event.
private func acknowledged(_ events: [Trace.Event]) -> [Int] {
    var step = 0
    return events.map { event in
        if case .mark(let label) = event { step = Int(label) ?? step }
        return step
    }
}

/// What fills each block of the volume; nil where a block is not uniform.
private func fillings(_ disk: any BlockDevice) throws -> [UInt8?] {
    let buffer = AlignedBuffer(byteCount: 32 * Bench.blockByteCount)
    try disk.read(into: buffer, at: 0)
    let bytes = buffer.withBytes { $0.array(0..<buffer.byteCount) }
    return (0..<32).map { Bench.uniform($0, bytes) }
}

private func matches(_ fillings: [UInt8?], _ version: [UInt64: Life.Use]) -> Bool {
    version.allSatisfy { number, use in
        switch use {
        case .metadata(let byte), .data(let byte): fillings[Int(number)] == byte
        case .undefined: true
        }
    }
}

/// After any crash the metadata is what some prefix of the transactions left, with everything acknowledged in it, and
/// reused blocks keep their data.
@Test(arguments: [1, 2, 3, 4] as [UInt64])
func everyCrashStateIsAPrefix(_ seed: UInt64) throws {
    // P1 and P2 for the journal alone: commit, checkpoint, tail moves, revokes and log reuse cut everywhere.
    var shape = Bench.Shape()
    shape.homeBlocks = 32
    shape.logBlocks = [24, 32, 48][Int(seed % 3)]
    shape.incompatible = [[.checksumV3], [.checksumV2], []][Int(seed % 3)]
    shape.isSplit = seed % 2 == 0
    let base = try MemoryDevice(Bench.format(shape))
    let trace = Trace()
    let bench = try Bench(shape, on: RecordingDevice(MemoryDevice(base.bytes), recorder: trace))
    let life = try live(bench, seed: seed, steps: 90)
    let events = trace.events
    let acknowledged = acknowledged(events)
    let model = try CrashModel(base: base, events: events)
    let states = TraceSample(model).states(seed: seed, prefixes: 30, inFlight: 40, subsets: 60)
    var damaged = 0
    try model.forEach(states) { state, disk in
        let plan = try Bench.recover(shape, disk)
        if plan.isDamaged { damaged += 1 }
        let found = try fillings(disk)
        let first = acknowledged[state.epoch.event]
        let isPrefix = life.versions[first...].contains { matches(found, $0) }
        #expect(isPrefix, "seed \(seed), \(state): no version from \(first) on fits")
    }
    #expect(damaged == 0, "a mere crash was taken for damage")
    #expect(states.count > 100)
}

/// The same oracle finds the fault when the device ignores flushes.
@Test func theCrashOracleCanFail() throws {
    // A check that cannot fail proves nothing.
    var shape = Bench.Shape()
    shape.homeBlocks = 32
    shape.logBlocks = 24
    shape.incompatible = []
    let base = try MemoryDevice(Bench.format(shape))
    let trace = Trace()
    let bench = try Bench(shape, on: RecordingDevice(MemoryDevice(base.bytes), recorder: trace))
    let life = try live(bench, seed: 9, steps: 90)
    let acknowledged = acknowledged(trace.events)
    var lying = DiskModel()
    lying.honoursFlush = false
    let model = try CrashModel(base: base, events: trace.events, disk: lying)
    var failures = 0
    try model.forEach(TraceSample(model).inner(seed: 9, prefixes: 0, inFlight: 0, subsets: 100)) { state, disk in
        _ = try? Bench.recover(shape, disk)
        let found = try fillings(disk)
        if !life.versions[acknowledged[state.epoch.event]...].contains(where: { matches(found, $0) }) { failures += 1 }
    }
    #expect(failures > 0)
}

/// The order of writes and flushes is the protocol's: nothing is left to what a device happens to do.
@Test(arguments: [21, 22, 23] as [UInt64]) func theTraceObeysTheProtocol(_ seed: UInt64) throws {
    // Scenario J2 and its kin need rare states to show; their cause shows in every trace.
    var shape = Bench.Shape()
    shape.homeBlocks = 32
    shape.logBlocks = 40
    let base = try MemoryDevice(Bench.format(shape))
    let trace = Trace()
    let bench = try Bench(shape, on: RecordingDevice(MemoryDevice(base.bytes), recorder: trace))
    _ = try live(bench, seed: seed, steps: 200)
    try bench.journal.close()
    let logStart = UInt64(shape.homeBlocks) * 1024
    // Cached writes that no flush has covered: to homes, and anywhere.
    var homes = 0, all = 0, commits = 0, tails = 0
    for case .submitted(_, let request) in trace.events {
        switch request {
        case .flush: (homes, all) = (0, 0)
        case .discard: continue
        case .write(let offset, _, .throughToMedia) where offset == logStart:
            #expect(homes == 0, "the tail moved before the homes were flushed")
            tails += 1
        case .write(let offset, let bytes, .throughToMedia):
            #expect(offset > logStart && bytes.count == 1024)
            #expect(all == 0, "a commit block before the flush of what it commits")
            commits += 1
        case .write(let offset, _, .cached):
            #expect(offset != logStart, "the journal's super block was written through a cache")
            all += 1
            if offset < logStart { homes += 1 }
        }
    }
    #expect(commits > 10 && tails > 3)
}
