package import Ext4Format

/// One walk over a log: finds the end, verifies every checksum on the way, writes nothing.
///
/// A bad block does not say by itself whether the log ends there or was damaged there. So at the stop the scan looks
/// ahead for a valid commit with a sequence from the expected one on: there is none behind a real end, because a commit
/// is written only when everything before it is on the medium.
struct LogScan {
    private let format: JournalFormat
    private let geometry: LogGeometry
    private let homeBlockCount: UInt64
    /// The log when homes on the same device must not lie in it.
    private let forbidden: LogArea?
    private var reader: LogReader
    private var plan: RecoveryPlan
    private let detail: RecoveryPlan.Detail
    private var newest: [UInt64: RecoveryPlan.Copy] = [:]
    /// The blocks of the current transaction.
    private var blocks: [RecoveryPlan.LoggedBlock] = []
    private var position: UInt32
    private var expected: TransactionID
    /// Log blocks passed, so that a log that bites its tail ends.
    private var passed: UInt32 = 0
    private var current: RecoveryPlan.LoggedTransaction?
    private var payload = UInt32.max
    private var hasSeenPayload = false
    private var lastTime: CommitTime?
    /// Set at the first damaged transaction that is otherwise complete: what follows is listed and not applied.
    private var damage: RecoveryPlan.Problem?

    init(
        _ superBlock: JournalSuperBlock, _ geometry: LogGeometry, log: LogArea, target: ReplayTarget,
        detail: RecoveryPlan.Detail
    ) {
        self.detail = detail
        format = JournalFormat(superBlock)
        self.geometry = geometry
        homeBlockCount = target.blockCount
        forbidden = target.sharesDeviceWithLog ? log : nil
        reader = LogReader(log: log)
        position = superBlock.start
        expected = superBlock.sequence
        plan = RecoveryPlan(
            superBlock: superBlock, geometry: geometry, endPosition: superBlock.start, endID: superBlock.sequence,
            nextSequence: superBlock.sequence)
    }

    mutating func run() throws(Ext4Error) -> RecoveryPlan {
        guard plan.superBlock.start != 0 else { return plan }
        var stop: RecoveryPlan.Problem?
        while stop == nil { stop = try step() }
        if let stop { try conclude(at: stop) }
        plan.copies = newest.values.sorted { $0.home < $1.home }
        if !plan.isDamaged {
            plan.hasFastCommits = try FastCommitProbe.hasTail(
                for: plan.endID, area: geometry.fastCommit, blockByteCount: format.blockByteCount, reader: &reader)
        }
        return plan
    }

    // MARK: One block of the log

    private struct Sight {
        let header: JournalHeader?
        let isTailValid: Bool
    }

    /// Takes one block with what belongs to it. Answers why the log cannot be followed further.
    private mutating func step() throws(Ext4Error) -> RecoveryPlan.Problem? {
        guard passed < geometry.count else { return problem(.endless) }
        let format = format, expected = expected
        let sight = try reader.withBlock(position, limit: geometry.end) { block throws(Ext4Error) in
            let header = JournalHeader(decoding: block)
            let isOurs = header?.transaction == expected
            return Sight(header: header, isTailValid: isOurs && format.isTailValid(block))
        }
        guard let header = sight.header, header.transaction == expected else { return problem(.noBlock) }
        if current == nil { current = RecoveryPlan.LoggedTransaction(id: expected, start: position) }
        switch header.type {
        case .descriptor: return sight.isTailValid ? try takeDescriptor() : problem(.descriptorChecksum)
        case .revoke: return sight.isTailValid ? try takeRevoke() : problem(.revokeChecksum)
        case .commit: return try takeCommit()
        default: return problem(.blockType)
        }
    }

    private func problem(_ kind: RecoveryPlan.Problem.Kind) -> RecoveryPlan.Problem {
        RecoveryPlan.Problem(kind: kind, position: position)
    }

    /// The transaction goes on, but must not be applied.
    private mutating func mark(_ kind: RecoveryPlan.Problem.Kind) {
        let found = problem(kind)
        if current?.problem == nil { current?.problem = found }
    }

    private mutating func move() {
        position = geometry.advance(position, by: 1)
        passed += 1
    }

