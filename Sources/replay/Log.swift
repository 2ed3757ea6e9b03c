internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format
internal import FileSystem

struct Log: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Read dm-log-writes logs: what a device was asked for, in the order in which it became durable.",
        discussion: """
            Logs come from jext4 mount -o record=LOG and from Linux's log-writes target. See docs/RECORDING.md.

            Examples:
              jext4-replay log show run.log
              jext4-replay log lint run.log
              jext4-replay log apply --to-mark mounted run.log disk.img
              jext4-replay log check --each fua --from-mark mounted run.log -- e2fsck -fy {}
            """,
        subcommands: [LogInfo.self, LogShow.self, LogApply.self, LogCheck.self, LogLint.self])
}

/// What every command takes.
struct LogOptions: ParsableArguments {
    @Flag(help: "Print JSON Lines, as docs/jext4-replay.md describes them.")
    var json = false
    @Flag(help: "Tell on standard error how far it has come; on a terminal that is done whenever it takes a while.")
    var progress = false
    @Argument(help: ArgumentHelp("A dm-log-writes log.", valueName: "log"), completion: .file())
    var log: String

    func open() throws(Ext4Error) -> WriteLogReader {
        try WriteLogReader(on: try FileDevice(path: log, readOnly: true))
    }

    /// As far as any entry reaches, rounded up to whole MiB. `.refused` when no file can be as long as that.
    func reach() throws(Ext4Error) -> UInt64 {
        var log = try open()
        var end: UInt64 = 0
        while let entry = try log.next() { end = max(end, entry.offset + entry.byteCount) }
        let unit: UInt64 = 1 << 20
        guard end < 1 << 63 - unit else {
            throw .refused("the log reaches to byte \(end), as no file does; --base or --size says what the disk was")
        }
        return max(1, (end + unit - 1) / unit) * unit
    }
}

extension WriteLogEntry {
    var flagNames: [String] {
        let names: [(WriteLogFlags, String)] = [
            (.flush, "flush"), (.throughToMedia, "fua"), (.discard, "discard"), (.mark, "mark"),
            (.metadata, "metadata"),
        ]
        return names.filter { flags.contains($0.0) }.map { $0.1 }
    }
}

struct LogInfo: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info", abstract: "Count what a log holds, and name what other readers would stumble over.")
    @OptionGroup var options: LogOptions

    func run() throws {
        var log = try options.open()
        let problems = try WriteLogReader.problems(on: try FileDevice(path: options.log, readOnly: true))
        var counts: [String: Int] = [:], marks: [String] = []
        var byteCount: UInt64 = 0, end: UInt64 = 0
        while let entry = try log.next() {
            for name in entry.flagNames { counts[name, default: 0] += 1 }
            if entry.isMark { marks.append(entry.text) }
            let isWrite = !entry.isMark && !entry.flags.contains(.discard) && entry.byteCount > 0
            if isWrite { counts["write", default: 0] += 1 }
            if isWrite { byteCount += entry.byteCount }
            end = max(end, entry.offset + entry.byteCount)
        }
        let kinds = ["write", "flush", "fua", "metadata", "discard", "mark"]
        if options.json {
            var line = JSONLine(type: "log")
            line.add("schema", 1)
            line.add("version", 1)
            line.add("sector_bytes", log.sectorByteCount)
            line.add("entries", log.entryCount)
            for kind in kinds {
                line.add(kind == "metadata" ? kind : kind + (kind == "flush" ? "es" : "s"), counts[kind, default: 0])
            }
            line.add("written_bytes", byteCount)
            line.add("device_bytes", end)
            line.add("mark_labels", marks)
            line.add("problems", problems)
            Output.write(line.text)
        } else {
            Output.write("version 1, sectors of \(log.sectorByteCount) bytes, \(log.entryCount) entries\n")
            Output.write(kinds.map { "\($0) \(counts[$0, default: 0])" }.joined(separator: ", ") + "\n")
            Output.write("\(byteCount) bytes written, to a device of at least \(end) bytes\n")
            for mark in marks { Output.write("mark \(mark)\n") }
            for problem in problems { Output.write("problem: \(problem)\n") }
        }
        if !problems.isEmpty { throw Status(Status.damaged) }
    }
}

struct LogShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Print each entry of a log.")
    @OptionGroup var options: LogOptions

    func run() throws {
        var log = try options.open()
        while let entry = try log.next() {
            if options.json {
                var line = JSONLine(type: "entry")
                line.add("entry", entry.index)
                line.add("flags", entry.flagNames)
                line.add("offset", entry.isMark ? nil : entry.offset)
                line.add("bytes", entry.isMark ? nil : entry.byteCount)
                line.add("label", entry.isMark ? entry.text : nil)
                Output.write(line.text)
            } else if entry.isMark {
                Output.write("\(entry.index) mark \(entry.text)\n")
            } else {
                let what = entry.byteCount > 0 ? " \(entry.byteCount) bytes at \(entry.offset)" : ""
                let names = entry.flagNames.isEmpty ? "write" : entry.flagNames.joined(separator: ",")
                Output.write("\(entry.index) \(names)\(what)\n")
            }
        }
    }
}

struct LogApply: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Do to an image what the log did to its device, up to a point.",
        discussion: """
            The image must be the disk as it was before the log began (or before --from-entry): one of zeros for a log \
            that starts before mkfs. Without a point to stop at, all of the log is applied.
            """)
    @Option(help: ArgumentHelp("Stop after the entry with this number, from 0.", valueName: "n"))
    var toEntry: UInt64?
    @Option(help: ArgumentHelp("Stop after the next mark with exactly this label.", valueName: "label"))
    var toMark: String?
    @Flag(help: "Stop after the next write through to the medium: the next commit, as a rule.")
    var nextFUA = false
    @Option(help: ArgumentHelp("Leave out the entries before this one: they have been applied.", valueName: "n"))
    var fromEntry: UInt64 = 0
    @OptionGroup var options: LogOptions
    @Argument(help: ArgumentHelp("The image file or block device to write.", valueName: "image"), completion: .file())
    var image: String

    func validate() throws {
        guard (toEntry == nil ? 0 : 1) + (toMark == nil ? 0 : 1) + (nextFUA ? 1 : 0) <= 1 else {
            throw ValidationError("only one of --to-entry, --to-mark and --next-fua")
        }
    }

    private var stop: WriteLogReader.Stop {
        if let toEntry { return .entry(toEntry) }
        if let toMark { return .mark(toMark) }
        return nextFUA ? .flag(.throughToMedia) : .end
    }

    func run() throws {
        var log = try options.open()
        for _ in 0..<min(fromEntry, log.entryCount) { _ = try log.next() }
        let claim = try OpenImage.claim(image, forWriting: true)
        let target = try FileDevice(path: claim.path, readOnly: false)
        let last = try log.apply(until: stop, onto: target)
        try target.flush()
        guard last != nil || stop == .end else { throw Ext4Error.refused("the log ends before what was asked for") }
        if options.json {
            var line = JSONLine(type: "applied")
            line.add("last_entry", last?.index ?? (log.entryCount > 0 ? log.entryCount - 1 : nil))
            Output.write(line.text)
        } else {
            Output.write(last.map { "applied up to entry \($0.index)\n" } ?? "applied all of the log\n")
        }
        throw Status(Status.changed)
    }
}
