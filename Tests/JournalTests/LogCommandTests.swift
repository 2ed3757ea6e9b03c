import BlockIO
import CrashLab
import Ext4Format
import Foundation
import Testing

extension ImageFile {
    /// A log of three writes: sector n gets bytes of n, behind which stands the mark and n. One goes through to the
    /// medium.
    static func log(mark: String, through: Int, flushesBehind flushed: Set<Int>) throws -> ImageFile {
        let file = ImageFile()
        let writer = try WriteLogWriter(path: file.path, sectorByteCount: 512)
        for sector in 1...3 {
            let bytes = [UInt8](repeating: UInt8(sector), count: 512)
            let mode: WriteMode = sector == through ? .throughToMedia : .cached
            let write = DeviceRequest.write(offset: UInt64(sector) * 512, bytes: bytes, mode: mode)
            writer.completed(writer.submitted(write), succeeded: true)
            if flushed.contains(sector) { writer.completed(writer.submitted(.flush), succeeded: true) }
            writer.marked("\(mark) \(sector)")
        }
        try writer.close()
        return file
    }
}

/// jext4-replay log, as others call it.
@Suite struct LogCommandTests {
    /// Sector n of three holds n; each write is flushed and marked. The second is a write through to the medium.
    private static func log() throws -> ImageFile {
        try ImageFile.log(mark: "step", through: 2, flushesBehind: [1, 2, 3])
    }

    @Test func infoAndShowSayWhatTheLogHolds() throws {
        let log = try Self.log()
        let info = try replay("log", "info", "--json", log.path)
        #expect(info.status == 0 && info.output.contains("\"entries\":10,\"writes\":3,\"flushes\":3,\"fuas\":1"))
        #expect(info.output.contains("[\"step 1\",\"step 2\",\"step 3\",\"dm-log-writes-end\"],\"problems\":[]"))
        let show = try replay("log", "show", log.path)
        let lines = "0 write 512 bytes at 512\n1 flush\n2 mark step 1\n3 fua 512"
        #expect(show.status == 0 && show.output.hasPrefix(lines))
        #expect(try replay("log", "info", "/dev/null").status == 8)
    }

    @Test func applyStopsWhereItIsTold() throws {
        let log = try Self.log()
        for (words, last) in [
            (["--to-entry", "2"], 1), (["--to-mark", "step 2"], 2), (["--next-fua"], 2), ([], 3),
        ] {
            let image = ImageFile()
            try Data(repeating: 0, count: 4096).write(to: URL(fileURLWithPath: image.path))
            #expect(try replay(["log", "apply"] + words + [log.path, image.path]).status == 1)
            let bytes = try Data(contentsOf: URL(fileURLWithPath: image.path))
            #expect((1...3).map { bytes[$0 * 512] } == (1...3).map { $0 <= last ? UInt8($0) : 0 }, "\(words)")
        }
        let image = ImageFile()
        try Data(repeating: 0, count: 4096).write(to: URL(fileURLWithPath: image.path))
        #expect(try replay("log", "apply", "--to-mark", "none", log.path, image.path).status == 8)
        #expect(try replay("log", "apply", "--to-entry", "1", "--next-fua", log.path, image.path).status == 16)
    }

    /// What one check writes must not reach the next, and one that was killed has not approved of anything.
    @Test func eachCheckGetsAFreshCopyAndMayNotDie() throws {
        let log = try Self.log()
        let isFresh = "test \"$(od -An -tu1 -j2048 -N1 {} | tr -d ' ')\" = 0"
        let script = isFresh + " && printf x | dd of={} seek=2048 bs=1 conv=notrunc"
        let good = try replay("log", "check", "--each", "flush", "--json", log.path, "--", "sh", "-c", script)
        #expect(good.status == 0 && good.output.contains("{\"type\":\"checked\",\"checks\":3,\"failures\":0}"))
        let killed = try replay(
            "log", "check", "--each", "entry", "--keep-going", "--json", log.path,
            "--", "sh", "-c", "kill -SEGV $$; : {}")
        #expect(killed.status == 4 && killed.output.contains("\"entry\":0,\"status\":null,\"signal\":11,\"said\":[]}"))
        #expect(killed.output.contains("\"checks\":6,\"failures\":6"))
        // A status is none of the signals that a shell would tell so.
        let high = try replay(
            "log", "check", "--each", "flush", "--json", log.path, "--", "sh", "-c", "exit 200; : {}")
        #expect(high.output.contains("\"status\":200,\"signal\":null"))
        let fua = ["log", "check", "--each", "fua"]
        let one = try replay(fua + ["--from-mark", "step 1", log.path, "--", "test", "!", "-f", "{}"])
        #expect(one.status == 4 && one.output.hasSuffix("1 checks, 1 failures\n"))
        #expect(try replay(fua + [log.path, "--", "true"]).status == 16)
        #expect(try replay(fua + ["--from-mark", "no", log.path, "--", "true", "{}"]).status == 8)
    }

    /// No byte of a log may end the command by a trap.
    @Test func aLogThatReachesTooFarIsRefused() throws {
        for (offset, count) in [(UInt64.max - 1023, UInt64(512)), (1 << 63, 512), (512, UInt64(Int64.max) - 511)] {
            let log = ImageFile()
            let writer = try WriteLogWriter(path: log.path, sectorByteCount: 512)
            writer.completed(writer.submitted(.discard(offset: offset, count: count)), succeeded: true)
            try writer.close()
            let judge = ["--", "true", "{}"], look = ["crash", "explore", "--check", "true {}"]
            for (words, rest) in [(["log", "check", "--each", "flush"], judge), (["log", "lint"], []), (look, [])] {
                let refused = try replay(words + [log.path] + rest)
                #expect(refused.status == 8 && refused.output.contains("--base or --size"), "\(refused.output)")
            }
        }
        let log = try Self.log()
        #expect(try replay("log", "lint", "--size", "9223372036854775808", log.path).status == 16)
        let longest = try replay(
            "log", "check", "--each", "flush", "--size", "9223372036854771712", log.path, "--", "true", "{}")
        #expect(longest.status == 8 || longest.status == 2, "\(longest.output)")
    }

    /// Whoever can write to TMPDIR must not choose which file is written over.
    @Test func whatACheckSaysGoesToAFileOfItsOwn() throws {
        let log = try Self.log(), folder = NewPath()
        try FileManager.default.createDirectory(atPath: folder.path, withIntermediateDirectories: false)
        let victim = folder.path + "/victim"
        try "precious".write(toFile: victim, atomically: true, encoding: .utf8)
        // exec keeps the number of the process.
        let script = """
            export TMPDIR=\(folder.path); ln -s \(victim) $TMPDIR/jext4-replay-$$-1.img.said
            exec \(replayCommand) log check --each flush \(log.path) -- sh -c 'echo gone; : {}'
            """
        #expect(try E2fsprogs.run(["sh", "-c", script]).status == 8)
        #expect(try String(contentsOfFile: victim, encoding: .utf8) == "precious")
    }

    /// A log of a disk that is no volume breaks no rule.
    @Test func lintAnswersByItsStatus() throws {
        let log = try Self.log()
        let result = try replay("log", "lint", log.path)
        #expect(result.status == 0 && result.output == "0 transactions, 0 breaches\n")
    }
}
