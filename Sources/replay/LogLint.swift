internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format
internal import FileSystem

struct LogLint: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lint", abstract: "Follow the ext4 journal through a log and name each breach of its rules.",
        discussion: """
            Marks "fsync:..." and "sync:..." right behind such a call, by the only one at work, are held against it. \
            docs/jext4-replay.md lists the rules, and which of them a log of this format cannot show.
            """)
    @OptionGroup var start: BaseOptions
    @OptionGroup var options: LogOptions

    func run() throws {
        let log = try options.open()
        let base = try start.open(options)
        let progress = Progress.wanted(isForced: options.progress)
        let (violations, transactions) = try ProtocolLinter.lint(log, base: base.device) { index in
            progress?.show("linting, entry", done: Int(index), total: Int(log.entryCount))
        }
        progress?.end()
        for violation in violations {
            guard options.json else {
                Output.write("\(violation)\n")
                continue
            }
            var line = JSONLine(type: "violation")
            line.add("rule", violation.rule.id)
            line.add("entry", violation.event)
            line.add("block", violation.block)
            line.add("text", violation.text)
            Output.write(line.text)
        }
        if options.json {
            var line = JSONLine(type: "linted")
            line.add("transactions", transactions)
            line.add("violations", violations.count)
            Output.write(line.text)
        } else {
            for rule in ProtocolRule.allCases where violations.contains(where: { $0.rule == rule }) {
                Output.write("\(rule.id) says: \(rule.text)\n")
            }
            Output.write("\(transactions) transactions, \(violations.count) breaches\n")
        }
        if !violations.isEmpty { throw Status(Status.damaged) }
    }
}
