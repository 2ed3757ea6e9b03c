internal import BlockIO
internal import Ext4Format
internal import Synchronization

/// What came of the states of one epoch.
package struct EpochResult: Sendable {
    package struct Failure: Sendable {
        /// Reproduces the state, with the trace.
        package let epoch: Int
        package let picks: Picks
        package let problems: [String]
    }
    package let epoch: CrashModel.Epoch
    /// Units that were open.
    package let unitCount: Int
    /// Of all states, as a power of two.
    package let log2StateCount: Double
    /// Runs of recovery by lazy choice.
    package internal(set) var pathCount = 0
    /// Different disks after recovery; only these were judged.
    package internal(set) var imageCount = 0
    /// Of these, the disks that an earlier epoch had left too: what was found there was known.
    package internal(set) var knownImageCount = 0
    /// The part of all states that the paths stand for: 1 when none was left out.
    package internal(set) var share = 0.0
    package internal(set) var isComplete = false
    /// When it is not complete: states that were drawn and judged besides.
    package internal(set) var sampleCount = 0
    package internal(set) var failures: [Failure] = []
}

/// Takes a judge through all states of an epoch by lazy choice. Where that would take too long, through those that the
/// paths so far stand for, and a sample.
///
/// What was found on a disk is remembered, so one explorer, or copies of it, should see all epochs of a trace. Several
/// threads may use it.
package struct EpochExplorer<Judge: CrashJudge>: Sendable {
    private let model: CrashModel
    private let judge: Judge
    private let memory = FindingMemory<Judge.Finding>()
    /// At most so many runs of recovery; after that the exploration is not complete.
    package var pathLimit = 4096
    /// Of an epoch that is not complete, at most so many states are drawn.
    package var sampleLimit = 100
    /// Decides what is drawn.
    package var seed: UInt64 = 1
    /// No more failures are looked for.
    package var failureLimit = 8

    package init(_ model: CrashModel, judge: Judge) {
        var model = model
        model.requiredDisks = RequiredDisks(unread: judge.unread(of: model.base))
        self.model = model
        self.judge = judge
    }

    /// Calls `visit` at the end of each run by lazy choice with its device, for whoever wants members of the path.
    package func explore(_ epoch: CrashModel.Epoch, visit: (LazyDevice) -> Void = { _ in }) -> EpochResult {
        let choices = EpochChoices(model, epoch)
        var result = EpochResult(
            epoch: epoch, unitCount: choices.openUnitCount, log2StateCount: choices.log2StateCount)
        var exploration = LazyExploration(choices)
        var images: Set<ImageHash> = []
        while exploration.pathCount < pathLimit, result.failures.count < failureLimit,
            exploration.next({ device in
                run(device, &images, &result)
                visit(device)
            })
        {}
        result.pathCount = exploration.pathCount
        result.share = exploration.share
        result.isComplete = exploration.isComplete
        if !result.isComplete { sample(choices, &images, &result) }
        result.imageCount = images.count
        return result
    }

    private func sample(_ choices: EpochChoices, _ images: inout Set<ImageHash>, _ result: inout EpochResult) {
        let device = LazyDevice(choices)
        for picks in SampledStates(choices).states(limit: sampleLimit, seed: seed) {
            guard result.failures.count < failureLimit else { return }
            result.sampleCount += 1
            device.restart([], picks: picks)
            run(device, &images, &result)
        }
    }

    private func run(_ device: LazyDevice, _ images: inout Set<ImageHash>, _ result: inout EpochResult) {
        let problems: [String]
        do throws(Ext4Error) {
            try judge.recover(device)
            problems = try verdict(on: device, &images, &result)
        } catch { problems = ["recovery: \(error)"] }
        guard !problems.isEmpty else { return }
        result.failures.append(
            EpochResult.Failure(epoch: result.epoch.index, picks: device.firstMember(), problems: problems))
    }

    /// Two recoveries that leave the same disk get the same verdict. One that goes on with decisions of the judge has
    /// met its disk before.
    private func verdict(
        on device: LazyDevice, _ images: inout Set<ImageHash>, _ result: inout EpochResult
    ) throws(Ext4Error) -> [String] {
        let hash = try device.imageHash(), hasPlans = device.hasPlans
        guard images.insert(hash).inserted || hasPlans else { return [] }
        if !hasPlans, let finding = memory.finding(of: hash) {
            result.knownImageCount += 1
            return judge.problems(of: finding, in: result.epoch)
        }
        let decisionCount = device.decisions.count
        device.forgetReads()
        let finding = judge.examine(device)
        // What the judge decided on the way is one of several things that it may find.
        if device.decisions.count == decisionCount, !device.hasReadUnread { memory.keep(finding, of: hash) }
        return judge.problems(of: finding, in: result.epoch)
    }
}

/// What was found on the last few disks, by their hash. Consecutive epochs leave much the same disks.
private final class FindingMemory<Finding: Sendable>: Sendable {
    private static var limit: Int { 32 }
    private let state = Mutex<(findings: [ImageHash: Finding], order: [ImageHash])>(([:], []))

    func finding(of hash: ImageHash) -> Finding? { state.withLock { $0.findings[hash] } }

    func keep(_ finding: Finding, of hash: ImageHash) {
        state.withLock { state in
            if state.findings.updateValue(finding, forKey: hash) == nil { state.order.append(hash) }
            if state.order.count > Self.limit { state.findings[state.order.removeFirst()] = nil }
        }
    }
}
