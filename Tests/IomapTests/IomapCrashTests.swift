import BlockIO
import CrashLab
import Testing

/// A power cut while the kernel moves the data: every state that the disk may be left in, of every epoch, recovered and
/// judged as those of this server's own writes are (P1, P2, P3, and out of place P7).
@Suite struct IomapCrashTests {
    private static func explore(
        _ outcome: IomapWorkload.Outcome, stopAfter limit: Int = 1
    ) throws -> (failures: [EpochResult.Failure], runCount: Int, isComplete: Bool) {
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        let judge = HistoryJudge(history: outcome.history, progress: WorkloadProgress(outcome.events))
        var explorer = EpochExplorer(model, judge: judge)
        explorer.failureLimit = limit
        // What is overwritten in place may be old or new sector by sector: too many states to see them all.
        explorer.pathLimit = 100
        explorer.sampleLimit = 20
        var result: (failures: [EpochResult.Failure], runCount: Int, isComplete: Bool) = ([], 0, true)
        for epoch in model.epochs where result.failures.isEmpty {
            let found = explorer.explore(epoch)
            result.failures += found.failures
            result.runCount += found.pathCount
            result.isComplete = result.isComplete && found.isComplete
        }
        return result
    }

    @Test(arguments: [ModelTree.Placement.inPlace, .outOfPlace], [TestImage.small, .large])
    func everyStateIsAsPromised(placement: ModelTree.Placement, image: TestImage) throws {
        let seed: UInt64 = 811
        let outcome = try IomapWorkload(image: image, placement: placement, seed: seed).record()
        let found = try Self.explore(outcome)
        for failure in found.failures { Issue.record("seed \(seed): \(failure)") }
        #expect(found.runCount > 60)
        if placement == .outOfPlace { #expect(found.isComplete, "a state was left out") }
    }

    /// A kernel that reports what it has not written must be found out, or the judge is blind.
    @Test func reportsBeforeTheDataAreFound() throws {
        var workload = IomapWorkload(image: .small, placement: .inPlace, seed: 811)
        workload.liesAboutWrites = true
        let outcome = try workload.record()
        #expect(try !Self.explore(outcome).failures.isEmpty)
    }
}
