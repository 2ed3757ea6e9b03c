import BlockIO
import CrashLab
import Ext4Format
import Foundation
import Journal
import Testing

/// Recovers the disk of a bench, and finds the version of a life that it fits.
struct JournalJudge: CrashJudge {
    let shape: Bench.Shape
    let life: JournalLife

    func recover(_ disk: any BlockDevice) throws(Ext4Error) {
        let plan = try Bench.recover(shape, disk)
        guard !plan.isDamaged else { throw .corrupt("log", where: "a mere power cut is taken for damage") }
        // Others take a commit that is older than the one before it for what an earlier round has left.
        if let id = plan.timeRunsBackwards {
            throw .corrupt("log", where: "transaction \(id.rawValue) is older than the one before it")
        }
    }

    /// What fills each block of the volume; nil where a block is not filled with anything.
    func fillings(_ disk: any BlockDevice) throws(Ext4Error) -> [UInt8?] {
        var result: [UInt8?] = []
        for number in 0..<UInt64(shape.homeBlocks) {
            let offset = number * UInt64(Bench.blockByteCount)
            guard let undecided = disk as? any UndecidedDevice else {
                let buffer = AlignedBuffer(byteCount: Bench.blockByteCount)
                try disk.read(into: buffer, at: offset)
                result.append(buffer.withBytes { JournalLife.filling($0) })
                continue
            }
            result.append(try undecided.ask(at: offset, count: Bench.blockByteCount) { JournalLife.filling($0) })
        }
        return result
    }

    struct Contents {
        let fillings: [UInt8?]
        let hasError: Bool
    }

    func examine(_ disk: any BlockDevice) -> Result<Contents, Ext4Error> {
        do throws(Ext4Error) {
            let log = try LogArea(device: disk, blockByteCount: Bench.blockByteCount, runs: shape.runs)
            let hasError = try log.readSuperBlock().errorNumber != 0
            return .success(Contents(fillings: try fillings(disk), hasError: hasError))
        } catch { return .failure(error) }
    }

    func problems(of finding: Result<Contents, Ext4Error>, in epoch: CrashModel.Epoch) -> [String] {
        let first = life.acknowledged[epoch.event]
        switch finding {
        case .failure(let error): return ["\(error)"]
        case .success(let contents):
            if epoch.event > life.failed, !contents.hasError { return ["the log bears no error"] }
            let found = contents.fillings
            guard life.version(from: first, of: found) == nil else { return [] }
            let differences = life.differences(from: first, of: found).sorted { $0.key < $1.key }
            let blocks = differences.map { "\($0.key): \(found[Int($0.key)].map(String.init) ?? "-") for \($0.value)" }
            return ["no version from \(first) on fits: \(blocks.joined(separator: ", "))"]
        }
    }
}

/// P1 and P2 for the journal alone, in every state of every epoch: small logs that go round and round, revokes, blocks
/// that look like the log's own, changes while a commit is under way, commit blocks that overtake what they commit, a
/// clock that goes back, errors of the device, and power cuts of the life after a recovery, and of the life after that.
@Suite struct JournalLaboratoryTests {
    private static let lives: [UInt64] = Array(1...5)

    /// From the fourth on commit blocks overtake what they commit, which takes checksums.
    private static func shape(_ seed: UInt64) -> Bench.Shape {
        var shape = Bench.Shape()
        shape.homeBlocks = 32
        shape.logBlocks = [24, 32, 48][Int(seed % 3)]
        shape.incompatible = [[.checksumV3], [], [.checksumV2]][Int(seed % 3)]
        if seed > 3 { shape.incompatible.insert(.asyncCommit) }
        if seed == 4 { shape.compatible = [.checksum] }
        shape.isSplit = seed % 2 == 0
        shape.sequence = seed % 2 == 0 ? 1 : 0xFFFF_FFF0
        return shape
    }

    /// What was explored, and the first failure.
    private struct Result {
        var runs = 0
        var log2States = 0.0
        var failure: String?
        private let clock = ContinuousClock(), start = ContinuousClock().now

