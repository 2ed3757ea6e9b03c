internal import ArgumentParser
internal import Ext4Format
internal import FileSystem
internal import Glibc

struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jext4-replay",
        abstract: "Show, plan and apply what the journal of an unmounted ext4 image holds.",
        discussion:
            "Exits as fsck does: 0 nothing to do, 1 replayed, 4 damage, 8 failed, 16 usage. See jext4-replay(1).",
        version: Product.version, subcommands: [Show.self, Plan.self, Apply.self])

    /// Parses and runs; answers the exit status. ArgumentParser's own status for a bad command line is not fsck's.
    static func start(_ arguments: [String]) -> CInt {
        var command: any ParsableCommand
        do {
            command = try parseAsRoot(arguments)
        } catch {
            let isHelp = exitCode(for: error).isSuccess
            Output.write(fullMessage(for: error) + "\n", toErrors: !isHelp)
            return isHelp ? Status.nothing : Status.usage
        }
        do {
            try command.run()
            return Status.nothing
        } catch let status as Status {
            return status.code
        } catch let error as Ext4Error {
            Output.write("jext4-replay: \(error)\n", toErrors: true)
            return Status(of: error).code
        } catch {
            // Only --help and the like of a command without a body end here.
            let isHelp = exitCode(for: error).isSuccess
            Output.write(fullMessage(for: error) + "\n", toErrors: !isHelp)
            return isHelp ? Status.nothing : Status.usage
        }
    }
}

/// fsck's exit bits, thrown by a command that ends with another than 0.
struct Status: Error {
    let code: CInt
    static var nothing: CInt { 0 }
    static var replayed: CInt { 1 }
    static var damaged: CInt { 4 }
    static var failed: CInt { 8 }
    static var usage: CInt { 16 }

    init(_ code: CInt) { self.code = code }

    /// What contradicts itself was left as it is; what could not be read, written or claimed is operational.
    init(of error: Ext4Error) {
        switch error {
        case .corrupt, .unsupported: code = Self.damaged
        case .io, .aborted, .posix, .refused: code = Self.failed
        }
    }
}

/// What every command takes.
struct ImageOptions: ParsableArguments {
    @Flag(help: "Print JSON Lines, as docs/jext4-replay.md describes them.")
    var json = false
    @Option(help: "Byte of the file where the volume begins, a multiple of 512.")
    var offset: UInt64 = 0
    @Argument(help: ArgumentHelp("An image file or block device with ext4.", valueName: "image"), completion: .file())
    var image: String

    func validate() throws {
        guard offset % 512 == 0 else { throw ValidationError("--offset must be a multiple of 512") }
    }
}

struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print every transaction in the log with a verdict, and why the log ends where it ends.",
        discussion: "Reads only.")
    @Flag(help: "Also print each logged block and each revoke.")
    var blocks = false
    @OptionGroup var options: ImageOptions

    func run() throws {
        let image = try OpenImage(options, forWriting: false)
        let report = Report(json: options.json)
        guard let journal = image.volume.journal else { return report.noJournal(options.image) }
        report.journal(image, journal)
        let plan = try image.volume.plan(journal, detail: blocks ? .everything : .copies)
        let owners = blocks ? BlockOwners(image) : nil
        for (transactions, isApplied) in [(plan.transactions, true), (plan.unapplied, false)] {
            for transaction in transactions {
                report.transaction(transaction, isApplied: isApplied)
                guard let owners else { continue }
                for block in transaction.blocks {
                    report.block(block, of: transaction, owner: owners.name(of: block.home))
                }
                try plan.forEachRevoke(of: transaction, in: journal.log) { report.revoke($0, of: transaction) }
            }
        }
        report.end(of: plan)
        if plan.isDamaged { throw Status(Status.damaged) }
    }
}

struct Plan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print each block that apply would write, and whether that changes it.", discussion: "Reads only.")
    @OptionGroup var options: ImageOptions

    func run() throws {
        let image = try OpenImage(options, forWriting: false)
        let report = Report(json: options.json)
        guard let journal = image.volume.journal else { return report.noJournal(options.image) }
        let plan = try image.volume.plan(journal)
        let owners = BlockOwners(image)
        let changes = try image.changes(by: plan, journal)
        for (copy, isChange) in zip(plan.copies, changes) {
            report.write(copy, isChange: isChange, owner: owners.name(of: copy.home))
        }
        report.summary(of: plan, changes: changes.count { $0 })
        report.end(of: plan)
        if plan.isDamaged || plan.hasFastCommits { throw Status(Status.damaged) }
    }
}

struct Apply: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Replay the log into the image and mark it empty.",
        discussion: """
            Nothing is written before the whole log has been verified. A log with damage in its middle is left alone \
            unless --up-to-damage says to apply what precedes the damage and to drop the rest for good.
            """)
    @Flag(help: "Apply what precedes damage, and lose what lies behind it.")
    var upToDamage = false
    @OptionGroup var options: ImageOptions

    func run() throws {
        let image = try OpenImage(options, forWriting: true)
        let report = Report(json: options.json)
        guard let journal = image.volume.journal else { return report.noJournal(options.image) }
        let plan = try image.volume.plan(journal)
        if plan.hasFastCommits {
            report.end(of: plan)
            throw Ext4Error.unsupported(
                features: ["fast_commit"], hint: "the log ends with fast commits, which only Linux replays so far")
        }
        if plan.isDamaged && !upToDamage {
            report.end(of: plan)
            Output.write("jext4-replay: the log is damaged and was not applied; see --up-to-damage\n", toErrors: true)
            throw Status(Status.damaged)
        }
        guard !plan.isEmpty || image.volume.needsRecovery else {
            report.end(of: plan)
            return
        }
        let counters = try image.volume.apply(plan, journal)
        report.result(of: plan, counters)
        report.end(of: plan)
        throw Status(plan.isDamaged ? Status.replayed | Status.damaged : Status.replayed)
    }
}
