import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Foundation
import Testing

/// P5: the first error of the journal ends all writing, everybody hears of it, and what was acknowledged is there.
@Suite struct DeviceErrorTests {
    struct Sweep: Sendable, CustomTestStringConvertible {
        let operation: FaultyDevice.Operation
        let isPersistent: Bool
        var testDescription: String { "\(operation)\(isPersistent ? " and later" : "")" }
    }
    static let sweeps = [FaultyDevice.Operation.read, .write, .flush].flatMap { operation in
        [true, false].map { Sweep(operation: operation, isPersistent: $0) }
    }

    /// One workload that meets one fault.
    struct Case {
        let volume: TestVolume
        let base: [UInt8]
        let sweep: Sweep
        let ordinal: Int
        let seed: UInt64
        var operationCount = 200

        /// What is wrong; empty if nothing is. `isPast`: the workload has fewer requests of this kind.
        func problems() throws -> (list: [String], isPast: Bool) {
            let trace = Trace()
            let faulty = FaultyDevice(OverlayDevice(over: MemoryDevice(base)))
            let device = RecordingDevice(faulty, recorder: trace)
            let model = ModelTree(blockByteCount: volume.blockByteCount)
            let run = try WorkloadRun(on: device, tree: model, options: .deterministic())
            faulty.arm(
                .init(sweep.operation, ordinal: ordinal, isPersistent: sweep.isPersistent, tornByteCount: 512))
            var generator = WorkloadGenerator(seed: seed, profile: .mixed(operationCount))
            var failure: WorkloadFailure?
            while failure == nil, run.history.steps.count < operationCount {
                let operation = generator.next(run.history.tree)
                if case .remount = operation { continue }
                do throws(WorkloadFailure) { try run.perform(operation) } catch { failure = error }
            }
            guard faulty.failureCount > 0 else { return ([], true) }
            // The operation that failed may be there or not; the model has to know it.
            var history = run.history
            var problems: [String] = []
            switch failure {
            case .failed(_, let operation, let error)?:
                history.append(operation)
                if !Self.isHonest(error) { problems.append("\(operation) answers \(error)") }
            case .wrong(_, let text)?: problems.append(text)
            case nil: break
            }
            if run.system.abortCause != nil { problems += recordProblems(run.system, faulty) }
            faulty.disarm()
            let mayLose = failure != nil || run.system.abortCause != nil
            do throws(Ext4Error) {
                try run.system.unmount()
                if run.system.abortCause != nil { problems.append("an aborted volume unmounts without a word") }
            } catch {
                if !mayLose { problems.append("unmount: \(error)") }
            }
            return (try problems + stateProblems(history, trace.events), false)
        }

        /// EIO, or EROFS from somebody who came later.
        private static func isHonest(_ error: Ext4Error) -> Bool {
            switch error {
            case .io, .lost, .aborted, .posix(30): true
            default: false
            }
        }

        /// An abort is told to the next mount, in the journal and in the super block, as far as the device takes it.
        private func recordProblems(_ system: FileSystem, _ device: FaultyDevice) -> [String] {
            var problems = system.isReadOnly ? [] : ["aborted, and not read-only"]
            if sweep.isPersistent { return problems }
            do {
                let volume = try OfflineVolume(on: device)
                if volume.journal?.superBlock.errorNumber != -5 { problems.append("s_errno is not -EIO") }
                let errors = volume.superBlock.errors
                if errors != system.errors || errors.count == 0 { problems.append("no record of the error: \(errors)") }
                if !volume.superBlock.state.contains(.hasErrors) { problems.append("s_state bears no error") }
            } catch {
                problems.append("the image cannot be looked at: \(error)")
            }
            return problems
        }

        private func stateProblems(_ history: ModelHistory, _ events: [Trace.Event]) throws -> [String] {
            let model = try CrashModel(base: MemoryDevice(base), events: events)
            let checker = try StateChecker(history: history, progress: WorkloadProgress(events), base: base)
            let end = EpochChoices(model, try #require(model.epochs.last)), last = events.count - 1
            var random = SeededRandom(seed: seed)
            let mixed = (0..<2).map { _ in end.mixed(at: last, &random) }
            var problems: [String] = []
            let states = ([.required, end.landed(at: last)] + mixed).map { CrashState(end, $0) }
            model.forEach(states) { state, disk in
                problems += checker.problems(state, disk, deep: false).map { "\(state): \($0)" }
            }
            return problems
        }
    }

    /// Every n-th request fails in turn, once or from then on: a sample here, all in a soak.
    @Test(arguments: sweeps) func aFailedDeviceLosesNothingAcknowledged(_ sweep: Sweep) throws {
        let volume = TestVolume.small
        let base = try volume.make()
        let isSoak = SoakTests.minutes > 0
        var ordinal = 1, count = 0
        while true {
            let (problems, isPast) = try Case(volume: volume, base: base, sweep: sweep, ordinal: ordinal, seed: 505)
                .problems()
            if isPast { break }
            count += 1
            if !problems.isEmpty { Issue.record("\(sweep) \(ordinal): \(problems.joined(separator: "\n"))") }
            // The first ones, where a mount has its own, then ever fewer.
            ordinal += isSoak || ordinal < 4 ? 1 : max(1, ordinal / 3)
        }
        print("device errors: \(sweep.testDescription), \(count) of the requests 1 to \(ordinal)")
        #expect(count > 5)
    }
}
