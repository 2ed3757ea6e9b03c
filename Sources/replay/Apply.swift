internal import ArgumentParser
internal import BlockIO
internal import Ext4Format
internal import FileSystem
internal import Journal
internal import Offline

struct Apply: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Replay the log into the image and mark it empty.",
        discussion: """
            Nothing is written before the whole log has been verified. A log with damage in its middle is left alone \
            unless --up-to or --up-to-damage says to apply what precedes the damage and to drop the rest for good.

            Examples:
              jext4-replay apply disk.img
              jext4-replay apply --undo disk.undo disk.img    and to take it back: jext4-replay undo disk.undo disk.img
              jext4-replay apply --output fixed.img disk.img
            """)
    @Option(
        help: ArgumentHelp(
            "Apply the transactions up to this one, and drop the later ones for good; the one before the first: none.",
            valueName: "tid"))
    var upTo: UInt32?
    @Flag(help: "Apply what precedes damage, and lose what lies behind it.")
    var upToDamage = false
    @Option(
        help: ArgumentHelp(
            "First save in this new file what will be changed, for jext4-replay undo or e2undo.", valueName: "file"),
        completion: .file())
    var undo: String?
    @Option(
        help: ArgumentHelp("Replay into a copy, this new file, and leave the image alone.", valueName: "file"),
        completion: .file())
    var output: String?
    @Flag(help: "Apply a log although the volume says that it needs no recovery.")
    var staleLog = false
    @Flag(name: .customLong("ignore-mmp"), help: "Nobody has the volume mounted, whatever its MMP block says.")
    var ignoreMMP = false
    @OptionGroup var options: ImageOptions

    func validate() throws {
        guard upTo == nil || !upToDamage else { throw ValidationError("--up-to says more than --up-to-damage") }
        guard undo == nil || output == nil else {
            throw ValidationError("--undo is for the image itself; --output leaves it alone")
        }
        guard undo == nil || options.journal == nil else {
            throw ValidationError("an undo file is of one device: it cannot take back what happens to --journal")
        }
    }

    func run() throws {
        let image = try OpenImage(options, forWriting: output == nil)
        let report = Report(json: options.json)
        guard let journal = image.volume.journal else {
            if let output { try image.copy(to: output) }
            return report.noJournal(options.image)
        }
        let plan = try image.plan(journal, upTo: upTo)
        try refuse(plan, report)
        guard !image.volume.isLogStale || staleLog else {
            throw Ext4Error.refused(
                "the log holds transactions, and the volume says that it needs no recovery (needs_recovery is clear): "
                    + "they may be older than what was written since; --stale-log applies them all the same")
        }
        let isNeeded = !plan.isEmpty || image.volume.needsRecovery
        if isNeeded && output == nil && !ignoreMMP { try OfflineVolume.requireUnused(image.device) }
        if isNeeded, let undo { try save(undo, image, plan, journal) }
        if let output { try image.copy(to: output) }
        guard isNeeded else { return report.end(of: plan) }
        do {
            let counters = try replay(plan, into: try image.writableVolume(output), image.progress)
            report.result(of: plan, counters)
        } catch {
            if let output { NewFile.remove(output) }
            throw error
        }
        report.end(of: plan)
        throw Status(plan.isDamaged ? Status.changed | Status.damaged : Status.changed)
    }

    /// What must not be applied, or not without its owner's word.
    private func refuse(_ plan: RecoveryPlan, _ report: Report) throws {
        if plan.isDamaged && !upToDamage && plan.limit == nil {
            report.end(of: plan)
            let last = plan.endID.rawValue &- 1
            let hint =
                plan.transactions.isEmpty
                ? "its first transaction is, and --up-to-damage would throw all of the log away"
                : "--up-to \(last) or --up-to-damage applies what precedes that"
            Output.write("jext4-replay: the log is damaged and was not applied; \(hint)\n", toErrors: true)
            throw Status(Status.damaged)
        }
    }

    /// On the medium before the image is opened for writing.
    private func save(
        _ path: String, _ image: OpenImage, _ plan: RecoveryPlan, _ journal: JournalLocation
    ) throws(Ext4Error) {
        let outcome = try image.volume.outcome(of: plan, journal)
        let writer = UndoWriter(
            of: outcome.blocks, on: image.device, blockByteCount: image.volume.superBlock.blockByteCount)
        try writer.save(to: path, superBlock: try outcome.after.superBlockBytes(), offset: options.offset)
    }

    private func replay(
        _ plan: RecoveryPlan, into volume: OfflineVolume, _ progress: Progress?
    ) throws(Ext4Error) -> ReplayCounters {
        guard let journal = volume.journal else { throw .corrupt("super block", where: "it has lost its journal") }
        defer { progress?.end() }
        return try volume.apply(plan, journal, progress: progress?.handler)
    }
}
