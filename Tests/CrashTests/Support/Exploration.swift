import BlockIO
import CrashLab
import Foundation
import Testing

/// What a part of the laboratory has explored by lazy choice, and the first failure.
struct Exploration {
    let part: String
    private let clock = ContinuousClock()
    private let start = ContinuousClock().now
    private var runs = 0, epochs = 0, complete = 0
    private var log2States = 0.0
    private var failure: (kept: KeptTrace, found: EpochResult.Failure, disk: DiskModel)?

    init(_ part: String) { self.part = part }

    mutating func explore(
        _ outcome: CrashCampaign.Outcome, _ judge: some CrashJudge, _ disk: DiskModel = DiskModel(),
        from event: Int = 0, limit: Int = 64
    ) throws {
        try explore(outcome.events, base: outcome.base, judge, disk, from: event, limit: limit) { KeptTrace(outcome) }
    }

    mutating func explore(
        _ outcome: CrashCampaign.Outcome, _ disk: DiskModel = DiskModel(), from event: Int = 0, limit: Int = 64
    ) throws {
        let judge = HistoryJudge(history: outcome.history, progress: WorkloadProgress(outcome.events))
        try explore(outcome, judge, disk, from: event, limit: limit)
    }

    mutating func explore(
        _ outcome: ConcurrentCampaign.Outcome, _ disk: DiskModel = DiskModel(), limit: Int = 64
    ) throws {
        let judge = HistoryJudge(outcome.history, progress: WorkloadProgress(outcome.events))
        try explore(outcome.events, base: outcome.base, judge, disk, from: 0, limit: limit) {
            KeptTrace(outcome.events, base: outcome.base, history: nil)
        }
    }

    private mutating func explore(
        _ events: [Trace.Event], base: [UInt8], _ judge: some CrashJudge, _ disk: DiskModel, from event: Int,
        limit: Int, keep: () -> KeptTrace
    ) throws {
        let model = try CrashModel(base: MemoryDevice(base), events: events, disk: disk)
        var explorer = EpochExplorer(model, judge: judge)
        explorer.pathLimit = limit
        explorer.failureLimit = 1
        for epoch in model.epochs where epoch.event >= event && failure == nil {
            let found = explorer.explore(epoch)
            runs += found.pathCount
            epochs += 1
            complete += found.isComplete ? 1 : 0
            log2States = max(log2States, found.log2StateCount)
            failure = found.failures.first.map { (keep(), $0, disk) }
        }
    }

    var isDamaged: Bool { failure != nil }
    private var figures: String {
        "\(runs) runs, up to 2^\(Int(log2States)) states each epoch, \(clock.now - start)"
    }

    /// At once, for who waits for it.
    private static func say(_ text: String) { FileHandle.standardError.write(Data("\(text)\n".utf8)) }

    /// Says what there was. True: nothing was found.
    func isClean() -> Bool {
        guard let failure else {
            Self.say("laboratory: \(part), nothing in \(figures)")
            return runs > 0 && complete > epochs * 8 / 10
        }
        Self.say("laboratory: \(part), damage after \(figures): \(failure.found.problems.first ?? "")")
        Issue.record("\(failure.kept.report(failure.found, failure.disk))")
        return false
    }

    /// Says how soon a control has failed, as it must. False: it has not.
    func isCaught() -> Bool {
        Self.say("control: \(part), \(isDamaged ? "damage after" : "nothing in") \(figures)")
        return isDamaged
    }
}
