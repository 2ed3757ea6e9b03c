internal import ArgumentParser
internal import Ext4Format
internal import FileSystem

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
        if plan.isDamaged { throw Status(Status.damaged) }
    }
}
