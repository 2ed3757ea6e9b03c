internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Journal
internal import Offline

/// What the commands say, as text or as JSON Lines. docs/jext4-replay.md has the schema: fields are added, never
/// changed.
struct Report {
    /// The version of the schema.
    private static let schema = 1
    let json: Bool

    init(json: Bool) { self.json = json }

    func say(_ text: @autoclosure () -> String, _ line: @autoclosure () -> JSONLine) {
        Output.write(json ? line().text : text() + "\n")
    }

    func noJournal(_ image: String) {
        var line = JSONLine(type: "end")
        line.add("reason", "no journal")
        say("\(image) has no journal", line)
    }

    // MARK: The log

    func journal(_ image: OpenImage, _ journal: JournalLocation) {
        let block = journal.superBlock, format = JournalFormat(block)
        let kind = "\(format.checksums)"
        var line = JSONLine(type: "journal")
        line.add("schema", Self.schema)
        line.add("block_bytes", block.blockByteCount)
        line.add("blocks", block.blockCount)
        line.add("first", block.first)
        line.add("start", block.start)
        line.add("sequence", block.sequence.rawValue)
        line.add("errno", block.errorNumber)
        line.add("checksums", kind)
        line.add("features", block.incompatible.names)
        line.add("uuid", Self.uuid(block.uuid))
        line.add("needs_recovery", image.volume.needsRecovery)
        var text = "journal of \(block.blockCount) blocks of \(block.blockByteCount) bytes, checksums \(kind)"
        text += block.incompatible.names.isEmpty ? "" : ", " + block.incompatible.names.joined(separator: " ")
        text +=
            block.start == 0
            ? "\nempty, next transaction \(block.sequence.rawValue)"
            : "\nbegins at log block \(block.start) with transaction \(block.sequence.rawValue)"
        if block.errorNumber != 0 { text += "\naborted earlier: errno \(block.errorNumber)" }
        say(text, line)
    }

    func transaction(_ transaction: RecoveryPlan.LoggedTransaction, isApplied: Bool) {
        var line = JSONLine(type: "transaction")
        line.add("transaction", transaction.id.rawValue)
        line.add("log_block", transaction.start)
        line.add("commit_block", transaction.commit)
        line.add("time", transaction.time.map(Self.time))
        line.add("blocks", transaction.blockCount)
        line.add("revokes", transaction.revokeCount)
        line.add("applied", isApplied)
        add(transaction.problem, to: &line)
        var text = "transaction \(transaction.id.rawValue) at log block \(transaction.start): "
        text += "\(transaction.blockCount) blocks, \(transaction.revokeCount) revokes"
        text += transaction.time.map { ", committed \(Self.time($0))" } ?? ", no commit"
        text += transaction.problem.map { ", BAD: \(Self.text($0))" } ?? (isApplied ? "" : ", behind damage")
        say(text, line)
    }

    func block(
        _ block: RecoveryPlan.LoggedBlock, of transaction: RecoveryPlan.LoggedTransaction, owner: OwnerText?
    ) {
        let verdict = Self.text(block.verdict)
        var line = JSONLine(type: "block")
        line.add("transaction", transaction.id.rawValue)
        line.add("block", block.home.rawValue)
        line.add("log_block", block.position)
        line.add("escaped", block.isEscaped)
        line.add("verdict", verdict)
        OwnerText.add(owner, to: &line)
        var text = "  block \(block.home.rawValue) at log block \(block.position): \(verdict)"
        text += owner.map { ", \($0.text)" } ?? ""
        say(text, line)
    }

    func revoke(_ block: FSBlock, of transaction: RecoveryPlan.LoggedTransaction) {
        var line = JSONLine(type: "revoke")
        line.add("transaction", transaction.id.rawValue)
        line.add("block", block.rawValue)
        say("  revokes block \(block.rawValue)", line)
    }

    func end(of plan: RecoveryPlan) {
        var line = JSONLine(type: "end")
        var text: String
        var problem: RecoveryPlan.Problem?
        var later: TransactionID?
        switch plan.end {
        case .empty:
            text = "the log is empty"
            line.add("reason", "empty")
        case .clean:
            text = "the log ends at log block \(plan.endPosition), before transaction \(plan.endID.rawValue)"
            line.add("reason", "clean")
        case .torn(let found):
            problem = found
            text = "transaction \(plan.endID.rawValue) was never committed (\(Self.text(found)))"
            line.add("reason", "torn")
        case .damaged(let found, let commit):
            (problem, later) = (found, commit)
            text = "DAMAGE in transaction \(plan.endID.rawValue): \(Self.text(found)); "
            text += "transactions up to \(commit.rawValue) were committed"
            line.add("reason", "damaged")
        }
        if plan.isCut { text += "\nwhat was committed from transaction \(plan.endID.rawValue) on is left out" }
        if let id = plan.timeRunsBackwards { text += "\nthe clock ran backwards before transaction \(id.rawValue)" }
        if let log = plan.fastCommits, log.end != .absent {
            text += "\n" + FastCommitText.end(of: log)
            line.add("fast_commit_count", log.commits.count)
        }
        line.add("transaction", plan.endID.rawValue)
        line.add("log_block", plan.endPosition)
        add(problem, to: &line)
        line.add("later_commit", later?.rawValue)
        line.add("next_sequence", plan.nextSequence.rawValue)
        line.add("fast_commits", plan.hasFastCommits)
        line.add("cut", plan.isCut)
        line.add("time_runs_backwards", plan.timeRunsBackwards?.rawValue)
        say(text, line)
    }

