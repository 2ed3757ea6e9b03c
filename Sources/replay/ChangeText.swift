internal import Ext4Format
internal import FileSystem
internal import Offline

extension Report {
    /// All changes of one block: in the text a line for each subject, in JSON Lines one for each change.
    func changes(_ changes: [Change], of block: FSBlock) {
        if json {
            for change in changes { Output.write(Self.line(change, block).text) }
            return
        }
        var rest = changes[...]
        while let first = rest.first {
            let same = rest.prefix { $0.subject == first.subject }
            rest = rest.dropFirst(same.count)
            // What an inode held before it was created is of no interest.
            let isNew = same.contains { $0.field == "created" }
            let words = same.map { Self.text($0, isNew: isNew) }.joined(separator: ", ")
            Output.write("  \(Self.subject(first.subject)): \(words)\n")
        }
    }

    /// A name that a directory gains or loses; `path` is the directory's.
    func nameChange(_ change: Change, path: [UInt8]?) {
        var line = Self.line(change, nil)
        if let path { line.add("path", PrintableText.of(path)) }
        let place = path.map { " \(PrintableText.of($0))" } ?? ""
        say("\(Self.subject(change.subject))\(place): \(Self.text(change, isNew: false))", line)
    }

    // MARK: Text

    private static func subject(_ subject: Change.Subject) -> String {
        let (kind, number) = name(subject)
        guard let number else { return kind }
        switch subject {
        case .blockBitmap, .inodeBitmap: return "\(kind) of group \(number)"
        case .directory: return "\(kind) of inode \(number)"
        case .part: return "\(kind) of inode \(number)"
        default: return "\(kind) \(number)"
        }
    }

    private static func name(_ subject: Change.Subject) -> (kind: String, number: UInt32?) {
        switch subject {
        case .superBlock: ("super block", nil)
        case .group(let number): ("group", number)
        case .blockBitmap(let group): ("block bitmap", group)
        case .inodeBitmap(let group): ("inode bitmap", group)
        case .inode(let number): ("inode", number)
        case .directory(let number): ("directory", number)
        case .part(let kind, let inode): (kind.rawValue, inode)
        case .orphanFile: ("orphan file", nil)
        case .block: ("block", nil)
        }
    }

    /// Fields of which a structure has any number: each is there or is not.
    private static let members: Set<String> = ["extent", "tree block", "entry", "inode", "attribute"]

    private static func text(_ change: Change, isNew: Bool) -> String {
        let isMember = members.contains(change.field)
        switch (change.before, change.after) {
        case (.name(let name, let old), .name(_, let new)):
            return "name \(PrintableText.of(name)) is inode \(new), was \(old)"
        case (nil, .name(let name, let inode)): return "name \(PrintableText.of(name)) added (inode \(inode))"
        case (.name(let name, let inode), nil): return "name \(PrintableText.of(name)) removed (inode \(inode))"
        case (let old?, let new?):
            return isNew ? "\(change.field) \(text(new))" : "\(change.field) \(text(old)) -> \(text(new))"
        case (nil, let value?):
            if change.field.hasSuffix("differ") { return "\(text(value)) \(change.field)" }
            return "\(change.field) \(text(value))" + (isMember ? " added" : "")
        case (let value?, nil): return "\(change.field) \(text(value))" + (isMember ? " removed" : "")
        case (nil, nil): return change.field
        }
    }

    private static func text(_ value: Change.Value) -> String {
        switch value {
        case .number(let number): return "\(number)"
        case .mode(let mode): return "0" + String(mode, radix: 8)
        case .flags(let flags): return "0x" + String(flags, radix: 16)
        case .time(let time): return Report.time(time)
        case .text(let bytes): return PrintableText.of(bytes)
        case .run(let first, let last): return first == last ? "\(first)" : "\(first)-\(last)"
        case .extent(let extent):
            let unwritten = extent.isUnwritten ? " unwritten" : ""
            return "\(extent.first.rawValue)-\(extent.end - 1) at \(extent.start.rawValue)\(unwritten)"
        case .name(let name, let inode): return "\(PrintableText.of(name)) (inode \(inode))"
        }
    }

    // MARK: JSON Lines

    private static func line(_ change: Change, _ block: FSBlock?) -> JSONLine {
        var line = JSONLine(type: "change")
        line.add("block", block?.rawValue)
        let (kind, number) = name(change.subject)
        line.add("of", kind)
        line.add("number", number)
        line.add("field", change.field)
        if case .name(let name, _) = change.before ?? change.after { line.add("name", PrintableText.of(name)) }
        add("before", change.before, to: &line)
        add("after", change.after, to: &line)
        return line
    }

    private static func add(_ key: String, _ value: Change.Value?, to line: inout JSONLine) {
        switch value {
        case .number(let number): line.add(key, number)
        case .name(_, let inode): line.add(key, inode)
        case .run(let first, let last):
            line.add(key, text(.run(first, last)))
            line.add("first", first)
            line.add("last", last)
        case .extent(let extent):
            line.add(key, text(.extent(extent)))
            line.add("file_block", extent.first.rawValue)
            line.add("first", extent.start.rawValue)
            line.add("last", extent.start.rawValue + UInt64(extent.count) - 1)
            line.add("unwritten", extent.isUnwritten)
        case let other?: line.add(key, text(other))
        case nil: line.add(key, nil as String?)
        }
    }

    /// Puts the sums into the line, and answers them in words.
    static func add(_ summary: ReplayChanges.Summary, to line: inout JSONLine) -> String {
        line.add("blocks_taken", summary.blocksTaken)
        line.add("blocks_freed", summary.blocksFreed)
        line.add("inodes_created", summary.inodesCreated)
        line.add("inodes_deleted", summary.inodesDeleted)
        line.add("inodes_changed", summary.inodesChanged)
        line.add("names_added", summary.namesAdded)
        line.add("names_removed", summary.namesRemoved)
        line.add("names_replaced", summary.namesReplaced)
        return """

            blocks: \(summary.blocksTaken) taken, \(summary.blocksFreed) freed; \
            inodes: \(summary.inodesCreated) created, \(summary.inodesDeleted) deleted, \
            \(summary.inodesChanged) changed; names: \(summary.namesAdded) added, \
            \(summary.namesRemoved) removed, \(summary.namesReplaced) replaced
            """
    }
}
