internal import BlockIO
internal import Ext4Format
internal import FileSystem

// The rules, block by block, at the moment when a request is submitted.

extension ProtocolLinter {
    // MARK: - The log

    mutating func checkLogWrite(
        _ position: UInt32, _ content: [UInt8], _ mode: WriteMode, _ ticket: UInt64, at index: Int
    ) throws(Ext4Error) {
        guard let journal else { return }
        if position == journal.log.superBlockPosition { return try checkTail(content, mode, at: index) }
        // The area of fast commits is not looked into.
        guard journal.isRing(position) else { return }
        let home = journal.log.home(of: position).rawValue
        if let holder = journal.live.first(where: { $0.positions.contains(position) }) {
            report(
                .logReuseAfterTail, at: index, block: home,
                "log block \(position) still belongs to transaction \(holder.id.rawValue)")
        }
        // A logged block never begins like one of the journal's own: it would have been escaped.
        guard let header = JournalHeader(decoding: unsafe content.span.bytes) else { return }
        let isOwn = header.type == .descriptor || header.type == .revoke || header.type == .commit
        guard isOwn else { return }
        if journal.open?.id != header.transaction {
            checkID(header.transaction, home, at: index)
            self.journal?.open = (header.transaction, index)
        }
        if header.type == .commit { try checkCommit(position, header.transaction, content, ticket, at: index) }
    }

    private mutating func checkID(_ id: TransactionID, _ block: UInt64, at index: Int) {
        guard let journal else { return }
        let isNext =
            if let last = journal.live.last {
                id == last.id.next
            } else {
                id == journal.superBlock.sequence && journal.lastID.map { id.isNewer(than: $0) } ?? true
            }
        guard !isNext else { return }
        let expected = journal.live.last?.id.next ?? journal.superBlock.sequence
        report(
            .sequence, at: index, block: block,
            "transaction \(id.rawValue) where recovery looks for \(expected.rawValue)")
    }

    private mutating func checkCommit(
        _ position: UInt32, _ id: TransactionID, _ content: [UInt8], _ ticket: UInt64, at index: Int
    ) throws(Ext4Error) {
        guard let journal else { return }
        let home = journal.log.home(of: position).rawValue, name = "transaction \(id.rawValue)"
        if let failure {
            report(.stopAfterFailure, at: index, block: home, "\(name) is committed after failure \(failure)")
        }
        if !journal.format.isCommitValid(unsafe content.span.bytes) {
            report(.stableContent, at: index, block: home, "the checksum of the commit block of \(name) is wrong")
        }
        let isFound =
            !journal.live.isEmpty
            || journal.isRing(journal.head) && journal.durable.start == journal.head && journal.durable.sequence == id
        if !isFound {
            report(
                .logReuseAfterTail, at: index, block: home,
                "\(name) is committed, and the durable super block of the log does not lead to it")
        }
        let reading = try journal.parse(from: journal.head, id: id, until: position)
        if let stranger = reading.stranger, isFound {
            report(
                .commitAfterFlush, at: index, block: home,
                "\(name) is committed while log block \(stranger) is not yet part of it")
        }
        for unlike in reading.unlike {
            report(
                .stableContent, at: index, block: journal.log.home(of: unlike).rawValue,
                "log block \(unlike) of \(name) is not what its checksum was computed from")
        }
        let end = journal.geometry.advance(position, by: 1)
        let transaction =
            reading.transaction ?? LoggedTransaction(id: id, start: journal.head, end: end, positions: [position])
        let late = transaction.positions.filter { $0 != position && !disk.isDurable(journal.bytes(at: $0)) }
        // A commit with checksums of all it covers may go to the device together with it.
        if let first = late.min(), !journal.format.isAsync {
            report(
                .commitAfterFlush, at: index, block: journal.log.home(of: first).rawValue,
                "\(name) is committed while \(late.count) of its log blocks are not durable")
        }
        beginCommit(transaction, ticket)
    }

    private mutating func checkTail(_ content: [UInt8], _ mode: WriteMode, at index: Int) throws(Ext4Error) {
        guard let journal else { return }
        let block = journal.log.home(of: journal.log.superBlockPosition).rawValue
        let next: JournalSuperBlock
        do throws(Ext4Error) {
            next = try JournalSuperBlock(decoding: unsafe content.span.bytes)
        } catch {
            return report(.stableContent, at: index, block: block, "the super block of the log: \(error)")
        }
        guard next.start != journal.superBlock.start || next.sequence != journal.superBlock.sequence else { return }
        if let failure { report(.stopAfterFailure, at: index, block: block, "the tail moves after failure \(failure)") }
        let isPast = next.start == 0 ? journal.lastID.map { next.sequence.isNewer(than: $0) } ?? true : true
        if journal.superBlock.sequence.isNewer(than: next.sequence) || !isPast {
            report(
                .sequence, at: index, block: block, "the log is to go on with \(next.sequence.rawValue), which is used")
        }
        let dropped = journal.dropped(by: next)
        guard let last = dropped.last else { return }
        let rule: ProtocolRule = last.isRecovered ? .recoveryOrder : .tailAfterCheckpoint
        if mode != .throughToMedia { report(rule, at: index, block: block, "the tail moves by a write without FUA") }
        let rest = journal.live.dropFirst(dropped.count).first
        let (start, sequence) = rest.map { ($0.start, $0.id) } ?? (last.end, last.id.next)
        if next.start != 0 && (next.start != start || next.sequence != sequence) {
            report(
                rule, at: index, block: block,
                "the tail says log block \(next.start), transaction \(next.sequence.rawValue), where none begins")
        }
        try checkHomes(of: Array(dropped), rule, at: index)
    }

