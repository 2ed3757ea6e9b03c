import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Foundation
import Testing

/// The promises of docs/DURABILITY.md, each under power cuts. Seeds are fixed here; a soak prints its own.
@Suite struct PowerCutTests {
    /// P2: after any power cut the tree is that of a prefix of the operations, and e2fsck has nothing to say.
    @Test(arguments: TestVolume.all) func theTreeIsThatOfAPrefixOfTheOperations(volume: TestVolume) throws {
        try CrashCampaign(seed: 101, volume: volume, profile: .mixed(160)).run()
    }

    /// P1: what fsync and fdatasync covered is there, old bytes are gone, appended bytes are whole.
    @Test(arguments: [TestVolume.small, .large]) func whatFsyncCoveredSurvives(volume: TestVolume) throws {
        try CrashCampaign(seed: 202, volume: volume, profile: .data(120)).run()
    }

    /// P2 for directories that become hashed trees: a split is there whole or not at all.
    @Test(arguments: [TestVolume.small, .narrow])
    func aDirectoryThatGrowsIsWholeAtEveryMoment(volume: TestVolume) throws {
        try CrashCampaign(seed: 303, volume: volume, profile: .names(260)).run()
    }

    /// The commit and checkpoint threads order their writes as the calls of a single thread do.
    @Test func threadsKeepTheOrder() throws {
        try CrashCampaign(seed: 404, volume: .small, profile: .mixed(160)).run(manual: false)
    }

    /// P4: Linux replays our log to the tree that we replay it to.
    @Test(.enabled(if: Need.loopMounts, "needs root and loop devices"), arguments: [TestVolume.small, .noChecksums])
    func linuxReplaysOurLogToTheSameTree(volume: TestVolume) throws {
        let campaign = CrashCampaign(seed: 606, volume: volume, profile: .mixed(120))
        let outcome = try campaign.record()
        let states = CrashStates(base: MemoryDevice(outcome.base), events: outcome.events)
        var random = SeededRandom(seed: 606)
        let points = states.points(seed: 606, prefixes: 30, inFlight: 0, subsets: 0)
        try states.forEach(random.sample(points, count: 6)) { point, disk in
            let problems = try StateChecker.kernelReplay(disk)
            if !problems.isEmpty { Issue.record("\(volume.name), \(point): \(problems.joined(separator: "\n"))") }
        }
    }

    static let soakMinutes = ProcessInfo.processInfo.environment["JEXT4_SOAK_MINUTES"].flatMap(Double.init) ?? 0

    /// The same for as long as one likes, with seeds that nobody has seen yet.
    @Test(.enabled(if: soakMinutes > 0, "set JEXT4_SOAK_MINUTES")) func soak() throws {
        let end = Date().addingTimeInterval(Self.soakMinutes * 60)
        while Date() < end {
            let seed = UInt64.random(in: 1 ... .max)
            var random = SeededRandom(seed: seed)
            let volume = TestVolume.all.randomElement(using: &random)!
            let count = Int.random(in: 50...400, using: &random)
            let profile = [WorkloadProfile.mixed(count), .names(count), .data(count)].randomElement(using: &random)!
            // Written at once: a campaign that never ends must say which it was.
            FileHandle.standardError.write(Data("soak: seed \(seed), \(volume.name), \(count) operations\n".utf8))
            var campaign = CrashCampaign(seed: seed, volume: volume, profile: profile)
            campaign.prefixes = 60
            campaign.inFlight = 30
            campaign.subsets = 80
            try campaign.run()
        }
    }
}