        mutating func explore(
            _ life: JournalLife, _ shape: Bench.Shape, _ disk: DiskModel, _ name: String, from event: Int = 0,
            limit: Int = 256
        ) throws {
            let model = try CrashModel(base: MemoryDevice(life.base), events: life.events, disk: disk)
            var explorer = EpochExplorer(model, judge: JournalJudge(shape: shape, life: life))
            explorer.pathLimit = limit
            explorer.failureLimit = 1
            for epoch in model.epochs where epoch.event >= event && failure == nil {
                let found = explorer.explore(epoch)
                runs += found.pathCount
                log2States = max(log2States, found.log2StateCount)
                failure = found.failures.first.map { "\(name), epoch \($0.epoch), \($0.picks): \($0.problems)" }
            }
        }

        /// Says what there was, at once for who waits for it. True: nothing was found.
        func isClean(_ part: String) -> Bool {
            let figures = "\(runs) runs, up to 2^\(Int(log2States)) states each epoch, \(clock.now - start)"
            let found = failure.map { "damage after \(figures): \($0)" } ?? "nothing in \(figures)"
            say("laboratory: \(part), \(found)")
            return failure == nil
        }

        /// Says how soon a control has failed, as it must. False: it has not.
        func isCaught(_ part: String) -> Bool {
            say("control: \(part), \(runs) runs, \(clock.now - start)")
            return failure != nil
        }

        private func say(_ text: String) { FileHandle.standardError.write(Data("\(text)\n".utf8)) }
    }

