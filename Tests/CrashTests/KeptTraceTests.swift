import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Foundation
import Testing

/// A failure that cannot be seen again is half a failure: what a test keeps of one gives all of it back.
@Suite struct KeptTraceTests {
    /// A trace comes out of the log that keeps it as it went in: requests in flight, failures and marks.
    @Test func aKeptTraceComesBackAsItWas() throws {
        for seed in UInt64(1)...40 {
            var events = CrashModelTests.trace(seed: seed)
            events.insert(.mark("jext4"), at: events.count / 2)
            let file = TemporaryFile("log")
            let writer = try WriteLogWriter(path: file.path, sectorByteCount: 512)
            writer.keep(events)
            try writer.close()
            let device = try FileDevice(path: file.path, readOnly: true)
            #expect(try WriteLogReader.problems(on: device) == [])
            var log = try WriteLogReader(on: device)
            #expect(try CrashModel.digest(Trace.events(of: &log)) == CrashModel.digest(events), "seed \(seed)")
        }
    }

    /// A completion of what never began is damage.
    @Test func aKeptTraceThatLiesIsRefused() throws {
        let file = TemporaryFile("log")
        let writer = try WriteLogWriter(path: file.path, sectorByteCount: 512)
        writer.keep([.mark("jext4 trace: completed 7")])
        try writer.close()
        var log = try WriteLogReader(on: try FileDevice(path: file.path, readOnly: true))
        #expect(throws: Ext4Error.self) { try Trace.events(of: &log) }
    }

    /// All kinds of operations, with names of any bytes.
    @Test func aHistoryComesBackAsItWas() throws {
        for (volume, profile) in [(TestVolume.small, WorkloadProfile.mixed(600)), (.large, .names(600))] {
            var history = ModelHistory(ModelTree(blockByteCount: volume.blockByteCount))
            var generator = WorkloadGenerator(seed: 5, profile: profile)
            for _ in 0..<600 { history.append(generator.next(history.tree)) }
            history.append(.unmount)
            let again = try ModelHistory(text: history.text)
            #expect(again.text == history.text && again.steps.count == history.steps.count)
            #expect(again.steps.map(\.operation.description) == history.steps.map(\.operation.description))
            #expect(again.steps.map(\.floor) == history.steps.map(\.floor))
        }
        for text in [
            "", "x\n", "1024\nfly 1\n", "1024\ncreate 0 x6\n", "1024\ncreate 0 x61 420 1\n", "1024\nopen -1\n",
        ] {
            #expect(throws: Ext4Error.self, "\(text)") { try ModelHistory(text: text) }
        }
    }

    /// The note of a failing test names a command, and what the command needs is there; the state is made again from
    /// that alone and is judged as in the test.
    @Test func theNoteOfAFailureLeadsBackToIt() throws {
        let outcome = try CrashCampaign(seed: 909, volume: .small, profile: .mixed(40)).record()
        var disk = DiskModel()
        disk.honoursFlush = false
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events, disk: disk)
        let end = EpochChoices(model, try #require(model.epochs.last))
        let note = KeptTrace(outcome).note(CrashState(end, .required))
        let words = note.split(whereSeparator: \.isWhitespace).map(String.init)
        let at = try #require(words.firstIndex(of: "repro"))
        let arguments = Array(words[(at + 1)...])
        try #require(arguments.count == 6 && arguments[2] == "--base" && arguments[4] == "--history", "\(note)")
        defer { try? FileManager.default.removeItem(atPath: (arguments[1] as NSString).deletingLastPathComponent) }

        let name = try CrashStateName(arguments[0])
        var log = try WriteLogReader(on: try FileDevice(path: arguments[1], readOnly: true))
        let events = try Trace.events(of: &log)
        #expect(CrashModel.digest(events) == name.digest)
        let base = [UInt8](try Data(contentsOf: URL(fileURLWithPath: arguments[3])))
        let again = try CrashModel(base: MemoryDevice(base), events: events, disk: name.disk)
        let state = EpochChoices(again, again.epochs[name.epoch])
        #expect(try contents(LazyDevice(state, picks: name.picks)) == contents(LazyDevice(end, picks: .required)))
        let history = try ModelHistory(text: String(contentsOfFile: arguments[5], encoding: .utf8))
        let judge = HistoryJudge(history: history, progress: WorkloadProgress(events))
        let problems = judge.verdict(LazyDevice(state, picks: name.picks), in: state.epoch)
        #expect(problems.contains { $0.hasPrefix("no prefix") }, "\(problems)")
    }
}
