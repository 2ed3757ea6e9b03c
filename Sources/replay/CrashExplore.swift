internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format
internal import Glibc
internal import Offline

struct CrashExplore: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explore", abstract: "Check the states that a power cut may leave.",
        discussion: """
            With --check the command sees at most --limit states of each epoch: of few all, of many those that break \
            file systems most often, and then some by chance. Without it, on ext4, jext4's own recovery and checker \
            run on every state by lazy choice: as often as they can tell states apart, at most --limit times an epoch.
            """)

    enum Order: String, ExpressibleByArgument, CaseIterable {
        case any, completion
    }

    @OptionGroup var crash: CrashOptions
    @Option(help: "What the disk may do with the writes that nobody made durable: keep any, or the first so many.")
    var order: Order = .any
    @Option(help: ArgumentHelp("What the disk writes whole or not at all: 512 or 4096.", valueName: "bytes"))
    var sector = 512
    @Flag(help: "The disk has no cache: what completed is durable.")
    var noCache = false
    @Flag(help: "As a control: the disk forgets flushes.")
    var ignoreFlush = false
    @Flag(help: "As a control: the disk takes writes through to the medium for ordinary ones.")
    var ignoreFUA = false
    @Flag(help: "A sector whose last write nobody made durable may hold garbage as well.")
    var garbage = false
    @Option(help: ArgumentHelp("At most so many states, or runs of recovery, of one epoch.", valueName: "n"))
    var limit = 100
    @Option(help: ArgumentHelp("Of what is chosen by chance.", valueName: "n"))
    var seed = 1
    @Option(help: ArgumentHelp("Leave out what a power cut before this mark would leave.", valueName: "label"))
    var fromMark: String?
    @Option(help: ArgumentHelp("Only the I-th of N parts; crash merge joins their results.", valueName: "i/n"))
    var shard = "1/1"
    @Option(help: ArgumentHelp("So many at the same time; by default as many as there are cores.", valueName: "n"))
    var jobs: Int?
    @Option(help: ArgumentHelp("Write the results here too, as JUnit XML.", valueName: "file"), completion: .file())
    var junit: String?
    @Option(help: ArgumentHelp("Write the results here too, as a page.", valueName: "file"), completion: .file())
    var html: String?

    func validate() throws {
        guard sector == 512 || sector == 4096 else { throw ValidationError("--sector is 512 or 4096") }
        guard limit > 0, seed >= 0, jobs ?? 1 > 0 else {
            throw ValidationError("--limit and --jobs are positive, and --seed is not negative")
        }
        guard !garbage || order == .any else { throw ValidationError("--garbage goes with --order any") }
        guard part != nil else { throw ValidationError("--shard is I/N, with I from 1 to N") }
    }

    private var part: (index: Int, count: Int)? {
        let words = shard.split(separator: "/").map { Int($0) }
        guard words.count == 2, let index = words[0], let count = words[1], index >= 1, index <= count else {
            return nil
        }
        return (index - 1, count)
    }

    private var disk: DiskModel {
        var disk = DiskModel()
        disk.order = order == .any ? .any : .completion
        disk.unitByteCount = sector
        disk.hasCache = !noCache
        disk.honoursFlush = !ignoreFlush
        disk.honoursFUA = !ignoreFUA
        disk.leavesGarbage = garbage
        return disk
    }

    func run() throws {
        let logged = try crash.open()
        let base = try MemoryDevice.small(logged.device)
        let isOurs = crash.check == nil
        let model = try CrashModel(
            base: base, events: logged.events, disk: disk, sparing: isOurs ? StructureJudge.soleCopies(on: base) : [])
        let campaign = CrashResults.Campaign(
            log: crash.options.log, digest: logged.digest, disk: disk.name, seed: seed, check: crash.check,
            eventCount: logged.events.count)
        if isOurs && fromMark == nil { try Self.expectVolume(base) }
        let epochs = try wanted(model, logged.events)
        let exploration = CrashExploration(
            model, events: logged.events, CrashResults(campaign: campaign), epochs: epochs, limit: limit, seed: seed,
            part: part ?? (0, 1), progress: Progress.wanted(isForced: crash.options.progress))
        let cores = max(1, sysconf(CInt(_SC_NPROCESSORS_ONLN)))
        let results = try exploration.run(
            jobs: jobs ?? cores,
            isOurs ? .recovery : .command { choices, picks throws(Ext4Error) in try logged.run(choices, picks) })
        try CrashPages.write(results, junit: junit, html: html)
        Output.write(crash.options.json ? results.text : CrashPages.summary(results))
        if !results.failures.isEmpty { throw Status(Status.damaged) }
    }

    private static func expectVolume(_ base: any BlockDevice) throws(Ext4Error) {
        do throws(Ext4Error) {
            try StructureJudge().recover(OverlayDevice(over: base))
        } catch {
            throw .refused("jext4 cannot mount the disk before the log (\(error)); --check names another checker")
        }
    }

    private func wanted(_ model: CrashModel, _ events: [Trace.Event]) throws(Ext4Error) -> [CrashModel.Epoch] {
        guard let fromMark else { return model.epochs }
        let mark = events.firstIndex { if case .mark(fromMark) = $0 { true } else { false } }
        guard let mark else { throw .refused("the log has no mark \(fromMark)") }
        return model.epochs.filter { $0.event >= mark }
    }
}

extension MemoryDevice {
    /// A copy of a device that is small enough: it is read very often.
    static func small(_ device: any BlockDevice) throws(Ext4Error) -> any BlockDevice {
        guard device.byteCount <= 256 << 20, !(device is EmptyDevice) else { return device }
        let buffer = AlignedBuffer(byteCount: Int(device.byteCount))
        try device.read(into: buffer, at: 0)
        return MemoryDevice(
            buffer.withBytes { $0.array(0..<buffer.byteCount) }, sectorByteCount: device.sectorByteCount)
    }
}
