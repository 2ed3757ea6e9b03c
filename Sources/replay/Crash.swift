internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format

struct Crash: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check what a power cut may leave, at any moment of a dm-log-writes log, for any file system.",
        discussion: """
            See docs/CRASH-TESTING.md.

            Examples:
              jext4-replay crash explore run.log --base before.img
              jext4-replay crash explore run.log --base before.img --check 'fsck.xyz -y {} && fsck.xyz -n {}'
              jext4-replay crash repro 5c1e09ab77d2f310-any512-12-0x57.1x8 run.log --base before.img --output bad.img
            """,
        subcommands: [CrashExplore.self, CrashRepro.self, CrashMerge.self])
}

/// The log, the disk before it, and who judges.
struct CrashOptions: ParsableArguments {
    @OptionGroup var start: BaseOptions
    @Option(
        help: ArgumentHelp(
            "Run this by sh for each state, with {} for the image. A status other than 0 is a failure, and so is a "
                + "signal.", valueName: "command"))
    var check: String?
    @OptionGroup var options: LogOptions

    func validate() throws {
        guard check?.contains("{}") ?? true else { throw ValidationError("--check has {} in the place of the image") }
    }

    func open() throws(Ext4Error) -> LoggedDisk { try LoggedDisk(self) }
}

/// A trace and the disk that it began with, claimed.
struct LoggedDisk {
    let device: any BlockDevice
    let events: [Trace.Event]
    let digest: String
    let check: CheckCommand
    private let base: BaseDisk

    init(_ options: CrashOptions) throws(Ext4Error) {
        var log = try options.options.open()
        base = try options.start.open(options.options)
        device = base.device
        events = try Trace.events(of: &log)
        digest = CrashModel.digest(events)
        let words = options.check.map { ["sh", "-c", $0] } ?? []
        check = CheckCommand(words: words, base: base.path, byteCount: device.byteCount)
    }

    /// What the command has against one state: how it failed and what it said, or nothing.
    func run(_ choices: EpochChoices, _ picks: Picks) throws(Ext4Error) -> [String] {
        let outcome = try check.check { target throws(Ext4Error) in try Self.put(choices, picks, onto: target) }
        return outcome.isGood ? [] : ["the command failed, \(outcome.how)"] + outcome.said
    }

    static func put(_ choices: EpochChoices, _ picks: Picks, onto target: FileDevice) throws(Ext4Error) {
        let size = target.sectorByteCount
        try choices.forEachTouched(picks) { offset, bytes throws(Ext4Error) in
            precondition(bytes.byteCount % size == 0)
            try target.write(bytes, at: offset, mode: .cached)
        }
    }
}
