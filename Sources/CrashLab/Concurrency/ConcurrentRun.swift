package import BlockIO
internal import Ext4Format
package import FileSystem
internal import Synchronization
internal import Threads

/// What threads do at the same time, and who goes on when: all from one seed.
package struct ConcurrentWorkload: Sendable {
    package let seed: UInt64
    package var threadCount: Int
    /// Of each thread.
    package var profile: WorkloadProfile
    /// See `SeededScheduler`.
    package var switchRate = 3
    /// The device may fail. A call that it fails, or that is refused afterwards, never returns in the history: whether
    /// it has taken effect is open, and its thread makes no other.
    package var meetsErrors = false
    package var options = MountOptions()

    package init(seed: UInt64, threadCount: Int, profile: WorkloadProfile) {
        self.seed = seed
        self.threadCount = threadCount
        self.profile = profile
        // Threads do not unmount what others use. Nodes stay open as long as somebody uses them, as the kernel has it;
        // and the judge of what survives knows nothing of fdatasync.
        let others: [WorkloadProfile.Call] = [.remount, .hold, .release, .forget, .dataSync]
        self.profile.weights.removeAll { others.contains($0.call) }
    }

    /// Mounts, lets the threads work, compares what they left with the model if no error came between, and unmounts.
    /// Marks in the trace of the device say how many calls had begun and returned: "begin 7", "end 6". `makeDevice` is
    /// called once, with the scheduler of the threads.
    package func run(
        tree: ModelTree, on makeDevice: (SeededScheduler) -> any BlockDevice
    ) throws(WorkloadFailure) -> ConcurrentHistory {
        let scheduler = SeededScheduler(seed: seed, switchRate: switchRate)
        let run = ConcurrentRun(self, tree, makeDevice(scheduler), scheduler)
        do throws(SchedulerFailure) {
            try scheduler.run { run.work() }
        } catch { throw .wrong(step: run.callCount, "\(error)") }
        return try run.result()
    }
}

/// One run of a concurrent workload.
private final class ConcurrentRun: Sendable {
    private struct State {
        var history: ConcurrentHistory
        var failure: WorkloadFailure?
        /// A call has met an error of the device: nobody knows what all have left.
        var isOpen = false
        /// On each of these there is one reference.
        var numbers: [ModelNodeID: InodeNumber] = [.root: .root]
        /// How many calls use the node right now.
        var users: [ModelNodeID: Int] = [:]
    }
    private let workload: ConcurrentWorkload
    private let device: any BlockDevice
    private let scheduler: SeededScheduler
    private let state: Mutex<State>
    /// So many nodes without a name stay open.
    private static let openLimit = 2
    /// Where the calls may have left more volumes than this, the threads wait until one has looked.
    private static let possibleLimit = 4

    init(
        _ workload: ConcurrentWorkload, _ tree: ModelTree, _ device: any BlockDevice, _ scheduler: SeededScheduler
    ) {
        self.workload = workload
        self.device = device
        self.scheduler = scheduler
        // The thread that mounts is one of them.
        state = Mutex(State(history: ConcurrentHistory(tree, threadCount: workload.threadCount + 1)))
    }

    func result() throws(WorkloadFailure) -> ConcurrentHistory {
        let (history, failure) = state.withLock { ($0.history, $0.failure) }
        if let failure { throw failure }
        return history
    }

    var callCount: Int { state.withLock { $0.history.calls.count } }

    /// What the first thread does.
    func work() {
        do throws(WorkloadFailure) {
            device.mark("begin 0")
            let system: FileSystem
            do throws(Ext4Error) {
                system = try FileSystem.mount(on: device, options: workload.options)
            } catch { throw .failed(step: 0, .mount, error) }
            device.mark("end 0")
            let calls = ReaderWriterLock()
            let threads = (0..<workload.threadCount).map { number in
                Thread(name: "thread \(number)") { [self] in work(number, system, calls) }
            }
            for thread in threads { thread.join() }
            if state.withLock({ $0.failure == nil }) { try compare(system) }
            _ = try perform(.unmount, workload.threadCount, system)
        } catch { note(error) }
    }

