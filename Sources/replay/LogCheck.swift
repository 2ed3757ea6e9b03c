internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format
internal import FileSystem

struct LogCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Run a command on the disk as it was after each of the chosen entries.",
        discussion: """
            The command gets a fresh copy each time, in place of {}, and may write it: what it does is not seen by the \
            next one. A status other than 0 is a failure, and so is a signal. The copy is a sparse file in TMPDIR \
            (/tmp) and goes away.

            Example:
              jext4-replay log check --each fua --from-mark mounted run.log -- sh -c \
            'e2fsck -y -E journal_only {}; e2fsck -fn {}'
            """)

    enum Each: String, ExpressibleByArgument, CaseIterable {
        case fua, flush, entry
    }

    @Option(help: "After which entries: fua, flush or entry.")
    var each: Each
    @OptionGroup var start: BaseOptions
    @Option(help: ArgumentHelp("Check nothing before the mark with this label.", valueName: "label"))
    var fromMark: String?
    @Flag(help: "Go on after a failure.")
    var keepGoing = false
    @OptionGroup var options: LogOptions
    @Argument(parsing: .postTerminator, help: ArgumentHelp("The command, with {} for the image.", valueName: "command"))
    var command: [String]

    func validate() throws {
        guard CheckCommand.hasPlace(command) else {
            throw ValidationError("the command comes behind --, and has {} in the place of the image")
        }
    }

    func run() throws {
        var log = try options.open()
        let base = try start.open(options)
        let disk = OverlayDevice(over: base.device)
        if let fromMark, try log.apply(until: .mark(fromMark), onto: disk) == nil {
            throw Ext4Error.refused("the log has no mark \(fromMark)")
        }
        let copy = CheckCommand(words: command, base: base.path, byteCount: disk.byteCount)
        let progress = Progress.wanted(isForced: options.progress)
        var (checks, failures) = (0, 0)
        while let entry = try log.next() {
            try log.apply(entry, onto: disk)
            progress?.show("checking, entry", done: Int(entry.index), total: Int(log.entryCount))
            guard isChosen(entry) else { continue }
            let outcome = try copy.check { target throws(Ext4Error) in
                try disk.forEachChange { offset, bytes throws(Ext4Error) in
                    try target.write(bytes, at: offset, mode: .cached)
                }
            }
            checks += 1
            if !outcome.isGood { failures += 1 }
            report(entry, outcome)
            if !outcome.isGood && !keepGoing { break }
        }
        progress?.end()
        if options.json {
            var line = JSONLine(type: "checked")
            line.add("checks", checks)
            line.add("failures", failures)
            Output.write(line.text)
        } else {
            Output.write("\(checks) checks, \(failures) failures\n")
        }
        if failures > 0 { throw Status(Status.damaged) }
    }

    private func isChosen(_ entry: WriteLogEntry) -> Bool {
        switch each {
        case .fua: entry.flags.contains(.throughToMedia)
        case .flush: entry.flags.contains(.flush)
        case .entry: !entry.isMark
        }
    }

    private func report(_ entry: WriteLogEntry, _ outcome: CheckCommand.Outcome) {
        if options.json {
            var line = JSONLine(type: "check")
            line.add("entry", entry.index)
            line.add("status", outcome.status)
            line.add("signal", outcome.signal)
            if !outcome.isGood { line.add("said", outcome.said) }
            Output.write(line.text)
        } else if !outcome.isGood {
            Output.write("entry \(entry.index): the command failed, \(outcome.how)\n")
            for said in outcome.said { Output.write("    \(said)\n") }
        }
    }
}
