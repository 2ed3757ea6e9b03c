internal import Ext4Format
internal import FileSystem
internal import Journal

enum FastCommitText {
    /// How many there are, and why there are no more.
    static func end(of log: FastCommitLog) -> String {
        let count = log.commits.count
        let text = "\(count) fast commit\(count == 1 ? "" : "s") of transaction \(log.transaction.rawValue)"
        return switch log.end {
        case .absent, .clean: text
        case .torn(let problem): text + ", then a torn one: \(problem.what) at log block \(problem.position)"
        case .damaged(let problem): text + ", then DAMAGE: \(problem.what) at log block \(problem.position)"
        }
    }
}

extension Report {
    /// Each fast commit, if wanted each of its records, and why they end where they end.
    func fastCommits(_ log: FastCommitLog, withRecords: Bool) {
        if log.end == .absent { return }
        for (index, commit) in log.commits.enumerated() {
            var line = JSONLine(type: "fast_commit")
            line.add("transaction", log.transaction.rawValue)
            line.add("log_block", commit.blocks.lowerBound)
            line.add("last_log_block", commit.blocks.upperBound - 1)
            line.add("records", commit.records.count)
            line.add("verdict", "good")
            var text = "fast commit \(index + 1) of transaction \(log.transaction.rawValue) "
            text += "at log block \(commit.blocks.lowerBound): \(commit.records.count) records, good"
            say(text, line)
            guard withRecords else { continue }
            for record in commit.records { self.record(record, of: log.transaction) }
        }
        end(of: log)
    }

    private func end(of log: FastCommitLog) {
        var line = JSONLine(type: "fast_commit_end")
        line.add("transaction", log.transaction.rawValue)
        line.add("fast_commits", log.commits.count)
        switch log.end {
        case .absent, .clean: line.add("reason", "clean")
        case .torn(let problem):
            line.add("reason", "torn")
            Self.add(problem, to: &line)
        case .damaged(let problem):
            line.add("reason", "damaged")
            Self.add(problem, to: &line)
        }
        // In the text the end of the whole log says it.
        if json { Output.write(line.text) }
    }

    private static func add(_ problem: FastCommitLog.Problem, to line: inout JSONLine) {
        line.add("problem", problem.what)
        line.add("problem_log_block", problem.position)
    }

    // MARK: Records

    private func record(_ record: FastCommitRecord, of transaction: TransactionID) {
        var line = JSONLine(type: "fast_commit_record")
        line.add("transaction", transaction.rawValue)
        let text: String
        switch record {
        case .addRange(let inode, let extent):
            line.add("tag", "add_range")
            line.add("inode", inode.rawValue)
            line.add("file_block", extent.first.rawValue)
            line.add("blocks", extent.count)
            line.add("first", extent.start.rawValue)
            line.add("unwritten", extent.isUnwritten)
            text =
                "add range: file blocks \(extent.first.rawValue)-\(extent.end - 1) of inode \(inode.rawValue) "
                + "at \(extent.start.rawValue)\(extent.isUnwritten ? " unwritten" : "")"
        case .deleteRange(let inode, let range):
            line.add("tag", "delete_range")
            line.add("inode", inode.rawValue)
            line.add("file_block", range.lowerBound)
            line.add("blocks", range.count)
            text =
                range.isEmpty
                ? "delete range: nothing of inode \(inode.rawValue)"
                : "delete range: file blocks \(range.lowerBound)-\(range.upperBound - 1) of inode \(inode.rawValue)"
        case .create(let name): text = Self.name("create", name, &line)
        case .link(let name): text = Self.name("link", name, &line)
        case .unlink(let name): text = Self.name("unlink", name, &line)
        case .inode(let inode, let bytes): text = Self.inode(inode, bytes, &line)
        case .pad, .tail, .head: return
        }
        say("  \(text)", line)
    }

    private static func name(_ tag: String, _ name: FastCommitRecord.Name, _ line: inout JSONLine) -> String {
        let shown = PrintableText.of(name.bytes)
        line.add("tag", tag)
        line.add("inode", name.inode.rawValue)
        line.add("parent", name.parent.rawValue)
        line.add("name", shown)
        return "\(tag): name \(shown) in directory \(name.parent.rawValue), inode \(name.inode.rawValue)"
    }

    /// The record holds what of the inode's slot is in use.
    private static func inode(_ inode: InodeNumber, _ bytes: [UInt8], _ line: inout JSONLine) -> String {
        line.add("tag", "inode")
        line.add("inode", inode.rawValue)
        // A few bytes behind the first 128 would be less than a slot ever has.
        guard bytes.count == 128 || bytes.count >= 132,
            let record = unsafe try? InodeRecord(decoding: bytes.span.bytes)
        else { return "inode: \(inode.rawValue), not decodable" }
        line.add("mode", "0" + String(record.mode, radix: 8))
        line.add("size", record.size)
        line.add("links", record.linkCount)
        line.add("mtime", time(record.modification))
        return "inode: \(inode.rawValue), mode 0\(String(record.mode, radix: 8)), size \(record.size), "
            + "links \(record.linkCount), mtime \(time(record.modification))"
    }
}