    /// `calls` is held shared during a call, and alone by who wants to see what the calls have left.
    private func work(_ thread: Int, _ system: FileSystem, _ calls: ReaderWriterLock) {
        var seeds = SeededRandom(seed: workload.seed &+ UInt64(thread))
        var generator = WorkloadGenerator(seed: seeds.next() >> 20, profile: workload.profile)
        do throws(WorkloadFailure) {
            for _ in 0..<workload.profile.operationCount where state.withLock({ $0.failure == nil }) {
                let hasReturned = try calls.withReadLock { () throws(WorkloadFailure) in
                    try perform(next(&generator), thread, system)
                }
                guard hasReturned else { return }
                guard state.withLock({ $0.history.possibleCount > Self.possibleLimit }) else { continue }
                try calls.withWriteLock { () throws(WorkloadFailure) in try compare(system) }
            }
        } catch { note(error) }
    }

    /// The first failure counts: others may follow from it.
    private func note(_ failure: WorkloadFailure) { state.withLock { $0.failure = $0.failure ?? failure } }

    /// An operation on nodes that are there and open.
    private func next(_ generator: inout WorkloadGenerator) -> Operation {
        let (tree, known) = state.withLock { ($0.history.tree, Set($0.numbers.keys)) }
        for _ in 0..<100 {
            let operation = generator.next(tree)
            if known.isSuperset(of: operation.nodes) { return operation }
        }
        return .syncAll
    }

    // MARK: - Calls

    /// False: an error has come between, and it has not returned.
    private func perform(_ operation: Operation, _ thread: Int, _ system: FileSystem) throws(WorkloadFailure) -> Bool {
        let index = begin(operation, thread)
        var failure: Int32?, made: InodeNumber?
        do throws(Ext4Error) {
            made = try execute(operation, system)
        } catch .posix(let errno) where system.abortCause == nil { failure = errno } catch {
            guard workload.meetsErrors else { throw .failed(step: index, operation, error) }
            state.withLock { $0.isOpen = true }
            return false
        }
        for number in try finish(operation, index, failure, made) { system.forget(number, count: 1) }
        return true
    }

    /// The inode that the operation has made.
    private func execute(_ operation: Operation, _ system: FileSystem) throws(Ext4Error) -> InodeNumber? {
        if case .unmount = operation {
            try system.unmount()
            return nil
        }
        var performed = operation
        let answer = try OperationCaller(system).perform(&performed) { id throws(Ext4Error) in
            guard let number = state.withLock({ $0.numbers[id] }) else { throw .refused("node \(id) is not open") }
            return number
        }
        return operation.madeNode == nil ? nil : answer?.inode
    }

    private func begin(_ operation: Operation, _ thread: Int) -> Int {
        let index = state.withLock { state in
            for id in operation.nodes { state.users[id, default: 0] += 1 }
            return state.history.begin(operation, thread: thread)
        }
        scheduler.note("\(operation)")
        device.mark("begin \(index + 1)")
        return index
    }

    /// Gives the inodes to forget.
    private func finish(
        _ operation: Operation, _ index: Int, _ failure: Int32?, _ made: InodeNumber?
    ) throws(WorkloadFailure) -> [InodeNumber] {
        let (isExplained, rank, unused) = state.withLock { state in
            let isExplained = state.history.finish(index, failure: failure)
            if let made { state.numbers[state.history.calls[index].node] = made }
            for id in operation.nodes { state.users[id, default: 0] -= 1 }
            return (isExplained, state.history.returnedCount, isExplained ? Self.close(&state) : [])
        }
        device.mark("end \(rank)")
        guard isExplained else {
            let answer = failure.map { "errno \($0)" } ?? "success"
            throw .wrong(step: index, "\(operation): no order of the calls explains its \(answer)")
        }
        return unused
    }

    /// Closes nodes without a name, but for the last few.
    private static func close(_ state: inout State) -> [InodeNumber] {
        let gone = state.numbers.keys.filter { state.history.isGone($0) && state.users[$0, default: 0] == 0 }
        return gone.sorted().dropLast(openLimit).compactMap { id in
            state.history.close(id)
            return state.numbers.removeValue(forKey: id)
        }
    }

    /// No call is under way.
    private func compare(_ system: FileSystem) throws(WorkloadFailure) {
        if state.withLock({ $0.isOpen }) { return }
        do throws(Ext4Error) {
            let captured = try CapturedTree(reading: system)
            if let difference = state.withLock({ $0.history.narrow(to: captured) }) { throw .refused(difference) }
        } catch { throw .wrong(step: callCount, "what the threads left: \(error)") }
    }
}
