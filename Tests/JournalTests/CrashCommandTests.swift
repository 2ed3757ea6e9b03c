import BlockIO
import CrashLab
import Ext4Format
import Foundation
import Testing

/// jext4-replay crash, as others call it: for a file system of three sectors, in which sector 2 must never be there
/// without sector 1.
@Suite struct CrashCommandTests {
    /// Sectors 1 and 2 are written with no flush between them, then a flush, then sector 3 through to the medium.
    private static func log() throws -> ImageFile {
        try ImageFile.log(mark: "sector", through: 3, flushesBehind: [2])
    }

    private static func byte(_ sector: Int) -> String {
        "$(od -An -tu1 -j\(sector * 512) -N1 {} | tr -d ' ')"
    }
    private static let check = "test \(byte(2)) = 0 || test \(byte(1)) = 1"

    private static func explore(_ log: ImageFile, _ more: String...) throws -> (status: Int32, output: String) {
        let result = try replay(
            ["crash", "explore", "--size", "4096", "--check", check, "--json"] + more + [log.path])
        return (result.status, result.output)
    }

    /// All lines but the sums, which hold a time.
    private static func lines(_ output: String) -> [Substring] {
        output.split(separator: "\n").filter { !$0.contains("\"type\":\"explored\"") }
    }

    @Test func aStateThatBreaksTheRuleIsFoundNamedAndMadeAgain() throws {
        let log = try Self.log()
        let found = try Self.explore(log)
        #expect(found.status == 4)
        let failures = found.output.split(separator: "\n").filter { $0.contains("\"type\":\"failure\"") }
        #expect(failures.count == 1)
        // Epoch 0 ends at the flush with two sectors open; the second holds its newest version, the first does not.
        let name = try #require(failures.first?.split(separator: "\"").first { $0.hasSuffix("-any512-0-0x1.1x1") })
        let image = ImageFile()
        let again = try replay(
            "crash", "repro", "--size", "4096", "--check", Self.check, "--output", image.path, String(name), log.path)
        #expect(again.status == 4 && again.output.contains("status 1"))
        let bytes = try Data(contentsOf: URL(fileURLWithPath: image.path))
        #expect((1...3).map { bytes[$0 * 512] } == [0, 2, 0])
        let words = ["crash", "repro", "--size", "4096", "--json", String(name), log.path, "--check"]
        #expect(try replay(words + [Self.check]).output.contains("{\"type\":\"failure\""))
        let content = try replay(words + ["true {}"])
        #expect(content.status == 0 && content.output.contains("{\"type\":\"state\""))
        #expect(try replay("crash", "repro", "--size", "4096", "nonsense", log.path).status == 8)
        let foreign = "0000000000000000-any512-0-0x1.1x1"
        #expect(try replay("crash", "repro", "--size", "4096", foreign, log.path).status == 8)
    }

    /// On a disk that keeps the order, or has no cache, the same log has no such state.
    @Test(arguments: [["--order", "completion"], ["--no-cache"]])
    func anotherDiskHasOtherStates(options: [String]) throws {
        let log = try Self.log()
        let words = ["crash", "explore", "--size", "4096", "--check", Self.check] + options + [log.path]
        #expect(try replay(words).status == 0)
    }

    /// A disk that leaves garbage has states that no other has, and they have names like any.
    @Test func garbageIsThereWhereItIsAskedFor() throws {
        let log = try Self.log()
        let check = "test \(Self.byte(1)) = 0 || test \(Self.byte(1)) = 1"
        let words = ["crash", "explore", "--size", "4096", "--check", check, log.path]
        #expect(try replay(words).status == 0)
        let found = try replay(words + ["--garbage"])
        #expect(found.status == 4 && found.output.contains("-any512+garbage-0-2x1"), "\(found.output)")
        let name = try #require(found.output.split(whereSeparator: \.isWhitespace).first { $0.hasSuffix("-0-2x1") })
        let again = try replay("crash", "repro", "--size", "4096", "--check", check, String(name), log.path)
        #expect(again.status == 4)
        #expect(try replay(words + ["--garbage", "--order", "completion"]).status == 16)
    }

    /// A checker that was killed has not approved of anything.
    @Test func aKilledCheckerIsAFailure() throws {
        let log = try Self.log()
        let check = "echo a word; kill -9 $$; : {}"
        let result = try replay("crash", "explore", "--size", "4096", "--check", check, log.path)
        #expect(result.status == 4 && result.output.contains("killed by signal 9"))
        #expect(result.output.contains("a word\n"))
    }

    @Test func thePartsTogetherAreTheWhole() throws {
        let log = try Self.log()
        let whole = try Self.explore(log)
        let parts = try (1...3).map { part in
            let file = ImageFile()
            let result = try Self.explore(log, "--shard", "\(part)/3")
            try Data(result.output.utf8).write(to: URL(fileURLWithPath: file.path))
            return file
        }
        let page = ImageFile(), suite = ImageFile()
        let merged = try replay(
            ["crash", "merge", "--json", "--html", page.path, "--junit", suite.path] + parts.map(\.path))
        #expect(merged.status == 4)
        #expect(Self.lines(merged.output) == Self.lines(whole.output))
        let html = try String(contentsOfFile: page.path, encoding: .utf8)
        #expect(html.contains("-any512-0-0x1.1x1") && html.contains("<svg") && !html.contains("src="))
        let xml = try String(contentsOfFile: suite.path, encoding: .utf8)
        #expect(xml.contains("tests=\"3\" failures=\"1\"") && xml.contains("-any512-0-0x1.1x1"))
        // The file goes with its last use: optimised, that would be when its path is taken.
        try withExtendedLifetime(parts[0]) { part in
            try Data(whole.output.utf8.prefix(300)).write(to: URL(fileURLWithPath: part.path))
            #expect(try replay("crash", "merge", part.path).status == 4, "a part that was cut off")
        }
    }
}
