internal import CrashLab
internal import Ext4Format
internal import Glibc
internal import Synchronization
internal import Threads

/// Takes all cores through the epochs of a trace.
final class CrashExploration: Sendable {
    enum Checker: Sendable {
        /// jext4's own recovery and checker, by lazy choice.
        case recovery
        /// Somebody's command: what is wrong with the state, or nothing.
        case command(@Sendable (EpochChoices, Picks) throws(Ext4Error) -> [String])
    }
    private struct State {
        var results: CrashResults
        var nextEpoch = 0
        /// Of the last epoch, what nobody has taken yet, in the reverse order.
        var waiting: [Picks] = []
        var choices: EpochChoices?
        var images: Set<ImageHash> = []
        var stateCount = 0
        var error: Ext4Error?
    }
    private let model: CrashModel
    private let epochs: [CrashModel.Epoch]
    private let rows: [CrashResults.Epoch]
    private let limit: Int
    private let seed: Int
    private let part: (index: Int, count: Int)
    private let progress: Progress?
    private let state: Mutex<State>

    init(
        _ model: CrashModel, events: [Trace.Event], _ empty: CrashResults, epochs: [CrashModel.Epoch], limit: Int,
        seed: Int, part: (index: Int, count: Int), progress: Progress?
    ) {
        self.model = model
        self.epochs = epochs
        self.limit = limit
        self.seed = seed
        self.part = part
        self.progress = progress
        var start = 0
        rows = epochs.map { epoch in
            let marks = events[start...epoch.event].compactMap { if case .mark(let label) = $0 { label } else { nil } }
            start = epoch.event + 1
            let choices = EpochChoices(model, epoch)
            return CrashResults.Epoch(
                index: epoch.index, event: epoch.event, units: choices.openUnitCount,
                log2States: choices.log2StateCount, marks: marks, map: choices.map(width: CrashResults.mapWidth))
        }
        state = Mutex(State(results: empty))
    }

    /// The first error of a checker that could not even be run ends all.
    func run(jobs: Int, _ checker: Checker) throws(Ext4Error) -> CrashResults {
        let explorer = explorer
        let clock = ContinuousClock(), start = clock.now
        let threads = (0..<jobs).map { _ in
            Thread(name: "jext4-explore") { [self] in
                switch checker {
                case .recovery: while let task = nextEpoch() { recover(task, explorer) }
                case .command(let run): while let task = nextState() { check(task, run) }
                }
            }
        }
        for thread in threads { thread.join() }
        progress?.end()
        let (results, error) = state.withLock { ($0.results, $0.error) }
        if let error { throw error }
        var sorted = results
        sorted.failures.sort { ($0.epoch, $0.name) < ($1.epoch, $1.name) }
        sorted.seconds = Double((clock.now - start) / .milliseconds(1)) / 1000
        return sorted
    }

    private func name(_ epoch: Int, _ picks: Picks, _ state: State) -> String {
        CrashStateName(digest: state.results.campaign.digest, disk: model.disk, epoch: epoch, picks: picks).description
    }

    // MARK: - Our own recovery

    private func nextEpoch() -> Int? {
        let next = state.withLock { state -> Int? in
            while state.nextEpoch < epochs.count, state.nextEpoch % part.count != part.index { state.nextEpoch += 1 }
            guard state.nextEpoch < epochs.count else { return nil }
            state.nextEpoch += 1
            return state.nextEpoch - 1
        }
        if let next { progress?.show("exploring, epoch", done: next, total: epochs.count, withEstimate: true) }
        return next
    }

    private var explorer: EpochExplorer<StructureJudge> {
        var explorer = EpochExplorer(model, judge: StructureJudge())
        explorer.pathLimit = limit
        explorer.sampleLimit = limit
        explorer.seed = UInt64(seed)
        return explorer
    }

    private func recover(_ index: Int, _ explorer: EpochExplorer<StructureJudge>) {
        let found = explorer.explore(epochs[index])
        var row = rows[index]
        row.runs = found.pathCount
        row.sampled = found.sampleCount
        row.images = found.imageCount
        row.share = found.share
        row.failures = found.failures.count
        state.withLock { state in
            state.results.epochs[row.index] = row
            for failure in found.failures {
                state.results.failures.append(
                    .init(
                        name: name(failure.epoch, failure.picks, state), epoch: failure.epoch,
                        problems: failure.problems))
            }
        }
    }

    // MARK: - Somebody's command

    private func nextState() -> (row: Int, choices: EpochChoices, picks: Picks)? {
        let next = state.withLock { state -> (row: Int, choices: EpochChoices, picks: Picks)? in
            while state.error == nil {
                guard let choices = state.choices, let picks = state.waiting.popLast() else {
                    guard state.nextEpoch < epochs.count else { return nil }
                    beginEpoch(&state)
                    continue
                }
                let hash: ImageHash
                do throws(Ext4Error) {
                    hash = try choices.imageHash(picks)
                } catch {
                    state.error = error
                    return nil
                }
                let isMine = state.stateCount % part.count == part.index
                let row = state.nextEpoch - 1, index = rows[row].index
                if isMine { state.results.epochs[index, default: rows[row]].share += exp2(-rows[row].log2States) }
                guard state.images.insert(hash).inserted else { continue }
                state.stateCount += 1
                if isMine { return (row, choices, picks) }
            }
            return nil
        }
        if let next { progress?.show("checking, epoch", done: next.row, total: epochs.count, withEstimate: true) }
        return next
    }

    private func beginEpoch(_ state: inout State) {
        let choices = EpochChoices(model, epochs[state.nextEpoch])
        state.choices = choices
        state.waiting = SampledStates(choices).states(limit: limit, seed: UInt64(seed)).reversed()
        state.nextEpoch += 1
        let row = rows[state.nextEpoch - 1]
        if state.results.epochs[row.index] == nil { state.results.epochs[row.index] = row }
    }

    private func check(
        _ task: (row: Int, choices: EpochChoices, picks: Picks),
        _ run: (EpochChoices, Picks) throws(Ext4Error) -> [String]
    ) {
        let index = rows[task.row].index
        do throws(Ext4Error) {
            let problems = try run(task.choices, task.picks)
            state.withLock { state in
                state.results.epochs[index]?.runs += 1
                state.results.epochs[index]?.images += 1
                guard !problems.isEmpty else { return }
                state.results.epochs[index]?.failures += 1
                state.results.failures.append(
                    .init(name: name(index, task.picks, state), epoch: index, problems: problems))
            }
        } catch {
            state.withLock { $0.error = error }
        }
    }
}