    /// What leaves the log must be durable at home, unless a later transaction holds or revokes it, or freed it.
    private mutating func checkHomes(
        of dropped: [LoggedTransaction], _ rule: ProtocolRule, at index: Int
    ) throws(Ext4Error) {
        guard let journal, let map else { return }
        for transaction in dropped {
            for (block, copy) in transaction.copies.sorted(by: { $0.key < $1.key })
            where journal.newest[block] == transaction.id && map.isMetadata(block) {
                if try disk.durable.block(block, journal.log.blockByteCount) == copy { continue }
                report(
                    rule, at: index, block: block,
                    "transaction \(transaction.id.rawValue) leaves the log, and its block is not durable at home")
            }
        }
    }

    // MARK: - Homes

    mutating func checkHomeWrite(
        _ block: UInt64, _ content: [UInt8], _ ticket: UInt64, at index: Int
    ) throws(Ext4Error) {
        guard let journal, let map else { return }
        if let copy = journal.copy(of: block), copy == content { return }
        let isMetadata = map.isMetadata(block)
        if isMetadata {
            if try isAllowed(block, content, journal, map) { return }
            suspects.append(Suspect(event: index, block: block, content: content))
            return
        }
        dataWrites[ticket] = index
        if let holder = journal.newest[block], !journal.isRecovering {
            report(
                .revokeBeforeReuse, at: index, block: block,
                "other data is written over a block of transaction \(holder.rawValue), which no revoke in the log hides"
            )
        }
    }

    /// What ext4 writes to metadata past the log, and may.
    private func isAllowed(
        _ block: UInt64, _ content: [UInt8], _ journal: FollowedJournal, _ map: VolumeMap
    ) throws(Ext4Error) -> Bool {
        let size = journal.log.blockByteCount
        // The bytes that are there already.
        if try disk.landed.block(block, size) == content { return true }
        // The super block, at mount and unmount and when an error is recorded: as long as no replay would undo it, or
        // when there will be no further commit.
        if block == map.superBlock {
            return journal.newest[block] == nil || failure != nil || journal.superBlock.errorNumber != 0
        }
        // Tables of inodes that mke2fs left for the first mount to zero.
        if let group = map.tableGroup(of: block), content.allSatisfy({ $0 == 0 }), journal.newest[block] == nil {
            let place = journal.layout.descriptor(of: group)
            let home = try disk.landed.block(place.block.rawValue, size)
            let table = journal.copy(of: place.block.rawValue) ?? home
            let descriptor = GroupDescriptor(decoding: unsafe table.span.bytes.extracting(place.bytes))
            return !descriptor.flags.contains(.inodeTableZeroed)
        }
        // Recovery carries out fast commits in place, and the log stays until that is durable.
        return journal.isRecovering && journal.hasFastCommits
    }

    mutating func checkDiscard(_ blocks: Range<UInt64>, at index: Int) {
        guard let journal, let map else { return }
        let range = blocks.clamped(to: 0..<journal.layout.superBlock.blockCount)
        for block in range {
            if let position = journal.positions[block] {
                guard let holder = journal.live.first(where: { $0.positions.contains(position) }) else { continue }
                report(
                    .logReuseAfterTail, at: index, block: block,
                    "log block \(position) is discarded, and belongs to transaction \(holder.id.rawValue)")
            } else if map.isMetadata(block) || map.isAllocated(block) {
                suspects.append(Suspect(event: index, block: block, content: nil))
            }
        }
    }

    // MARK: - Suspects

    /// A transaction has become durable: what was done to its blocks before came too early.
    mutating func resolveSuspects(_ transaction: LoggedTransaction, freed: Set<UInt64>) {
        var left: [Suspect] = []
        for suspect in suspects {
            if let content = suspect.content, transaction.copies[suspect.block] == content {
                report(
                    .homeAfterCommit, at: suspect.event, block: suspect.block,
                    "written home before transaction \(transaction.id.rawValue), which holds it so, was durable")
            } else if freed.contains(suspect.block) || transaction.hides(suspect.block) {
                report(
                    .revokeBeforeReuse, at: suspect.event, block: suspect.block,
                    "\(suspect.content == nil ? "discarded" : "overwritten") before transaction"
                        + " \(transaction.id.rawValue), which frees it, was durable")
            } else {
                left.append(suspect)
            }
        }
        suspects = left
    }

    /// No transaction will speak for those that are left.
    mutating func accuseSuspects() {
        for suspect in suspects {
            report(
                .justifiedHome, at: suspect.event, block: suspect.block,
                suspect.content == nil
                    ? "a block in use is discarded" : "metadata is written that no transaction holds so")
        }
        suspects = []
    }
}
