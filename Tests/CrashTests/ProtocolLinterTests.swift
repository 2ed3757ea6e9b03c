import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// The linter has nothing to say about what Linux and we do.
@Suite struct ProtocolLinterTests {
    @Test(.enabled(if: Need.sharedFixtures, "needs the shared fixtures"), arguments: KernelWriteLogTests.fixtures)
    func theLogsOfLinuxKeepTheRules(fixture: KernelWriteLogTests.Fixture) throws {
        let log = try WriteLogReader(on: try fixture.load())
        let (violations, transactions) = try ProtocolLinter.lint(
            log, base: EmptyDevice(sectorByteCount: log.sectorByteCount))
        #expect(violations == [], "\(violations.prefix(20).map(\.description).joined(separator: "\n"))")
        #expect(transactions > 10)
    }

    @Test(arguments: TestVolume.all) func ourTracesKeepTheRules(volume: TestVolume) throws {
        for (seed, profile) in [(11, WorkloadProfile.mixed(200)), (12, .names(260)), (13, .data(120))] {
            let outcome = try CrashCampaign(seed: UInt64(seed), volume: volume, profile: profile).record()
            let violations = try ProtocolLinter.lint(
                outcome.events, base: MemoryDevice(outcome.base), acknowledgement: acknowledgements(outcome.history))
            #expect(violations == [], "\(violations.prefix(20).map(\.description).joined(separator: "\n"))")
        }
    }

    /// What -o record=LOG leaves.
    @Test(arguments: [TestVolume.small, .large]) func ourLogsKeepTheRules(volume: TestVolume) throws {
        let outcome = try CrashCampaign(seed: 14, volume: volume, profile: .mixed(200)).record()
        let file = TemporaryFile("log")
        let writer = try WriteLogWriter(path: file.path, sectorByteCount: 512)
        Trace.replay(outcome.events, into: writer)
        try writer.close()
        let log = try WriteLogReader(on: MemoryDevice(file.contents))
        let (violations, transactions) = try ProtocolLinter.lint(log, base: MemoryDevice(outcome.base))
        #expect(violations == [], "\(violations.prefix(20).map(\.description).joined(separator: "\n"))")
        #expect(transactions > 10)
    }

    /// The threads of a live journal keep them too.
    @Test func ourThreadsKeepTheRules() throws {
        var campaign = CrashCampaign(seed: 15, volume: .small, profile: .mixed(200))
        campaign.isManual = false
        let outcome = try campaign.record()
        let violations = try ProtocolLinter.lint(outcome.events, base: MemoryDevice(outcome.base))
        #expect(violations == [], "\(violations.prefix(20).map(\.description).joined(separator: "\n"))")
    }
}

/// What the marks of a workload run acknowledge.
func acknowledgements(_ history: ModelHistory) -> (String) -> ProtocolLinter.Acknowledgement? {
    { label in
        let words = label.split(separator: " ")
        guard words.count == 2, words[0] == "end", let step = Int(words[1]), step < history.steps.count else {
            return nil
        }
        switch history.steps[step].operation {
        case .sync: return .file
        case .syncAll: return .everything
        default: return nil
        }
    }
}
