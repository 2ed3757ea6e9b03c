internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Offline

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
    @Option(
        help: ArgumentHelp("The disk before the log began; without it, one of zeros.", valueName: "image"),
        completion: .file())
    var base: String?
    @Option(help: ArgumentHelp("Of the disk without --base; as far as the log reaches by default.", valueName: "bytes"))
    var size: UInt64?
    @Option(help: ArgumentHelp("Check nothing before the mark with this label.", valueName: "label"))
    var fromMark: String?
    @Flag(help: "Go on after a failure.")
    var keepGoing = false
    @OptionGroup var options: LogOptions
    @Argument(parsing: .postTerminator, help: ArgumentHelp("The command, with {} for the image.", valueName: "command"))
    var command: [String]

    func validate() throws {
        guard command.contains(where: { $0.contains("{}") }) else {
            throw ValidationError("the command comes behind --, and has {} in the place of the image")
        }
        guard size.map({ $0 > 0 && $0 % 4096 == 0 }) ?? true else {
            throw ValidationError("--size must be a multiple of 4096")
        }
    }

    func run() throws {
        var log = try options.open()
        let claim = try base.map { name throws(Ext4Error) in try OpenImage.claim(name, forWriting: false) }
        let byteCount = try size ?? reach()
        let below: any BlockDevice =
            if let claim { try FileDevice(path: claim.path, readOnly: true) } else {
                EmptyDevice(byteCount: byteCount, sectorByteCount: log.sectorByteCount)
            }
        let disk = OverlayDevice(over: below)
        if let fromMark, try log.apply(until: .mark(fromMark), onto: disk) == nil {
            throw Ext4Error.refused("the log has no mark \(fromMark)")
        }
        let progress = Progress.wanted(isForced: options.progress)
        var (checks, failures) = (0, 0)
        while let entry = try log.next() {
            try log.apply(entry, onto: disk)
            progress?.show("checking, entry", done: Int(entry.index), total: Int(log.entryCount))
            guard isChosen(entry) else { continue }
            let status = try check(disk, claim?.path)
            checks += 1
            if status != 0 { failures += 1 }
            report(entry, status)
            if status != 0 && !keepGoing { break }
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

    /// As far as any entry reaches, rounded up to whole MiB.
    private func reach() throws(Ext4Error) -> UInt64 {
        var log = try options.open()
        var end: UInt64 = 0
        while let entry = try log.next() { end = max(end, entry.offset + entry.byteCount) }
        let unit: UInt64 = 1 << 20
        return max(1, (end + unit - 1) / unit) * unit
    }

    private func report(_ entry: WriteLogEntry, _ status: CInt) {
        if options.json {
            var line = JSONLine(type: "check")
            line.add("entry", entry.index)
            line.add("status", status < 128 ? status : nil)
            line.add("signal", status < 128 ? nil : status - 128)
            Output.write(line.text)
        } else if status != 0 {
            let how = status < 128 ? "status \(status)" : "killed by signal \(status - 128)"
            Output.write("entry \(entry.index): the command failed, \(how)\n")
        }
    }

    /// Runs the command on a copy of `disk`: its status, or 128 and the signal that killed it.
    private func check(_ disk: OverlayDevice, _ base: String?) throws(Ext4Error) -> CInt {
        let folder = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        let path = "\(folder)/jext4-replay-\(getpid()).img"
        if let base {
            try ImageCopy.make(of: base, at: path)
        } else {
            try NewFile.make(path, byteCount: disk.byteCount)
        }
        defer { NewFile.remove(path) }
        let copy = try FileDevice(path: path, readOnly: false)
        try disk.forEachChange { offset, bytes throws(Ext4Error) in try copy.write(bytes, at: offset, mode: .cached) }
        return try spawn(command.map { Self.replacing($0, with: path) })
    }

    private static func replacing(_ word: String, with path: String) -> String {
        var result = "", rest = word[...]
        while let brace = rest.firstIndex(of: "{") {
            result += rest[..<brace]
            rest = rest[brace...]
            let isPlace = rest.hasPrefix("{}")
            result += isPlace ? path : "{"
            rest = rest.dropFirst(isPlace ? 2 : 1)
        }
        return result + rest
    }

    /// What it says goes to standard error: standard output has the results.
    private func spawn(_ words: [String]) throws(Ext4Error) -> CInt {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO)
        var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
        defer { unsafe arguments.forEach { unsafe free($0) } }
        var process = pid_t()
        let result = unsafe posix_spawnp(&process, words[0], &actions, nil, &arguments, environ)
        guard result == 0 else { throw .refused("cannot run \(words[0]): \(systemText(result))") }
        var status: CInt = 0
        while unsafe waitpid(process, &status, 0) < 0 {
            guard errno == EINTR else { throw .refused("cannot wait for \(words[0]): \(systemText(errno))") }
        }
        return status & 0x7f == 0 ? status >> 8 & 0xff : 128 + status & 0x7f
    }
}
