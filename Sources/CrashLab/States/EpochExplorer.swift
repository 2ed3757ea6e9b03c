internal import Ext4Format

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
    /// Runs of recovery.
    package internal(set) var pathCount = 0
    /// Different disks after recovery; only these were judged.
    package internal(set) var imageCount = 0
    /// The part of all states that the paths stand for: 1 when none was left out.
    package internal(set) var share = 0.0
    package internal(set) var isComplete = false
    package internal(set) var failures: [Failure] = []
}

/// Takes a judge through all states of an epoch by lazy choice.
package struct EpochExplorer<Judge: CrashJudge> {
    private let model: CrashModel
    private let judge: Judge
    /// At most so many runs of recovery; after that the exploration is not complete.
    package var pathLimit = 4096
    /// No more failures are looked for.
    package var failureLimit = 8

    package init(_ model: CrashModel, judge: Judge) {
        self.model = model
        self.judge = judge
    }

    /// Calls `visit` at the end of each run with its device, for whoever wants members of the path.
    package func explore(_ epoch: CrashModel.Epoch, visit: (LazyDevice) -> Void = { _ in }) -> EpochResult {
        let choices = EpochChoices(model, epoch)
        var result = EpochResult(
            epoch: epoch, unitCount: choices.openUnitCount, log2StateCount: choices.log2StateCount)
        var exploration = LazyExploration(choices)
        var images: Set<ImageHash> = []
        while exploration.pathCount < pathLimit, result.failures.count < failureLimit,
            exploration.next({ device in
                let problems = run(device, epoch, &images)
                if !problems.isEmpty {
                    result.failures.append(
                        EpochResult.Failure(epoch: epoch.index, picks: device.firstMember(), problems: problems))
                }
                visit(device)
            })
        {}
        result.pathCount = exploration.pathCount
        result.imageCount = images.count
        result.share = exploration.share
        result.isComplete = exploration.isComplete
        return result
    }

    private func run(_ device: LazyDevice, _ epoch: CrashModel.Epoch, _ images: inout Set<ImageHash>) -> [String] {
        do throws(Ext4Error) {
            try judge.recover(device)
        } catch { return ["recovery: \(error)"] }
        // Two recoveries that leave the same disk get the same verdict. One that goes on with decisions of the judge
        // has met its disk before.
        guard images.insert(device.imageHash()).inserted || device.hasPlans else { return [] }
        return judge.problems(of: device, in: epoch)
    }
}