    /// Three lives, each on a disk that a power cut in the one before has left; the last meets an error.
    private static func lives(_ seed: UInt64, _ disk: DiskModel, _ result: inout Result) throws {
        let shape = shape(seed)
        var random = SeededRandom(seed: seed)
        let isAsync = shape.incompatible.contains(.asyncCommit)
        var plan = JournalLife.Plan(seed: seed, steps: isAsync ? 40 : 90, base: try Bench.format(shape))
        for generation in 1...3 {
            plan.fault = generation == 3 ? [.write, .flush][Int(seed % 2)] : nil
            let life = try JournalLife(shape, plan)
            try result.explore(life, shape, disk, "seed \(seed), life \(generation)")
            guard result.failure == nil, generation < 3 else { return }
            let model = try CrashModel(base: MemoryDevice(life.base), events: life.events)
            let states = TraceSample(model).inner(seed: seed, prefixes: 0, inFlight: 0, subsets: 8)
            let state = try #require(states.randomElement(using: &random))
            let judge = JournalJudge(shape: shape, life: life)
            let cut = MemoryDevice(try LazyDevice(state.choices, picks: state.picks).contents)
            plan.base = cut.bytes
            try judge.recover(cut)
            let version = life.version(from: life.acknowledged[state.epoch.event], of: try judge.fillings(cut))
            plan.start = life.versions[try #require(version)]
            plan.seed = seed + 100 * UInt64(generation)
            plan.isDirty = true
        }
    }

    @Test func noPowerCutBreaksTheJournal() throws {
        var result = Result()
        for seed in Self.lives where result.failure == nil { try Self.lives(seed, DiskModel(), &result) }
        let isClean = result.isClean("journal")
        #expect(isClean && result.runs > 1000)
    }

    /// A block that looks like the log's own, in the place where the next transaction would begin: three blocks hold a
    /// whole transaction that was never made, and the log has come round to them.
    @Test(arguments: [[], [.checksumV3]] as [JournalIncompatibleFeatures])
    func whatImitatesATransactionIsNone(features: JournalIncompatibleFeatures) throws {
        var shape = Bench.Shape()
        shape.homeBlocks = 32
        shape.logBlocks = 24
        shape.incompatible = features
        var record = try DirectedLife(shape)
        let format = JournalFormat(try record.bench.log.readSuperBlock()), next = TransactionID(8)
        func block(_ fill: (inout MutableRawSpan) -> Void) -> [UInt8] {
            let buffer = AlignedBuffer(byteCount: Bench.blockByteCount)
            buffer.withMutableBytes(fill)
            return buffer.withBytes { $0.array(0..<buffer.byteCount) }
        }
        let lie = block { $0.fill(0..<$0.byteCount, with: 99) }
        let tag = JournalTag(home: FSBlock(0), flags: [], checksum: format.tagChecksum(lie.span.bytes, in: next))
        let descriptor = block { format.encodeDescriptor([tag], of: next, into: &$0) }
        let time = CommitTime(seconds: 1_700_000_001, nanoseconds: 0)
        let commit = block { format.encodeCommit(of: next, at: time, payload: 0, into: &$0) }
        // Log blocks 1 ... 5, the lie from the second on.
        for (number, bytes) in zip(1..., [descriptor, lie, commit]) { try record.put(bytes, [UInt64(number)]) }
        try record.commit()
        try record.bench.journal.checkpointNow()
        // Three blocks each, and the last four: the ring ends at block 23, so what follows begins at the second.
        for byte in 1...6 as ClosedRange<UInt8> {
            try record.fill(byte == 6 ? [0, 4] : [0], byte)
            try record.commit()
        }
        #expect(record.bench.journal.runningTransaction == next)
        var result = Result()
        try result.explore(record.life, shape, DiskModel(), "imitation")
        let isClean = result.isClean("imitation of \(features.isEmpty ? "a log without checksums" : "checksums")")
        #expect(isClean && result.runs > 10)
    }

    /// A checkpoint makes room in a log that is nearly full, and a large transaction takes all of it at once.
    @Test func noBlockOfTheLogIsTakenTooEarly() throws {
        var shape = Bench.Shape()
        shape.homeBlocks = 32
        shape.logBlocks = 48
        var record = try DirectedLife(shape)
        // Of the ring's 47 blocks a small transaction takes 3 and a large one 12; each large one finds 39 or 42 taken.
        for byte in 1...55 as ClosedRange<UInt8> {
            try record.fill(byte > 5 && byte % 10 == 5 ? Array(0..<10) : [UInt64(byte % 3)], byte)
            try record.commit()
        }
        #expect(record.bench.journal.counters.checkpoints > 3)
        var result = Result()
        try result.explore(record.life, shape, DiskModel(), "full log")
        let isClean = result.isClean("a log that is nearly full")
        #expect(isClean && result.runs > 100)
    }

    /// More blocks than a checkpoint writes at once, and another transaction takes one of the last while the first are
    /// on their way: what that one does must not go home in part.
    @Test func onlyWhatIsCommittedGoesHome() throws {
        var shape = Bench.Shape()
        shape.homeBlocks = 1100
        shape.logBlocks = 6000
        shape.cacheBytes = 8 << 20
        var record = try DirectedLife(shape)
        let all = Array(0..<UInt64(shape.homeBlocks)), ends = [all[0], all[all.count - 1]]
        try record.fill(all, 1)
        try record.commit()
        let begin = record.eventCount
        record.spy.once = { [record] () throws(Ext4Error) in try record.put(JournalLife.content(2), ends) }
        try record.bench.journal.checkpointNow()
        try record.fill(ends, 2)
        try record.commit()
        var result = Result()
        try result.explore(record.life, shape, DiskModel(), "checkpoint", from: begin, limit: 8)
        let isClean = result.isClean("a checkpoint of many blocks")
        #expect(isClean && result.runs > 10)
    }

    /// The same laboratory finds damage on a disk that forgets flushes, or FUA.
    @Test(arguments: [true, false]) func aDiskThatBreaksItsPromiseIsCaught(flush: Bool) throws {
        var disk = DiskModel()
        disk.honoursFlush = !flush
        disk.honoursFUA = flush
        var result = Result()
        for seed in Self.lives where result.failure == nil { try Self.lives(seed, disk, &result) }
        let isCaught = result.isCaught("journal, \(flush ? "flushes" : "FUA") ignored")
        #expect(isCaught)
    }
}
