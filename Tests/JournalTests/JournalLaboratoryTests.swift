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

    func examine(_ disk: any BlockDevice) -> Result<[UInt8?], Ext4Error> {
        do throws(Ext4Error) { return .success(try fillings(disk)) } catch { return .failure(error) }
    }

    func problems(of finding: Result<[UInt8?], Ext4Error>, in epoch: CrashModel.Epoch) -> [String] {
        let first = life.acknowledged[epoch.event]
        switch finding {
        case .failure(let error): return ["\(error)"]
        case .success(let found):
            guard life.version(from: first, of: found) == nil else { return [] }
            let differences = life.differences(from: first, of: found).sorted { $0.key < $1.key }
            let blocks = differences.map { "\($0.key): \(found[Int($0.key)].map(String.init) ?? "-") for \($0.value)" }
            return ["no version from \(first) on fits: \(blocks.joined(separator: ", "))"]
        }
    }
}

/// P1 and P2 for the journal alone, in every state of every epoch: small logs that go round and round, revokes, blocks
/// that look like the log's own, changes while a commit is under way, errors of the device, and power cuts of the life
/// after a recovery, and of the life after that.
@Suite struct JournalLaboratoryTests {
    private static let lives: [UInt64] = Array(1...3)

    private static func shape(_ seed: UInt64) -> Bench.Shape {
        var shape = Bench.Shape()
        shape.homeBlocks = 32
        shape.logBlocks = [24, 32, 48][Int(seed % 3)]
        shape.incompatible = [[.checksumV3], [], [.checksumV2]][Int(seed % 3)]
        shape.isSplit = seed % 2 == 0
        shape.sequence = seed % 2 == 0 ? 1 : 0xFFFF_FFF0
        return shape
    }

    /// What was explored, and the first failure.
    private struct Result {
        var runs = 0
        var log2States = 0.0
        var failure: String?

        mutating func explore(_ life: JournalLife, _ shape: Bench.Shape, _ disk: DiskModel, _ name: String) throws {
            let model = try CrashModel(base: MemoryDevice(life.base), events: life.events, disk: disk)
            var explorer = EpochExplorer(model, judge: JournalJudge(shape: shape, life: life))
            explorer.pathLimit = 256
            explorer.failureLimit = 1
            for epoch in model.epochs where failure == nil {
                let found = explorer.explore(epoch)
                runs += found.pathCount
                log2States = max(log2States, found.log2StateCount)
                failure = found.failures.first.map { "\(name), epoch \($0.epoch), \($0.picks): \($0.problems)" }
            }
        }
    }

    /// Three lives, each on a disk that a power cut in the one before has left; the last meets an error.
    private static func lives(_ seed: UInt64, _ disk: DiskModel, _ result: inout Result) throws {
        let shape = shape(seed)
        var random = SeededRandom(seed: seed)
        var plan = JournalLife.Plan(seed: seed, steps: 90, base: try Bench.format(shape))
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

    /// At once, for who waits for it.
    private static func say(_ text: String) { FileHandle.standardError.write(Data("\(text)\n".utf8)) }

    @Test func noPowerCutBreaksTheJournal() throws {
        let clock = ContinuousClock(), start = clock.now
        var result = Result()
        for seed in Self.lives where result.failure == nil { try Self.lives(seed, DiskModel(), &result) }
        let figures = "\(result.runs) runs, up to 2^\(Int(result.log2States)) states each epoch, \(clock.now - start)"
        print(
            "laboratory: journal, \(result.failure.map { "damage after \(figures): \($0)" } ?? "nothing in \(figures)")"
        )
        #expect(result.failure == nil)
        #expect(result.runs > 1000)
    }

    /// The same laboratory finds damage on a disk that forgets flushes, or FUA.
    @Test(arguments: [true, false]) func aDiskThatBreaksItsPromiseIsCaught(flush: Bool) throws {
        let clock = ContinuousClock(), start = clock.now
        var disk = DiskModel()
        disk.honoursFlush = !flush
        disk.honoursFUA = flush
        var result = Result()
        for seed in Self.lives where result.failure == nil { try Self.lives(seed, disk, &result) }
        Self.say("control: journal, \(flush ? "flushes" : "FUA") ignored, \(result.runs) runs, \(clock.now - start)")
        #expect(result.failure != nil)
    }
}
