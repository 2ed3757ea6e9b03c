internal import BlockIO
package import Ext4Format

/// One walk over a log: finds the end, verifies every checksum on the way, writes nothing.
///
/// A bad block does not say by itself whether the log ends there or was damaged there. So at the stop the scan looks
/// ahead for a valid commit with a sequence from the expected one on: there is none behind a real end, because a commit
/// is written only when everything before it is on the medium. An asynchronous commit waits for the transactions before
/// its own alone: there a torn transaction may have its commit block.
struct LogScan {
    private let format: JournalFormat
    private let geometry: LogGeometry
    private let homeBlockCount: UInt64
    /// The log when homes on the same device must not lie in it.
    private let forbidden: LogArea?
    private let log: LogArea
    private let reader: LogReader
    private var plan: RecoveryPlan
    private let detail: RecoveryPlan.Detail
    private let options: RecoveryOptions
    private let memory: LogMemory
    private var newest: [UInt64: RecoveryPlan.Copy] = [:]
    /// The blocks of the current transaction, and where each is kept.
    private var blocks: [RecoveryPlan.LoggedBlock] = []
    private var places: [UInt32] = []
    /// Blocks that the current transaction revokes; only those of its first `readRevokeBlocks` revoke blocks.
    private var revokes: [UInt64] = []
    private var readRevokeBlocks = 0
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
        detail: RecoveryPlan.Detail, options: RecoveryOptions
    ) {
        self.detail = detail
        self.options = options
        format = JournalFormat(superBlock)
        self.geometry = geometry
        homeBlockCount = target.blockCount
        forbidden = target.sharesDeviceWithLog ? log : nil
        self.log = log
        // A listing is for eyes, not for replay. And to keep what is not decided would be to decide it.
        // And what the page cache holds is copied a second time sooner than new memory is had for it.
        let isAtHand = geometry.ring.contains(superBlock.start) && log.isAtHand(from: superBlock.start)
        let keepsNothing = detail == .everything || log.undecided != nil || isAtHand
        memory = LogMemory(
            for: log, ring: geometry.ring, keeping: keepsNothing ? 0 : options.memoryByteCount, isAtHand: isAtHand)
        reader = LogReader(log: log, ring: geometry.ring, memory: memory)
        position = superBlock.start
        expected = superBlock.sequence
        plan = RecoveryPlan(
            superBlock: superBlock, geometry: geometry, limit: options.last, memory: memory,
            endPosition: superBlock.start, endID: superBlock.sequence, nextSequence: superBlock.sequence)
    }

    mutating func run() throws(Ext4Error) -> RecoveryPlan {
        guard plan.superBlock.start != 0 else { return plan }
        var stop: RecoveryPlan.Problem?
        while stop == nil { stop = try step() }
        if let stop { try conclude(at: stop) }
        report(passed)
        try checkLimit()
        plan.copies = newest.values.sorted { $0.home < $1.home }
        if !plan.isDamaged, !plan.isCut, !geometry.fastCommit.isEmpty {
            let found = try FastCommitScan(transaction: plan.endID, area: geometry.fastCommit, log: log).run()
            // Fast commits come behind whatever transaction someone named as the last.
            if options.last == nil { plan.fastCommits = found } else { plan.isCut = !found.commits.isEmpty }
        }
        return plan
    }

    // MARK: One block of the log

    private struct Sight: Hashable {
        let header: JournalHeader?
        let isTailValid: Bool
    }

    /// Takes one block with what belongs to it. Answers why the log cannot be followed further.
    private mutating func step() throws(Ext4Error) -> RecoveryPlan.Problem? {
        guard passed < geometry.count else { return problem(.endless) }
        let format = format, expected = expected
        let sight = try reader.ask(position) { block in
            let header = JournalHeader(decoding: block)
            let isOurs = header?.transaction == expected
            return Sight(header: header, isTailValid: isOurs && format.isTailValid(block))
        }
        guard let header = sight.header else { return problem(.noBlock) }
        guard header.transaction == expected else {
            return problem(header.transaction.isNewer(than: expected) ? .laterBlock : .olderBlock)
        }
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
        if passed % Self.progressBlockCount == 0 { report(passed) }
    }

    private static let progressBlockCount: UInt32 = 1024

    private func report(_ blocks: UInt32) {
        options.progress?(RecoveryProgress(phase: .scanning, done: Int(blocks), total: Int(geometry.count)))
    }

    private mutating func takeDescriptor() throws(Ext4Error) -> RecoveryPlan.Problem? {
        let format = format
        var tags: [JournalTag] = []
        var sum = payload
        try reader.withBlock(position) { block throws(Ext4Error) in
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
        var isValid = true
        var place = LogMemory.none
        if !asksLate {
            isValid = try reader.withBlock(position) { block throws(Ext4Error) in
                if format.checksums == .v1 { sum = crc32BE(block, seed: sum) }
                return format.tagChecksum(block, in: expected) == tag.checksum
            }
            if isValid { place = reader.keep(position) }
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
        places.append(place)
    }

    /// Only in a transaction that was committed does it matter whether its blocks are good. On a device that decides as
    /// late as it can they are looked at when the commit block has been seen.
    private var asksLate: Bool { log.undecided != nil && format.hasBlockChecksums }

    /// Up to the first bad one: it decides about all of them.
    private mutating func askLate() throws(Ext4Error) {
        let format = format, expected = expected
        for index in blocks.indices where blocks[index].verdict == .good {
            let block = blocks[index]
            let isValid = try reader.ask(block.position) {
                format.tagChecksum($0, in: expected) == block.checksum
            }
            guard !isValid else { continue }
            blocks[index].verdict = .badChecksum
            let found = RecoveryPlan.Problem(kind: .blockChecksum, position: block.position)
            if current?.problem == nil { current?.problem = found }
            return
        }
    }

    private mutating func takeRevoke() throws(Ext4Error) -> RecoveryPlan.Problem? {
        let format = format
        var found: [UInt64] = []
        // Memory is not for the log to decide: of very many records the rest is read again when they are needed.
        let hasRoom = revokes.count < Self.revokeLimit && readRevokeBlocks == current?.revokeBlocks.count
        let count = try reader.withBlock(position) { block throws(Ext4Error) in
            if hasRoom { format.forEachRevoke(in: block) { found.append($0.rawValue) } }
            return format.revokeCount(of: block)
        }
        guard let count else { return problem(.revokeCount) }
        if hasRoom {
            revokes += found
            readRevokeBlocks += 1
        }
        current?.revokeBlocks.append(position)
        current?.revokeCount += count
        move()
        return nil
    }

    private static let revokeLimit = 1 << 20

    /// What a valid commit block says.
    private struct Seal: Hashable {
        let isPayloadValid: Bool
        let time: CommitTime
    }

    private mutating func takeCommit() throws(Ext4Error) -> RecoveryPlan.Problem? {
        let format = format, payload = payload, hasSeenPayload = hasSeenPayload
        let seal = try reader.ask(position) { block -> Seal? in
            guard format.isCommitValid(block) else { return nil }
            return Seal(
                isPayloadValid: format.isPayloadValid(block, payload: payload, seenBefore: hasSeenPayload),
                time: format.commitTime(block))
        }
        guard let seal else { return problem(.commitChecksum) }
        let time = seal.time
        if asksLate { try askLate() }
        if !seal.isPayloadValid { mark(.payloadChecksum) }
        current?.commit = position
        current?.time = time
        // With asynchronous commits the commit block may overtake what it commits: a bad transaction may be the end.
        if format.isAsync, damage == nil, let found = current?.problem, found.kind.isTear { return found }
        if let lastTime, time < lastTime, plan.timeRunsBackwards == nil { plan.timeRunsBackwards = expected }
        lastTime = time
        self.hasSeenPayload = hasSeenPayload || format.checksums == .v1
        try finishTransaction()
        move()
        expected = expected.next
        if damage == nil && !plan.isCut {
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
        defer { forgetCurrent() }
        if damage == nil { damage = transaction.problem }
        if let limit = options.last, transaction.id.isNewer(than: limit) { plan.isCut = true }
        guard damage == nil, !plan.isCut else {
            for place in places { memory.release(place) }
            plan.unapplied.append(transaction)
            return
        }
        for (block, place) in zip(blocks, places) {
            let copy = RecoveryPlan.Copy(
                home: block.home, position: block.position, isEscaped: block.isEscaped, checksum: block.checksum,
                transaction: transaction.id, place: place)
            if let older = newest.updateValue(copy, forKey: block.home.rawValue) { memory.release(older.place) }
        }
        // A revoke hides copies of its own transaction and of older ones, and those are all that is known by now.
        for home in revokes { hide(home) }
        let format = format
        let again = AlignedBuffer(byteCount: log.blockByteCount)
        for position in transaction.revokeBlocks.dropFirst(readRevokeBlocks) {
            var found: [UInt64] = []
            try log.read(position, count: 1, into: again)
            again.withBytes { format.forEachRevoke(in: $0) { found.append($0.rawValue) } }
            for home in found { hide(home) }
        }
        plan.transactions.append(transaction)
    }

    private mutating func hide(_ home: UInt64) {
        guard let copy = newest.removeValue(forKey: home) else { return }
        memory.release(copy.place)
        plan.revokedCopyCount += 1
    }

    private mutating func forgetCurrent() {
        blocks.removeAll(keepingCapacity: true)
        places.removeAll(keepingCapacity: true)
        revokes.removeAll(keepingCapacity: true)
        readRevokeBlocks = 0
    }

    // MARK: The end

    private mutating func conclude(at stop: RecoveryPlan.Problem) throws(Ext4Error) {
        var stop = stop
        let last = takeCurrent()
        for place in places { memory.release(place) }
        let ahead = try lookAhead(from: stop)
        if ahead.isLeftover && ahead.newestCommit == nil {
            stop = RecoveryPlan.Problem(kind: .leftover, position: stop.position)
        }
        if var last {
            last.problem = last.problem ?? stop
            plan.unapplied.append(last)
        }
        plan.stop = stop
        // One further than the first missing transaction: parts of that one may lie in the log.
        var next = expected.next
        if let found = damage ?? (ahead.newestCommit == nil ? nil : stop) {
            let known = ahead.newestCommit ?? TransactionID(expected.rawValue &- 1)
            plan.end = .damaged(found, laterCommit: known)
            next = known.next.next
        } else {
            plan.end = last == nil || stop.kind == .leftover ? .clean : .torn(stop)
        }
        plan.nextSequence = next
    }

    /// What was asked for must be there: applying less than that would be silent.
    private func checkLimit() throws(Ext4Error) {
        guard let limit = options.last, plan.end != .empty, limit.next != plan.endID else { return }
        let first = plan.superBlock.sequence.rawValue, end = plan.endID.rawValue
        let good = first == end ? "no transaction of it is good" : "it is good from \(first) to \(end &- 1)"
        throw .refused("the log cannot be applied up to transaction \(limit.rawValue): \(good)")
    }

    private struct Outlook {
        var newestCommit: TransactionID?
        /// A bad commit block of the expected transaction is older than the last good one.
        var isLeftover = false
    }

    /// Looks for valid commits from the expected sequence on in the blocks ahead.
    ///
    /// A transaction has a descriptor at least every `tagsPerDescriptor` blocks. So where for several times that many,
    /// and for some MiB, no header of a transaction from the expected one on is seen, none was ever written, unless the
    /// damage is that wide. No transaction takes half the log, so half the log is far enough in any case.
    private mutating func lookAhead(from stop: RecoveryPlan.Problem) throws(Ext4Error) -> Outlook {
        let span = geometry.count
        let patience = max(3 * (format.tagsPerDescriptor + 1), Self.patienceByteCount / format.blockByteCount)
        var outlook = Outlook()
        reader.readNoFurtherAhead()
        var at = stop.position
        var quiet = 0
        let mayOvertake = format.isAsync && stop.kind.isTear
        // The block at the stop itself counts when it is of a later transaction.
        for _ in 0..<span / 2 + 2 where quiet <= patience {
            let sight = try sightAhead(at)
            quiet = sight == .nothing ? quiet + 1 : 0
            switch sight {
            case .leftover: outlook.isLeftover = true
            case .commit(let id) where !mayOvertake || id != expected:
                if outlook.newestCommit.map({ id.isNewer(than: $0) }) ?? true { outlook.newestCommit = id }
            case .nothing, .block, .commit: break
            }
            at = geometry.advance(at, by: 1)
        }
        return outlook
    }

    private enum SightAhead: Hashable {
        case nothing
        /// A block of a transaction from the expected one on.
        case block
        case commit(TransactionID)
        case leftover
    }

    private mutating func sightAhead(_ position: UInt32) throws(Ext4Error) -> SightAhead {
        let format = format, expected = expected, lastTime = lastTime, span = geometry.count
        do throws(Ext4Error) {
            return try reader.ask(position) { block -> SightAhead in
                guard let header = JournalHeader(decoding: block) else { return .nothing }
                let distance = header.transaction.rawValue &- expected.rawValue
                guard distance < span else { return .nothing }
                guard header.type == .commit else { return .block }
                let isOlder = lastTime.map { format.commitTime(block) < $0 } ?? false
                guard format.isCommitValid(block) else { return isOlder && distance == 0 ? .leftover : .nothing }
                // Without checksums an old leftover could pass by chance: its time gives it away.
                return isOlder && !format.hasBlockChecksums ? .nothing : .commit(header.transaction)
            }
        } catch {
            // A bad sector behind the end: it may hide one commit, and no transaction needs it.
            if case .io = error { return .nothing }
            throw error
        }
    }

    private static let patienceByteCount = 8 << 20
}

/// What a log is replayed into.
package struct ReplayTarget: Sendable {
    /// Blocks of the volume's device: a tag past it is damage. Not those of the volume: the log may enlarge it.
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
    /// is wrong inside the log is part of the plan. `.refused` when the log has no good transaction `options.last`.
    package static func scan(
        _ log: LogArea, for target: ReplayTarget, detail: Detail = .copies, options: RecoveryOptions = RecoveryOptions()
    ) throws(Ext4Error) -> Self {
        let superBlock = try log.readSuperBlock()
        let geometry = try LogGeometry(
            superBlock, blockByteCount: log.blockByteCount, blockCount: log.blockCount)
        var scan = LogScan(superBlock, geometry, log: log, target: target, detail: detail, options: options)
        return try scan.run()
    }

    /// Hands out the blocks that a transaction of this plan revokes, by reading its revoke blocks again.
    package func forEachRevoke(
        of transaction: LoggedTransaction, in log: LogArea, _ body: (FSBlock) -> Void
    ) throws(Ext4Error) {
        let format = JournalFormat(superBlock)
        let buffer = AlignedBuffer(byteCount: log.blockByteCount)
        for position in transaction.revokeBlocks {
            try log.read(position, count: 1, into: buffer)
            buffer.withBytes { format.forEachRevoke(in: $0, body) }
        }
    }
}
