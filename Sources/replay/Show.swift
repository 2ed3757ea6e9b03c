internal import ArgumentParser
internal import Ext4Format
internal import FileSystem
internal import Journal

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
