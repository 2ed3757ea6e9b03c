import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// One workload on one volume, and what power cuts make of it.
struct CrashCampaign: Sendable {
    enum Workload: Sendable {
        case random(WorkloadProfile)
        case operations([Operation])
    }
    /// Chooses the operations of a random workload, and which states are looked at.
    let seed: UInt64
    let volume: TestVolume
    var workload: Workload
    /// How many states of each kind, besides the flush boundaries.
    var prefixes: Int, inFlight: Int, subsets: Int
    /// At most so many flush boundaries.
    var boundaries = 24
    /// Every so many-th state is asked everything.
    var deepEvery = 10

    /// Whether the test commits and checkpoints, or the threads of the journal.
    var isManual = true
    var placement = ModelTree.Placement.inPlace
    /// What a failure calls the workload, beside the seed.
    var name = ""
    /// What the next transaction of the journal is called; nil: as mke2fs has it.
    var sequence: UInt32?

    init(
        seed: UInt64, volume: TestVolume, profile: WorkloadProfile, prefixes: Int = 12, inFlight: Int = 8,
        subsets: Int = 20
    ) {
        (self.seed, self.volume, workload) = (seed, volume, .random(profile))
        (self.prefixes, self.inFlight, self.subsets) = (prefixes, inFlight, subsets)
    }

    init(
        seed: UInt64, volume: TestVolume, operations: [Operation], sequence: UInt32? = nil, prefixes: Int = 6,
        inFlight: Int = 6, subsets: Int = 12
    ) {
        (self.seed, self.volume, workload, self.sequence) = (seed, volume, .operations(operations), sequence)
        (self.prefixes, self.inFlight, self.subsets) = (prefixes, inFlight, subsets)
    }

    struct Outcome {
        var history: ModelHistory
        var events: [Trace.Event]
        var base: [UInt8]
    }

    /// Runs the workload to its end and compares the live tree before the unmount.
    func record() throws -> Outcome {
        let base = try volume.make(sequence: sequence)
        let trace = Trace()
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(base)), recorder: trace)
        let model = ModelTree(blockByteCount: volume.blockByteCount, placement: placement)
        let run = try WorkloadRun(on: device, tree: model, options: .deterministic(manual: isManual))
        switch workload {
        case .operations(let operations): for operation in operations { try run.perform(operation) }
        case .random(let profile):
            var generator = WorkloadGenerator(seed: seed, profile: volume.fitting(profile))
            for _ in 0..<profile.operationCount { try run.perform(generator.next(run.history.tree)) }
        }
        try run.compare()
        try run.perform(.unmount)
        return Outcome(history: run.history, events: trace.events, base: base)
    }

    private func states(_ model: CrashModel) -> [CrashState] {
        TraceSample(model).states(
            seed: seed, boundaries: boundaries, prefixes: prefixes, inFlight: inFlight, subsets: subsets)
    }

    /// Checks the sampled states and records an issue for each of the first few that are wrong.
    func run() throws {
        for failure in try failures().list { Issue.record("\(failure)") }
    }

    /// What is wrong in the first few states that are; and how many states were looked at.
    func failures() throws -> (list: [String], stateCount: Int) {
        let outcome = try record()
        let found = try check(outcome, stopAfter: 3)
        guard !found.failures.isEmpty else { return ([], found.stateCount) }
        let list = found.failures.map { "seed \(seed), \(volume.name), \(name) \($0)" }
        return (list + [shortest(outcome.history)], found.stateCount)
    }

    /// The shortest workload that still fails, as far as a minute goes.
    private func shortest(_ history: ModelHistory) -> String {
        let end = ContinuousClock.now + .seconds(60)
        // Recording ends with an unmount of its own.
        let operations = history.steps.dropFirst().map(\.operation).filter { operation in
            if case .unmount = operation { false } else { true }
        }
        let short = WorkloadMinimiser.minimise(operations, from: history.steps[0].tree) { operations in
            var campaign = self
            campaign.workload = .operations(operations)
            guard ContinuousClock.now < end, let outcome = try? campaign.record() else { return false }
            return (try? campaign.check(outcome, stopAfter: 1).failures.isEmpty) == false
        }
        return (["the shortest workload that fails:"] + short.map { "  \($0)" }).joined(separator: "\n")
    }

    /// What is wrong, state by state; empty if nothing is. And how many states there were.
    func check(
        _ outcome: Outcome, _ disk: DiskModel = DiskModel(), stopAfter limit: Int
    ) throws -> (failures: [String], stateCount: Int) {
        let base = MemoryDevice(outcome.base)
        let model = try CrashModel(base: base, events: outcome.events, disk: disk)
        let checker = try StateChecker(
            history: outcome.history, progress: WorkloadProgress(outcome.events), base: outcome.base)
        let steps = outcome.history.steps
        return checker.failures(
            of: model, at: states(model), deepEvery: disk.honoursFlush ? deepEvery : nil, stopAfter: limit,
            KeptTrace(outcome)
        ) { begun in
            (max(0, begun - 6)...begun).filter { $0 < steps.count }.map { "  step \($0): \(steps[$0].operation)" }
        }
    }
}
