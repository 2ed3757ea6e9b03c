import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// Workloads that are not drawn at random: what once broke others, and all that is short.
@Suite struct WorkloadTests {
    static let scenarios = RegressionScenario.all(blockByteCount: 1024)

    /// No power cut during what once broke ext4 and its like breaks anything here.
    @Test(arguments: scenarios.map(\.id)) func whatBrokeOthersBreaksNothing(id: String) throws {
        let scenario = try #require(Self.scenarios.first { $0.id == id })
        var campaign = CrashCampaign(
            seed: 800, volume: .small, operations: scenario.operations, sequence: scenario.sequence)
        campaign.boundaries = 12
        try campaign.run()
    }

    /// A sample of all workloads of one and two operations, spread evenly; the soak takes others.
    @Test(arguments: [1, 2]) func shortWorkloadsSurviveEveryCut(length: Int) throws {
        let workloads = BoundedWorkloads(length: length, blockByteCount: 1024)
        #expect(workloads.count == [0, 320, 102_400][length])
        for number in stride(from: length, to: workloads.count, by: workloads.count / 12) {
            try Self.campaign(workloads, number, seed: UInt64(number)).run()
        }
    }

    static func campaign(_ workloads: BoundedWorkloads, _ number: Int, seed: UInt64) -> CrashCampaign {
        var campaign = CrashCampaign(
            seed: seed, volume: .small, operations: workloads[number], prefixes: 4, inFlight: 4, subsets: 6)
        campaign.boundaries = 10
        campaign.name = "workload \(number) of length \(workloads.length)"
        return campaign
    }

    /// Every number gives a workload that a volume carries out, and that its number gives again.
    @Test func everyNumberIsAWorkload() throws {
        let one = BoundedWorkloads(length: 1, blockByteCount: 1024)
        let two = BoundedWorkloads(length: 2, blockByteCount: 1024)
        let all = (0..<one.count).map { one[$0] } + stride(from: 0, to: two.count, by: 4999).map { two[$0] }
        let base = try TestVolume.small.make()
        for operations in all {
            let run = try WorkloadRun(
                on: OverlayDevice(over: MemoryDevice(base)), tree: ModelTree(blockByteCount: 1024),
                options: .deterministic())
            for operation in operations { try run.perform(operation) }
            try run.perform(.unmount)
        }
        let three = BoundedWorkloads(length: 3, blockByteCount: 1024)
        #expect((0..<1000).contains { three.isConnected($0 * 31_547) } && !three.isConnected(one.count - 1))
        #expect(three[12_345_678].map(\.description) == three[12_345_678].map(\.description))
    }

    /// What remains of a failing workload fails, and nothing of it can be spared.
    @Test func aFailingWorkloadIsMadeAsShortAsItCanBe() throws {
        let tree = ModelTree(blockByteCount: 1024)
        // The fault: a directory is renamed, and later a file is truncated that has a second name.
        func fails(_ operations: [Operation]) -> Bool {
            var history = ModelHistory(tree), isRenamed = false
            for operation in operations {
                let before = history.tree
                history.append(operation)
                switch operation {
                case .rename(let parent, let name, _, _):
                    let moved = before.child(name, of: parent).flatMap { before[$0] }
                    isRenamed = isRenamed || moved?.isDirectory == true
                case .truncate(let id, _) where isRenamed && (before[id]?.linkCount ?? 0) > 1: return true
                default: continue
                }
            }
            return false
        }
        func workload(_ seed: UInt64) -> [Operation] {
            var generator = WorkloadGenerator(seed: seed, profile: .mixed(300))
            var history = ModelHistory(tree)
            for _ in 0..<300 { history.append(generator.next(history.tree)) }
            return history.steps.dropFirst().map(\.operation)
        }
        let operations = try #require((1...50).lazy.map(workload).first(where: fails))
        let short = WorkloadMinimiser.minimise(operations, from: tree, fails: fails)
        #expect(fails(short) && (5...10).contains(short.count), "\(short)")
        for index in short.indices {
            let rest = short.indices.filter { $0 != index }
            #expect(!fails(WorkloadMinimiser.repaired(short, rest, from: tree)))
        }
    }
}
