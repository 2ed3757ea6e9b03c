internal import ArgumentParser
internal import Ext4Format
internal import FileSystem
internal import Journal
internal import Offline

struct Plan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print each block that apply would write, and what that changes, by name.",
        discussion: """
            Reads only. Each block comes with its owner and with what differs in it: fields of inodes and of the super \
            block, runs of bitmaps, extents. The names that directories gain and lose follow, then the sums.

            Examples:
              jext4-replay plan disk.img
              jext4-replay plan --json disk.img | jq 'select(.of == "directory")'
            """)
    @Option(help: ArgumentHelp("As apply --up-to.", valueName: "tid"))
    var upTo: UInt32?
    @OptionGroup var options: ImageOptions

    func run() throws {
        let image = try OpenImage(options, forWriting: false)
        let report = Report(json: options.json)
        guard let journal = image.volume.journal else { return report.noJournal(options.image) }
        let plan = try image.plan(journal, upTo: upTo)
        var inspection = try Inspection(image, plan, journal)
        var copies = plan.copies[...], changedCount = 0, otherCount = 0
        for block in inspection.blocks {
            let copy = copies.first?.home == block ? copies.popFirst() : nil
            let changes = try inspection.changes(of: block)
            // Beside what was logged: what fast commits come to, and the super block when all is done.
            guard copy != nil || changes != nil else { continue }
            report.write(block, copy, isChange: changes != nil, owner: try inspection.owner(of: block))
            if changes != nil { if copy == nil { otherCount += 1 } else { changedCount += 1 } }
            report.changes(changes ?? [], of: block)
        }
        for change in inspection.nameChanges() {
            guard case .directory(let directory) = change.subject else { continue }
            report.nameChange(change, path: try inspection.path(of: InodeNumber(directory)))
        }
        report.summary(of: plan, changes: changedCount, others: otherCount, inspection.summary)
        report.end(of: plan)
        if plan.isDamaged && plan.limit == nil { throw Status(Status.damaged) }
    }
}
