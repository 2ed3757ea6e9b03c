import BlockIO
import CrashLab
import Testing

/// Threads at work on one volume, one after the other as a seed has it, and what power cuts make of it.
struct ConcurrentCampaign: Sendable {
    let volume: TestVolume
    var workload: ConcurrentWorkload
    /// How many states of each kind, the flush boundaries first.
    var boundaries = 16, prefixes = 8, inFlight = 8, subsets = 12
    /// Every so many-th state is asked everything.
    var deepEvery = 10
    /// What the next transaction of the journal is called; nil: as mke2fs has it.
    var sequence: UInt32?
    /// See `ScheduledDevice`.
    var transferTurns = 1
    /// What the device fails.
    var faults: [FaultyDevice.Fault] = []

    init(volume: TestVolume, _ workload: ConcurrentWorkload) {
        self.volume = volume
        self.workload = workload
        self.workload.profile = volume.fitting(workload.profile)
        self.workload.options = .deterministic(manual: false)
    }

    struct Outcome {
        var history: ConcurrentHistory
        var events: [Trace.Event]
        var base: [UInt8]
    }

    func record() throws -> Outcome {
        let base = try volume.make(sequence: sequence)
        let trace = Trace()
        var workload = workload
        workload.meetsErrors = !faults.isEmpty
        let history = try workload.run(tree: ModelTree(blockByteCount: volume.blockByteCount)) { scheduler in
            let disk = FaultyDevice(OverlayDevice(over: MemoryDevice(base)), faults: faults)
            return RecordingDevice(
                ScheduledDevice(disk, scheduler: scheduler, turns: transferTurns), recorder: trace)
        }
        return Outcome(history: history, events: trace.events, base: base)
    }

    /// What is wrong in the first few states that are; and how many states were looked at.
    func failures() throws -> (list: [String], stateCount: Int) {
        let outcome = try record()
        let found = try check(outcome, stopAfter: 3)
        return (found.failures.map { "seed \(workload.seed), concurrent, \(volume.name), \($0)" }, found.stateCount)
    }

    func check(
        _ outcome: Outcome, _ disk: DiskModel = DiskModel(), stopAfter limit: Int
    ) throws -> (failures: [String], stateCount: Int) {
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events, disk: disk)
        let checker = try StateChecker(
            [LinearizationOracle(outcome.history)], progress: WorkloadProgress(outcome.events), base: outcome.base)
        let states = TraceSample(model).states(
            seed: workload.seed, boundaries: boundaries, prefixes: prefixes, inFlight: inFlight, subsets: subsets)
        let kept = KeptTrace(outcome.events, base: outcome.base, history: nil)
        let calls = outcome.history.calls
        return checker.failures(
            of: model, at: states, deepEvery: disk.honoursFlush ? deepEvery : nil, stopAfter: limit, kept
        ) { begun in
            (max(0, begun - 12)..<begun).map { index in
                let answer = calls[index].failure.map { "errno \($0)" } ?? "success"
                return "  call \(index + 1), thread \(calls[index].thread): \(calls[index].operation), \(answer)"
            }
        }
    }
}
