import BlockIO
import CrashLab
import Foundation
import Synchronization
import Testing
import Threads

/// Swarms of volumes and workloads: a few that are the same every time, and as many new ones as there is time for.
@Suite struct SoakTests {
    /// Chance leaves each volume and each workload something out; what remains survives every cut all the same.
    @Test(arguments: 1...8) func aSwarmSurvives(seed: Int) throws {
        try CrashCampaign.swarm(seed: UInt64(seed), operations: 40...80).run()
    }

    /// What a soak has found: a truncate in several handles took a file without a name off the orphan list.
    @Test(arguments: [5_190_718_057_887_715_687] as [UInt64]) func whatWasFoundStaysFound(seed: UInt64) {
        let figures = SoakFigures()
        Self.step(seed, figures)
        #expect(figures.failures.isEmpty, "\(figures.failures)")
    }

    /// A seed of the soak must not fail for a volume that mke2fs refuses.
    @Test func everyVolumeOfASwarmCanBeMade() throws {
        var random = SeededRandom(seed: 1)
        for _ in 0..<60 {
            let volume = TestVolume.swarm(&random)
            #expect(throws: Never.self, "\(volume.name)") { _ = try volume.make() }
        }
    }

    static let minutes = ProcessInfo.processInfo.environment["JEXT4_SOAK_MINUTES"].flatMap(Double.init) ?? 0

    /// The same with seeds that nobody has seen yet, with short workloads and with every state by lazy choice, on all
    /// cores; then the figures beside the goals.
    @Test(.enabled(if: minutes > 0, "set JEXT4_SOAK_MINUTES")) func soak() throws {
        let figures = SoakFigures()
        let begin = Date(), end = begin.addingTimeInterval(Self.minutes * 60)
        let isOver = Monitor(false)
        let reporter = Thread(name: "soak-progress") {
            while isOver.wait(milliseconds: 60_000, until: { $0 ? () : nil }) == nil {
                let share = min(1, Date().timeIntervalSince(begin) / (Self.minutes * 60))
                Self.announce(figures.progress(share: share, secondsLeft: max(0, Int(end.timeIntervalSinceNow))))
            }
        }
        DispatchQueue.concurrentPerform(iterations: ProcessInfo.processInfo.activeProcessorCount) { _ in
            while Date() < end { Self.step(UInt64.random(in: 1 ... .max), figures) }
        }
        isOver.withLock { $0 = true }
        isOver.notifyAll()
        reporter.join()
        for failure in figures.failures { Issue.record("\(failure)") }
        print(figures.table)
    }

    static let seed = ProcessInfo.processInfo.environment["JEXT4_SOAK_SEED"].flatMap { UInt64($0) }

    /// What `soak` did with a seed that it has printed.
    @Test(.enabled(if: seed != nil, "set JEXT4_SOAK_SEED")) func again() throws {
        let figures = SoakFigures()
        Self.step(try #require(Self.seed), figures)
        #expect(figures.failures.isEmpty, "\(figures.failures)")
    }

    static let measured = ProcessInfo.processInfo.environment["JEXT4_SOAK_MEASURE"].flatMap { UInt64($0) } ?? 0

    /// The exploration alone, of so many seeds that are the same every time, on one core: how fast is it?
    @Test(.enabled(if: measured > 0, "set JEXT4_SOAK_MEASURE")) func speed() throws {
        let figures = SoakFigures()
        for seed in 1...Self.measured {
            try figures.add(exploring: CrashCampaign.swarm(seed: seed, operations: 20...60), askEvery: 0)
        }
        print(figures.table)
        #expect(figures.failures.isEmpty, "\(figures.failures)")
    }

    private static func step(_ seed: UInt64, _ figures: SoakFigures) {
        if seed.isMultiple(of: 4) { return concurrentStep(seed, figures) }
        do {
            var random = SeededRandom(seed: seed)
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                let workloads = BoundedWorkloads(length: random.once(in: 2) ? 2 : 3, blockByteCount: 1024)
                var number = Int.random(in: 0..<workloads.count, using: &random)
                while !workloads.isConnected(number) { number = Int.random(in: 0..<workloads.count, using: &random) }
                announce("workload \(number) of length \(workloads.length)")
                try figures.add(sampling: WorkloadTests.campaign(workloads, number, seed: seed), .short)
            case 1:
                announce("seed \(seed), swarm, every state")
                try figures.add(exploring: CrashCampaign.swarm(seed: seed, operations: 20...60), askEvery: 16)
            default:
                announce("seed \(seed), swarm")
                try figures.add(sampling: CrashCampaign.swarm(seed: seed, operations: 50...400), .random)
            }
        } catch {
            figures.add(failure: "seed \(seed): \(error)")
        }
    }

    /// Threads in many interleavings, of which power is cut in the first.
    private static func concurrentStep(_ seed: UInt64, _ figures: SoakFigures) {
        announce("seed \(seed), threads")
        for interleaving in 0..<20 as Range<UInt64> {
            let campaign = ConcurrentCampaign.swarm(seed: seed &+ interleaving, operations: 20...120)
            do {
                try figures.add(concurrent: campaign, withCuts: interleaving == 0)
            } catch {
                figures.add(
                    failure: "seed \(seed), interleaving \(interleaving), \(campaign.volume.name): \(error)")
            }
        }
    }

    /// Written at once: a campaign that never ends must say which it was.
    private static func announce(_ text: String) {
        FileHandle.standardError.write(Data("soak: \(text)\n".utf8))
    }
}
