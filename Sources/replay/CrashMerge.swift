internal import ArgumentParser
internal import BlockIO
internal import Ext4Format
internal import Glibc

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
            let (part, badLine) = CrashResults.parse(try Self.contents(path))
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

    private static func contents(_ path: String) throws(Ext4Error) -> String {
        guard let file = unsafe fopen(path, "r") else { throw .refused("cannot open \(path): \(systemText(errno))") }
        defer { unsafe fclose(file) }
        var bytes: [UInt8] = [], piece = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = unsafe fread(&piece, 1, piece.count, file)
            guard count > 0 else { break }
            bytes += piece[..<count]
        }
        guard unsafe ferror(file) == 0 else { throw .refused("cannot read \(path)") }
        return String(decoding: bytes, as: UTF8.self)
    }
}
