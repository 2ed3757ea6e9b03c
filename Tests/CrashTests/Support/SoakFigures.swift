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
        var drawn = 0
        var epochs = 0, openUnits = 0, widest = 0, complete = 0
        /// Of the epoch with the most states, and of all complete ones together; as powers of two.
        var log2Most = 0.0, log2All = 0.0
        var paths = 0, samples = 0, images = 0, knownImages = 0
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
            state.drawn += found.stateCount
            state.failures += found.list
        }
    }

    /// One interleaving of threads; `withCuts`: and the disks that power cuts leave.
    func add(concurrent campaign: ConcurrentCampaign, withCuts: Bool) throws {
        let found = withCuts ? try campaign.failures() : (list: [], stateCount: 0)
        if !withCuts { _ = try campaign.record() }
        state.withLock { state in
            state.interleavings += 1
            state.drawn += found.stateCount
            state.failures += found.list
        }
    }

    /// Of one epoch in `askEvery` a disk goes to the other judges of structure too; 0: of none.
    func add(exploring campaign: CrashCampaign, askEvery: Int) throws {
        let outcome = try campaign.record()
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        let judge = HistoryJudge(history: outcome.history, progress: WorkloadProgress(outcome.events))
        let kept = KeptTrace(outcome)
        var explorer = EpochExplorer(model, judge: judge)
        explorer.pathLimit = 256
        explorer.seed = campaign.seed
        var random = SeededRandom(seed: campaign.seed)
        state.withLock { $0.explored += 1 }
        for epoch in model.epochs {
            var member: Picks?
            let isAsked = askEvery > 0 && random.once(in: askEvery)
            let begin = ContinuousClock.now
            let result = explorer.explore(epoch) { device in
                if isAsked { member = device.member(&random) }
            }
            let seconds = (ContinuousClock.now - begin) / .seconds(1)
            let place = "seed \(campaign.seed), \(campaign.volume.name)"
            add(result, seconds: seconds, failures: result.failures.map { "\(place), \(kept.report($0, model.disk))" })
            if let member, result.failures.isEmpty { try ask(EpochChoices(model, epoch), member, judge, campaign) }
        }
    }

    private func add(_ result: EpochResult, seconds: Double, failures: [String]) {
        state.withLock { state in
            state.epochs += 1
            state.openUnits += result.unitCount
            state.widest = max(state.widest, result.unitCount)
            state.log2Most = max(state.log2Most, result.log2StateCount)
            if result.isComplete {
                state.complete += 1
                // Neither sum nor summands fit a number.
                let both = [state.log2All, result.log2StateCount].sorted()
                state.log2All = both[1] + log2(1 + exp2(both[0] - both[1]))
            }
            state.paths += result.pathCount
            state.samples += result.sampleCount
            state.images += result.imageCount
            state.knownImages += result.knownImageCount
            state.seconds += seconds
            state.failures += failures
        }
    }

    /// What the exploration has nothing to say about, the others may.
    private func ask(
        _ choices: EpochChoices, _ picks: Picks, _ judge: HistoryJudge, _ campaign: CrashCampaign
    ) throws {
        let disk = LazyDevice(choices, picks: picks)
        try judge.recover(disk)
        let complaints = try Structure.complaints(of: disk)
        state.withLock { state in
            state.drawn += 1
            guard !complaints.isEmpty else { return }
            let place = "seed \(campaign.seed), \(campaign.volume.name), epoch \(choices.epoch.index)"
            state.failures.append(([place] + complaints).joined(separator: "\n"))
        }
    }

    /// One line for those who wait: `share` of the time has passed, and so many seconds are left.
    func progress(share: Double, secondsLeft: Int) -> String {
        let state = state.withLock { $0 }
        let paths = state.paths + state.samples
        let estimate = Int(Double(paths) / max(share, 0.001))
        let workloads = state.random + state.short + state.explored + state.interleavings
        return "\(Int(share * 100)) %, \(secondsLeft) s left: \(workloads) workloads, "
            + "\(state.drawn) states drawn, \(paths) of about \(estimate) recovered in process, "
            + "\(state.failures.count) failures"
    }

    /// The figures that a run of the laboratory is to publish, beside their goals.
    var table: String {
        let state = state.withLock { $0 }
        let states = state.paths + state.samples
        let rate = state.seconds > 0 ? Double(states) / state.seconds : 0
        let mean = state.epochs > 0 ? Double(state.openUnits) / Double(state.epochs) : 0
        let disagreements = state.failures.count { $0.contains(Structure.disagreement) }
        let rows = [
            ("workloads: random, short, explored", "-", "\(state.random), \(state.short), \(state.explored)"),
            ("interleavings of threads", "-", "\(state.interleavings)"),
            ("states drawn and judged by all, e2fsck and libext2fs too", "-", "\(state.drawn)"),
            (
                "epochs explored: with all their states, by a sample", "all, 0",
                "\(state.complete), \(state.epochs - state.complete)"
            ),
            ("epoch width in units of 512 bytes: mean, most", "-", String(format: "%.1f, %d", mean, state.widest)),
            ("raw states that complete epochs stand for", "-", "2^\(Int(state.log2All))"),
            ("raw states of one epoch, most", "-", "2^\(Int(state.log2Most))"),
            ("states recovered in process: one for each path, drawn", "-", "\(state.paths), \(state.samples)"),
            (
                "different disks after recovery: of all epochs, judged anew", "-",
                "\(state.images), \(state.images - state.knownImages)"
            ),
            ("seconds of one core for these", "-", String(format: "%.1f", state.seconds)),
            ("states recovered and judged in process, each second and core", "2000", String(format: "%.0f", rate)),
            ("disagreements between oracles", "0", "\(disagreements)"),
            ("failures", "0", "\(state.failures.count)"),
            ("cells of the fault matrix", "all", "FaultMatrixTests"),
            ("mutants caught", "all", "make mutants"),
        ]
        let body = rows.map { "| \($0.0) | \($0.1) | \($0.2) |" }.joined(separator: "\n")
        return "| figure | goal | reached |\n|---|---|---|\n\(body)"
    }
}