    // MARK: Replay

    /// `copy` is nil for a block that is written without having been logged.
    func write(_ block: FSBlock, _ copy: RecoveryPlan.Copy?, isChange: Bool, owner: OwnerText?) {
        var line = JSONLine(type: "write")
        line.add("block", block.rawValue)
        line.add("transaction", copy?.transaction.rawValue)
        line.add("log_block", copy?.position)
        line.add("changes", isChange)
        OwnerText.add(owner, to: &line)
        var text = "block \(block.rawValue) "
        text += copy.map { "from transaction \($0.transaction.rawValue)" } ?? "not from the log"
        text += (isChange ? "" : ", the same bytes") + (owner.map { ", \($0.text)" } ?? "")
        say(text, line)
    }

    func summary(of plan: RecoveryPlan, changes: Int, others: Int, _ summary: ReplayChanges.Summary?) {
        var line = JSONLine(type: "plan")
        line.add("transactions", plan.transactions.count)
        line.add("blocks", plan.copies.count)
        line.add("changes", changes)
        line.add("revoked", plan.revokedCopyCount)
        var text =
            "\(plan.transactions.count) transactions write \(plan.copies.count) blocks, \(changes) of them change"
        if others > 0 { text += "; \(others) that were not logged change too" }
        line.add("other_changes", others)
        if let summary { text += Self.add(summary, to: &line) }
        say(text, line)
    }

    func result(of plan: RecoveryPlan, _ counters: ReplayCounters) {
        var line = JSONLine(type: "result")
        line.add("transactions", plan.transactions.count)
        line.add("blocks", counters.blocks)
        line.add("writes", counters.writes)
        line.add("reads", counters.reads)
        say(
            "replayed \(plan.transactions.count) transactions: \(counters.blocks) blocks in \(counters.writes) writes",
            line)
    }

    func undone(blocks: Int) {
        var line = JSONLine(type: "undone")
        line.add("blocks", blocks)
        say("took back \(blocks) blocks", line)
    }

    /// One logged version of a block.
    func version(
        _ block: RecoveryPlan.LoggedBlock, of transaction: RecoveryPlan.LoggedTransaction, isApplied: Bool,
        isRevoked: Bool
    ) {
        var line = JSONLine(type: "version")
        line.add("block", block.home.rawValue)
        line.add("transaction", transaction.id.rawValue)
        line.add("time", transaction.time.map(Self.time))
        line.add("log_block", block.position)
        line.add("escaped", block.isEscaped)
        line.add("verdict", Self.text(block.verdict))
        line.add("applied", isApplied)
        line.add("revoked", isRevoked)
        var text =
            "block \(block.home.rawValue) in transaction \(transaction.id.rawValue) at log block \(block.position)"
        text += ": \(Self.text(block.verdict))" + (transaction.time.map { ", committed \(Self.time($0))" } ?? "")
        text += (isRevoked ? ", revoked" : "") + (isApplied ? "" : ", not applied")
        say(text, line)
    }

    // MARK: Words

    private func add(_ problem: RecoveryPlan.Problem?, to line: inout JSONLine) {
        line.add("problem", problem?.kind.rawValue)
        line.add("problem_log_block", problem?.position)
    }

    private static func text(_ problem: RecoveryPlan.Problem) -> String {
        "\(problem.kind.rawValue) at log block \(problem.position)"
    }

    static func text(_ verdict: RecoveryPlan.Verdict) -> String {
        switch verdict {
        case .good: "good"
        case .unchecked: "no checksum"
        case .badChecksum: "bad checksum"
        case .homePastEnd: "home past the end"
        case .homeInLog: "home in the log"
        }
    }

    private static func uuid(_ bytes: [UInt8]) -> String {
        var text = ""
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text += "-" }
            text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return text
    }

    private static func time(_ time: CommitTime) -> String {
        guard let seconds = Int64(exactly: time.seconds) else { return "@\(time.seconds)" }
        return Self.time(Timestamp(seconds: seconds, nanoseconds: time.nanoseconds))
    }

    /// UTC, to the nanosecond. A time that no calendar has is given in seconds.
    static func time(_ time: Timestamp) -> String {
        func padded(_ number: some BinaryInteger, _ width: Int) -> String {
            let digits = "\(number)"
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        var parts = unsafe tm()
        guard var seconds = time_t(exactly: time.seconds), unsafe gmtime_r(&seconds, &parts) != nil else {
            return "@\(time.seconds)"
        }
        let date =
            unsafe "\(padded(Int(parts.tm_year) + 1900, 4))-\(padded(parts.tm_mon + 1, 2))-\(padded(parts.tm_mday, 2))"
        let clock = unsafe "\(padded(parts.tm_hour, 2)):\(padded(parts.tm_min, 2)):\(padded(parts.tm_sec, 2))"
        return "\(date)T\(clock).\(padded(time.nanoseconds, 9))Z"
    }
}