    private mutating func takeDescriptor() throws(Ext4Error) -> RecoveryPlan.Problem? {
        let format = format
        var tags: [JournalTag] = []
        var sum = payload
        try reader.withBlock(position, limit: geometry.end) { block throws(Ext4Error) in
            try format.forEachTag(in: block) { tag throws(Ext4Error) in tags.append(tag) }
            if format.checksums == .v1 { sum = crc32BE(block, seed: sum) }
        }
        payload = sum
        move()
        for tag in tags {
            guard passed < geometry.count else { return problem(.endless) }
            try takeBlock(tag)
            move()
        }
        return nil
    }

    private mutating func takeBlock(_ tag: JournalTag) throws(Ext4Error) {
        let format = format, expected = expected
        var sum = payload
        let isValid = try reader.withBlock(position, limit: geometry.end) { block throws(Ext4Error) in
            if format.checksums == .v1 { sum = crc32BE(block, seed: sum) }
            return format.tagChecksum(block, in: expected) == tag.checksum
        }
        payload = sum
        let verdict: RecoveryPlan.Verdict
        if !isValid {
            verdict = .badChecksum
            mark(.blockChecksum)
        } else if tag.home.rawValue >= homeBlockCount {
            verdict = .homePastEnd
            mark(.homePastEnd)
        } else if let forbidden, forbidden.contains(tag.home) {
            verdict = .homeInLog
            mark(.homeInLog)
        } else {
            verdict = format.hasBlockChecksums ? .good : .unchecked
        }
        blocks.append(
            RecoveryPlan.LoggedBlock(
                position: position, home: tag.home, isEscaped: tag.flags.contains(.escaped), checksum: tag.checksum,
                verdict: verdict))
    }

    private mutating func takeRevoke() throws(Ext4Error) -> RecoveryPlan.Problem? {
        let format = format
        let count = try reader.withBlock(position, limit: geometry.end) { block throws(Ext4Error) in
            format.revokeCount(of: block)
        }
        guard let count else { return problem(.revokeCount) }
        current?.revokeBlocks.append(position)
        current?.revokeCount += count
        move()
        return nil
    }

    private mutating func takeCommit() throws(Ext4Error) -> RecoveryPlan.Problem? {
        let format = format, payload = payload, hasSeenPayload = hasSeenPayload
        let (isValid, isPayloadValid, time) = try reader.withBlock(position, limit: geometry.end) {
            block throws(Ext4Error) in
            (
                format.isCommitValid(block),
                format.isPayloadValid(block, payload: payload, seenBefore: hasSeenPayload), format.commitTime(block)
            )
        }
        guard isValid else { return problem(.commitChecksum) }
        if !isPayloadValid { mark(.payloadChecksum) }
        current?.commit = position
        current?.time = time
        // With asynchronous commits the commit block may overtake what it commits: a bad transaction may be the end.
        if format.isAsync, damage == nil, let found = current?.problem { return found }
        lastTime = time
        self.hasSeenPayload = hasSeenPayload || format.checksums == .v1
        try finishTransaction()
        move()
        expected = expected.next
        if damage == nil {
            plan.endPosition = position
            plan.endID = expected
        }
        return nil
    }

    /// Ends the current transaction and hands it out, with its blocks listed if they are wanted.
    private mutating func takeCurrent() -> RecoveryPlan.LoggedTransaction? {
        defer {
            current = nil
            payload = .max
        }
        current?.blockCount = blocks.count
        if detail == .everything { current?.blocks = blocks }
        return current
    }

    private mutating func finishTransaction() throws(Ext4Error) {
        guard let transaction = takeCurrent() else { return }
        if damage == nil { damage = transaction.problem }
        guard damage == nil else {
            plan.unapplied.append(transaction)
            blocks.removeAll(keepingCapacity: true)
            return
        }
        for block in blocks {
            newest[block.home.rawValue] = RecoveryPlan.Copy(
                home: block.home, position: block.position, isEscaped: block.isEscaped, checksum: block.checksum,
                transaction: transaction.id)
        }
        blocks.removeAll(keepingCapacity: true)
        // A revoke hides copies of its own transaction and of older ones, and those are all that is known by now.
        let format = format
        for position in transaction.revokeBlocks {
            var hidden = 0
            try reader.withBlock(position, limit: geometry.end) { block throws(Ext4Error) in
                format.forEachRevoke(in: block) { if newest.removeValue(forKey: $0.rawValue) != nil { hidden += 1 } }
            }
            plan.revokedCopyCount += hidden
        }
        plan.transactions.append(transaction)
    }

