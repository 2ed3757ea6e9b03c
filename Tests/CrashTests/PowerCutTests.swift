import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// The promises of docs/DURABILITY.md, each under power cuts. Seeds are fixed here; SoakTests take new ones.
@Suite struct PowerCutTests {
    /// P2: after any power cut the tree is that of a prefix of the operations, and e2fsck has nothing to say.
    @Test(arguments: TestVolume.all) func theTreeIsThatOfAPrefixOfTheOperations(volume: TestVolume) throws {
        try CrashCampaign(seed: 101, volume: volume, profile: .mixed(160)).run()
    }

    /// P1: what fsync and fdatasync covered is there, old bytes are gone, appended bytes are whole.
    @Test(arguments: [TestVolume.small, .large]) func whatFsyncCoveredSurvives(volume: TestVolume) throws {
        try CrashCampaign(seed: 202, volume: volume, profile: .data(120)).run()
    }

    /// P2 and P3 where indirect blocks come and go on two levels: a file that reaches over 268 KiB has both.
    @Test(arguments: [303, 304] as [UInt64]) func filesOfIndirectBlocksAreWholeAtEveryMoment(seed: UInt64) throws {
        var profile = WorkloadProfile.data(120)
        profile.fileByteCount = 400 << 10
        profile.weights = profile.weights.map { $0.call == .sparse ? ($0.call, 20) : $0 }
        try CrashCampaign(seed: seed, volume: .indirect, profile: profile).run()
    }

    /// Sparse writes, punches and cuts share clusters; and the clusters may be larger than the writes.
    @Test(arguments: [TestVolume.clusters, .largeClusters], [305, 306] as [UInt64])
    func filesOfClustersAreWholeAtEveryMoment(volume: TestVolume, seed: UInt64) throws {
        var profile = WorkloadProfile.data(120)
        profile.fileByteCount = 30 * volume.blockByteCount
        let often: [WorkloadProfile.Call] = [.sparse, .punch, .truncate, .allocate]
        profile.weights = profile.weights.map { often.contains($0.call) ? ($0.call, 15) : $0 }
        try CrashCampaign(seed: seed, volume: volume, profile: profile).run()
    }

    /// P2 for directories that become hashed trees: a split is there whole or not at all.
    @Test(arguments: [TestVolume.small, .narrow, .indirect, .clusters])
    func aDirectoryThatGrowsIsWholeAtEveryMoment(volume: TestVolume) throws {
        try CrashCampaign(seed: 303, volume: volume, profile: .names(260)).run()
    }

    /// The commit and checkpoint threads order their writes as the calls of a single thread do.
    @Test func threadsKeepTheOrder() throws {
        var campaign = CrashCampaign(seed: 404, volume: .small, profile: .mixed(160))
        campaign.isManual = false
        try campaign.run()
    }

    /// P4: Linux replays our log to the tree that we replay it to.
    @Test(
        .enabled(if: Need.loopMounts, "needs root and loop devices"),
        arguments: [TestVolume.small, .noChecksums, .clusters])
    func linuxReplaysOurLogToTheSameTree(volume: TestVolume) throws {
        let campaign = CrashCampaign(seed: 606, volume: volume, profile: .mixed(120))
        let outcome = try campaign.record()
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        var random = SeededRandom(seed: 606)
        let states = TraceSample(model).states(seed: 606, prefixes: 30, inFlight: 0, subsets: 0)
        try model.forEach(random.sample(states, count: 6)) { state, disk in
            let problems = try StateChecker.kernelReplay(disk)
            if !problems.isEmpty { Issue.record("\(volume.name), \(state): \(problems.joined(separator: "\n"))") }
        }
    }
}
