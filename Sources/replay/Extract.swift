internal import ArgumentParser
internal import BlockIO
internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Journal
internal import Offline

struct Extract: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write a logged version of one block, as its home would hold it.",
        discussion: """
            Reads only. Without --tid it is the newest version in a transaction that replay applies, whether a later \
            revoke hides it or not. Its checksum is verified.

            Examples:
              jext4-replay extract --block 2331 --list disk.img
              jext4-replay extract --block 2331 disk.img | xxd
              jext4-replay extract --block 2331 --tid 17 --output block.bin disk.img
            """)
    @Option(help: "The block of the volume.")
    var block: UInt64
    @Option(help: "The transaction whose version is wanted, applied or not.")
    var tid: UInt32?
    @Flag(help: "List the versions instead, oldest first.")
    var list = false
    @Option(
        name: [.short, .long], help: ArgumentHelp("Write to this new file.", valueName: "file"), completion: .file())
    var output: String?
    @OptionGroup var options: ImageOptions

    private typealias Version = (
        block: RecoveryPlan.LoggedBlock, transaction: RecoveryPlan.LoggedTransaction, isApplied: Bool, isRevoked: Bool
    )

    func validate() throws {
        guard !list || tid == nil && output == nil else { throw ValidationError("--list writes no block") }
        guard list || !options.json else { throw ValidationError("--json is for --list: a block is bytes") }
    }

    func run() throws {
        let image = try OpenImage(options, forWriting: false)
        let report = Report(json: options.json)
        guard let journal = image.volume.journal else { return report.noJournal(options.image) }
        let plan = try image.plan(journal, detail: .everything)
        let versions = try versions(plan, journal)
        if list {
            for one in versions {
                report.version(one.block, of: one.transaction, isApplied: one.isApplied, isRevoked: one.isRevoked)
            }
            return
        }
        let wanted = versions.last {
            tid.map(TransactionID.init(_:)) == $0.transaction.id || tid == nil && $0.isApplied
        }
        guard let wanted else {
            let place = tid.map { "transaction \($0) does not hold" } ?? "no transaction that is applied holds"
            throw Ext4Error.refused("\(place) a copy of block \(block)")
        }
        let bytes = try journal.log.copy(
            at: wanted.block.position, of: wanted.transaction.id, isEscaped: wanted.block.isEscaped,
            checksum: wanted.block.checksum, plan.superBlock)
        try write(bytes)
    }

    /// In the order of the log.
    private func versions(_ plan: RecoveryPlan, _ journal: JournalLocation) throws(Ext4Error) -> [Version] {
        let home = FSBlock(block)
        var versions: [Version] = []
        for (transactions, isApplied) in [(plan.transactions, true), (plan.unapplied, false)] {
            for transaction in transactions {
                for block in transaction.blocks where block.home == home {
                    versions.append((block, transaction, isApplied, false))
                }
                // A revoke hides what its own transaction and older ones logged; one that is not applied hides nothing
                // of what is.
                var isRevoked = false
                try plan.forEachRevoke(of: transaction, in: journal.log) { if $0 == home { isRevoked = true } }
                guard isRevoked else { continue }
                for index in versions.indices where isApplied || !versions[index].isApplied {
                    versions[index].isRevoked = true
                }
            }
        }
        return versions
    }

    private func write(_ bytes: AlignedBuffer) throws(Ext4Error) {
        guard let output else {
            guard isatty(STDOUT_FILENO) == 0 else {
                throw .refused("a block is not for a terminal: use --output or a pipe")
            }
            return Output.write(bytes.withBytes { $0.array(0..<bytes.byteCount) })
        }
        try NewFile.make(output, byteCount: UInt64(bytes.byteCount))
        do throws(Ext4Error) {
            let file = try FileDevice(path: output, readOnly: false, direct: .never)
            try file.write(bytes, at: 0)
            try file.flush()
            try NewFile.syncName(output)
        } catch {
            NewFile.remove(output)
            throw error
        }
    }
}
