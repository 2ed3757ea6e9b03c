internal import ArgumentParser
internal import Ext4Format
internal import FileSystem
internal import Journal

struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print every transaction in the log with a verdict, and why the log ends where it ends.",
        discussion: """
            Reads only. The owner of a block is the one that it has after the replay; "formerly" says that it is \
            the one from before, since nothing owns the block afterwards.

            Examples:
              jext4-replay show disk.img
              jext4-replay show --blocks disk.img
              jext4-replay show --blocks --json disk.img | jq 'select(.owner_kind == "directory")'
            """)
    @Flag(help: "Also print each logged block with its owner, and each revoke.")
    var blocks = false
    @OptionGroup var options: ImageOptions

    func run() throws {
        let image = try OpenImage(options, forWriting: false)
        let report = Report(json: options.json)
        guard let journal = image.volume.journal else { return report.noJournal(options.image) }
        report.journal(image, journal)
        let plan = try image.plan(journal, detail: blocks ? .everything : .copies)
        let all = [(plan.transactions, true), (plan.unapplied, false)]
        let homes = all.flatMap { $0.0 }.flatMap { $0.blocks.lazy.map(\.home) }
        var inspection = blocks ? try Inspection(image, plan, journal, others: homes) : nil
        for (transactions, isApplied) in all {
            for transaction in transactions {
                report.transaction(transaction, isApplied: isApplied)
                guard blocks else { continue }
                for block in transaction.blocks {
                    report.block(block, of: transaction, owner: try inspection?.owner(of: block.home))
                }
                try plan.forEachRevoke(of: transaction, in: journal.log) { report.revoke($0, of: transaction) }
            }
        }
        if let fastCommits = plan.fastCommits { report.fastCommits(fastCommits, withRecords: blocks) }
        report.end(of: plan)
        if plan.isDamaged { throw Status(Status.damaged) }
    }
}
