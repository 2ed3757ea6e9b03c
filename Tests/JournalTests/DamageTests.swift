import BlockIO
import Ext4Format
import Journal
import Testing

/// A log of three transactions of two blocks each, and one block more in it that was revoked.
private struct DamagedLog {
    let shape: Bench.Shape
    let bytes: [UInt8]
    let plan: RecoveryPlan

    init(_ features: JournalIncompatibleFeatures) throws {
        var shape = Bench.Shape()
        shape.incompatible = features
        let bench = try Bench(shape)
        for round in 1...3 {
            let byte = UInt8(round * 16)
            try bench.fill(UInt64(round * 10), byte)
            try bench.fill(UInt64(round * 10 + 1), byte)
            if round == 2 { try bench.free(300) }
            try bench.journal.commitNow()
        }
        self.shape = shape
        bytes = try bench.bytes
        plan = try Bench.scan(shape, MemoryDevice(bytes))
        try #require(plan.transactions.count == 3 && plan.end == .clean)
    }

    /// The log with one of its blocks changed, recovered.
    func recovered(_ position: UInt32, _ change: (inout [UInt8]) -> Void) throws -> (plan: RecoveryPlan, disk: [UInt8])
    {
        let device = MemoryDevice(bytes)
        let log = try LogArea(device: device, blockByteCount: 1024, runs: shape.runs)
        let buffer = AlignedBuffer(byteCount: 1024)
        try log.read(position, count: 1, into: buffer)
        var block = buffer.withBytes { $0.array(0..<1024) }
        change(&block)
        try log.write(block.span.bytes, at: position, mode: .cached)
        let plan = try Bench.scan(shape, device)
        try plan.apply(from: log, to: device)
        return (plan, device.bytes)
    }
}

/// Whatever happens to whichever block of the log: transactions before it are applied, none is applied in part, and the
/// loss of a committed one is reported.
@Test(arguments: [[.checksumV3], [.checksumV2], [.checksumV3, .wide]] as [JournalIncompatibleFeatures])
func damageIsNamedAndNeverHalfApplied(_ features: JournalIncompatibleFeatures) throws {
    // The matrix that e2fsck fails: it drops good transactions, or applies bad ones in part, and says nothing.
    let log = try DamagedLog(features)
    let changes: [(String, (inout [UInt8]) -> Void)] = [
        ("bit flip", { $0[600] ^= 4 }),
        ("bit flip in the header", { $0[11] ^= 1 }),
        ("zeroed", { $0 = [UInt8](repeating: 0, count: 1024) }),
        ("garbage", { block in for index in 0..<1024 { block[index] = UInt8(truncatingIfNeeded: index &* 37 &+ 11) } }),
        ("first sector zeroed", { $0.replaceSubrange(0..<512, with: [UInt8](repeating: 0, count: 512)) }),
    ]
    let last = try #require(log.plan.transactions.last?.commit)
    for position in 1...last {
        let owner = log.plan.transactions.firstIndex { position <= $0.commit ?? 0 } ?? 3
        for (name, change) in changes {
            let (plan, disk) = try log.recovered(position, change)
            let place: Comment = "\(name) at log block \(position) of transaction \(owner + 1)"
            #expect(plan.transactions.count == owner, place)
            for round in 1...3 {
                let wanted: UInt8 = round <= owner ? UInt8(round * 16) : 0
                #expect(Bench.uniform(UInt64(round * 10), disk) == wanted, place)
                #expect(Bench.uniform(UInt64(round * 10 + 1), disk) == wanted, place)
            }
            // Only the loss of the last commit block itself looks like a crash just before it.
            #expect(plan.isDamaged == (position != last), place)
        }
    }
}

/// Any bytes at all in the log and its super block end in an answer.
@Test(arguments: 1...4) func anyBytesGiveAnAnswer(_ seed: Int) throws {
    // P6: no trap, no endless loop, no write outside the volume, whatever the numbers say.
    let log = try DamagedLog([.checksumV3])
    var state = UInt64(seed)
    func random(_ limit: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int((state >> 33) % UInt64(limit))
    }
    // Without checksums, so that the hostile numbers are reached.
    for features in [0, 2, 0x20, 0x22, 1] as [UInt8] {
        for _ in 0..<150 {
            var bytes = log.bytes
            let area = 512 * 1024
            bytes[area + 0x2B] = features
            for _ in 0..<random(12) {
                let field = area + [0x10, 0x14, 0x18, 0x1C, 0x54][random(5)] + random(4)
                if random(3) == 0 { bytes[field] = UInt8(random(256)) }
                let target = area + 1024 + random(12 * 1024)
                bytes[target] = UInt8(random(256))
                // Headers and counts more often than payload.
                bytes[area + 1024 + random(12) * 1024 + random(32)] = UInt8(random(6))
            }
            let device = MemoryDevice(bytes)
            do throws(Ext4Error) {
                let plan = try Bench.recover(log.shape, device)
                #expect(plan.copies.count <= 64)
            } catch {
                if case .corrupt = error { continue }
                Issue.record("\(error)")
            }
        }
    }
}

/// A log without a beginning, where descriptor follows descriptor round the whole ring, ends.
@Test func anEndlessLogEnds() throws {
    // Scenario J20: a replayer that trusts the log goes round for ever.
    var shape = Bench.Shape()
    shape.incompatible = []
    var bytes = try Bench.format(shape)
    let area = 512 * 1024
    bytes[area + 0x1F] = 1
    for position in 1..<64 {
        let start = area + position * 1024
        bytes.replaceSubrange(start..<start + 12, with: [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 1, 0, 0, 0, 1])
        // A last tag straight away: one block each.
        bytes[start + 19] = 8
    }
    let plan = try Bench.scan(shape, MemoryDevice(bytes))
    #expect(plan.transactions.isEmpty)
    #expect(!plan.isEmpty)
}

/// A tag that names a block past the volume or inside the log is damage, even with the right checksums.
@Test func homesOutsideTheVolumeAreRefused() throws {
    // Applying such a tag overwrites somebody else's bytes, or the log while it is being read.
    let shape = Bench.Shape()
    let device = try MemoryDevice(Bench.format(shape))
    let log = try LogArea(device: device, blockByteCount: 1024, runs: shape.runs)
    let bench = try Bench(shape, on: device)
    try bench.fill(100, 1)
    try bench.fill(400, 2)
    try bench.journal.commitNow()
    for (limit, shares, kind) in [
        (399, true, RecoveryPlan.Problem.Kind.homePastEnd), (512, true, nil),
    ] as [(UInt64, Bool, RecoveryPlan.Problem.Kind?)] {
        let plan = try RecoveryPlan.scan(log, for: ReplayTarget(blockCount: limit, sharesDeviceWithLog: shares))
        #expect(plan.unapplied.first?.problem?.kind == kind)
        #expect(plan.isDamaged == (kind != nil))
    }
    // A log that covers block 400 as its own.
    let overlapping = try LogArea(
        device: device, blockByteCount: 1024, runs: [(FSBlock(512), 40), (FSBlock(400), 24)])
    var superBlock = try log.readSuperBlock()
    superBlock.sequence = TransactionID(1)
    let plan = try RecoveryPlan.scan(overlapping, for: ReplayTarget(blockCount: 512, sharesDeviceWithLog: true))
    #expect(plan.unapplied.first?.problem?.kind == .homeInLog)
}