    // MARK: The end

    private mutating func conclude(at stop: RecoveryPlan.Problem) throws(Ext4Error) {
        let last = takeCurrent()
        if var last {
            last.problem = last.problem ?? stop
            plan.unapplied.append(last)
        }
        let later = try newestCommitAhead(of: stop.position)
        if let damage {
            let known = later ?? TransactionID(expected.rawValue &- 1)
            plan.end = .damaged(damage, laterCommit: known)
            plan.nextSequence = known.next.next
        } else if let later {
            plan.end = .damaged(stop, laterCommit: later)
            plan.nextSequence = later.next.next
        } else {
            plan.end = last != nil ? .torn(stop) : .clean
            // One further than the first missing transaction: parts of that one may lie in the log.
            plan.nextSequence = plan.endID.next
        }
    }

    /// The newest valid commit from the expected sequence on in the blocks ahead.
    ///
    /// A transaction has a descriptor at least every `tagsPerDescriptor` blocks. So where for several times that many,
    /// and for some MiB, no header of a transaction from the expected one on is seen, none was ever written, unless the
    /// damage is that wide. No transaction takes half the log, so half the log is far enough in any case.
    private mutating func newestCommitAhead(of stop: UInt32) throws(Ext4Error) -> TransactionID? {
        let format = format, expected = expected, lastTime = lastTime
        let span = geometry.count
        let patience = max(3 * (format.tagsPerDescriptor + 1), Self.patienceByteCount / format.blockByteCount)
        var found: TransactionID?
        var at = stop
        var quiet = 0
        // The block at the stop itself counts when it is of a later transaction.
        for _ in 0..<span / 2 + 2 where quiet <= patience {
            let header: JournalHeader? = try reader.withBlock(at, limit: geometry.end) { block throws(Ext4Error) in
                guard let header = JournalHeader(decoding: block) else { return nil }
                let distance = header.transaction.rawValue &- expected.rawValue
                guard distance < span else { return nil }
                if header.type == .commit {
                    guard format.isCommitValid(block) else { return nil }
                    // Without checksums an old leftover could pass by chance: its time gives it away.
                    if let lastTime, !format.hasBlockChecksums, format.commitTime(block) < lastTime { return nil }
                }
                return header
            }
            quiet = header == nil ? quiet + 1 : 0
            if let header, header.type == .commit, found.map({ header.transaction.isNewer(than: $0) }) ?? true {
                found = header.transaction
            }
            at = geometry.advance(at, by: 1)
        }
        return found
    }

    private static let patienceByteCount = 8 << 20
}

/// What a log is replayed into.
package struct ReplayTarget: Sendable {
    /// Blocks of the volume: a tag past it is damage.
    package let blockCount: UInt64
    /// The log lies on the volume's own device, so that its blocks are no homes.
    package let sharesDeviceWithLog: Bool
    package init(blockCount: UInt64, sharesDeviceWithLog: Bool) {
        self.blockCount = blockCount
        self.sharesDeviceWithLog = sharesDeviceWithLog
    }
}

extension RecoveryPlan {
    /// Scans the log. Nothing is written. A super block that cannot be trusted is `.corrupt`, a read error `.io`; what
    /// is wrong inside the log is part of the plan.
    package static func scan(
        _ log: LogArea, for target: ReplayTarget, detail: Detail = .copies
    ) throws(Ext4Error) -> Self {
        let superBlock = try log.readSuperBlock()
        let geometry = try LogGeometry(
            superBlock, blockByteCount: log.blockByteCount, blockCount: log.blockCount)
        var scan = LogScan(superBlock, geometry, log: log, target: target, detail: detail)
        return try scan.run()
    }

    /// Hands out the blocks that a transaction of this plan revokes, by reading its revoke blocks again.
    package func forEachRevoke(
        of transaction: LoggedTransaction, in log: LogArea, _ body: (FSBlock) -> Void
    ) throws(Ext4Error) {
        let format = JournalFormat(superBlock)
        var reader = LogReader(log: log)
        for position in transaction.revokeBlocks {
            try reader.withBlock(position, limit: position + 1) { block throws(Ext4Error) in
                format.forEachRevoke(in: block, body)
            }
        }
    }
}
