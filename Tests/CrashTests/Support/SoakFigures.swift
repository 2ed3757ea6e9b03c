import BlockIO
import CrashLab
import Foundation
import Synchronization

/// What a soak has done so far. Any thread may add to it.
final class SoakFigures: Sendable {
    enum Kind { case random, short }

    private struct State {
        var random = 0, short = 0, explored = 0
        /// Runs of concurrent workloads.
        var interleavings = 0
        /// States that were drawn, recovered and judged with the help of programs.
        var sampled = 0
        var epochs = 0, openUnits = 0, widest = 0, complete = 0
        /// Of the epoch with the most states; as a power of two.
        var log2States = 0.0
        var paths = 0, images = 0
        /// Of one thread, for recovery and judgement in process alone.
        var seconds = 0.0
        var failures: [String] = []
    }
    private let state = Mutex(State())

    var failures: [String] { state.withLock { $0.failures } }

    func add(failure: String) { state.withLock { $0.failures.append(failure) } }

    func add(sampling campaign: CrashCampaign, _ kind: Kind) throws {
        let found = try campaign.failures()
        state.withLock { state in
            if kind == .short { state.short += 1 } else { state.random += 1 }
            state.sampled += found.stateCount
            state.failures += found.list
        }
    }

    /// One interleaving of threads; `withCuts`: and the disks that power cuts leave.
    func add(concurrent campaign: ConcurrentCampaign, withCuts: Bool) throws {
        let found = withCuts ? try campaign.failures() : (list: [], stateCount: 0)
        if !withCuts { _ = try campaign.record() }
        state.withLock { state in
            state.interleavings += 1
            state.sampled += found.stateCount
            state.failures += found.list
        }
    }

    func add(exploring campaign: CrashCampaign) throws {
        let outcome = try campaign.record()
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        let judge = HistoryJudge(history: outcome.history, progress: WorkloadProgress(outcome.events))
        let kept = KeptTrace(outcome)
        var explorer = EpochExplorer(model, judge: judge)
        explorer.pathLimit = 256
        state.withLock { $0.explored += 1 }
        for epoch in model.epochs {
            let begin = Date()
            let result = explorer.explore(epoch)
            let seconds = Date().timeIntervalSince(begin)
            state.withLock { state in
                state.epochs += 1
                state.openUnits += result.unitCount
                state.widest = max(state.widest, result.unitCount)
                state.complete += result.isComplete ? 1 : 0
                state.log2States = max(state.log2States, result.log2StateCount)
                state.paths += result.pathCount
                state.images += result.imageCount
                state.seconds += seconds
                state.failures += result.failures.map {
                    "seed \(campaign.seed), \(campaign.volume.name), \(kept.report($0, model.disk))"
                }
            }
        }
    }

    /// The goals of the crash laboratory, and what was reached.
    var table: String {
        let state = state.withLock { $0 }
        let rate = state.seconds > 0 ? Double(state.paths) / state.seconds : 0
        let mean = state.epochs > 0 ? Double(state.openUnits) / Double(state.epochs) : 0
        let rows = [
            ("workloads: random, short, explored", "-", "\(state.random), \(state.short), \(state.explored)"),
            ("interleavings of threads", "-", "\(state.interleavings)"),
            ("states drawn and judged by all, e2fsck and libext2fs too", "-", "\(state.sampled)"),
            ("epochs explored, of them completely", "all", "\(state.epochs), \(state.complete)"),
            ("epoch width in units of 512 bytes: mean, most", "-", String(format: "%.1f, %d", mean, state.widest)),
            ("states of one epoch, most", "-", "2^\(Int(state.log2States))"),
            ("paths of recovery run", "-", "\(state.paths)"),
            ("unique states after recovery", "-", "\(state.images)"),
            ("recovered and judged in process, each second and core", "2000", String(format: "%.0f", rate)),
            ("failures, disagreements between oracles among them", "0", "\(state.failures.count)"),
            ("mutants caught", "all", "make mutants"),
        ]
        let body = rows.map { "| \($0) | \($1) | \($2) |" }.joined(separator: "\n")
        return "| figure | goal | reached |\n|---|---|---|\n\(body)"
    }
}
