internal import ArgumentParser
internal import BlockIO
internal import Ext4Format

struct CrashMerge: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "merge", abstract: "Join the results of all parts of an exploration (crash explore --json).")
    @Flag(help: "Print JSON Lines, as docs/jext4-replay.md describes them.")
    var json = false
    @Option(help: ArgumentHelp("Write the results here too, as JUnit XML.", valueName: "file"), completion: .file())
    var junit: String?
    @Option(help: ArgumentHelp("Write the results here too, as a page.", valueName: "file"), completion: .file())
    var html: String?
    @Argument(help: ArgumentHelp("Results, as JSON Lines.", valueName: "result"), completion: .file())
    var results: [String]

    func run() throws {
        var whole: CrashResults?
        for path in results {
            guard let text = readText(path) else { throw Ext4Error.refused("cannot read \(path)") }
            let (part, badLine) = CrashResults.parse(text)
            guard let part else { throw Ext4Error.corrupt("results of an exploration", where: "\(path):\(badLine)") }
            if whole == nil {
                whole = part
            } else if whole?.merge(part) == false {
                throw Ext4Error.refused("\(path) is of another exploration than \(results[0])")
            }
        }
        guard let whole else { return }
        try CrashPages.write(whole, junit: junit, html: html)
        Output.write(json ? whole.text : CrashPages.summary(whole))
        if !whole.failures.isEmpty { throw Status(Status.damaged) }
    }
}
