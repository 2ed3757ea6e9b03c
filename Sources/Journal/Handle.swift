package import Ext4Format
internal import Synchronization

/// The right to change metadata in the running transaction. Closing (or dropping) it ends the right.
///
/// While one is open its thread must not wait for anything but locks lower in the order, and must not open another.
package struct Handle: ~Copyable {
    let journal: Journal
    let target: Transaction
    /// Credits not used yet: blocks that may still be joined. Below zero never for long, see `spend`.
    let remaining: Atomic<Int>
    let hasChanged = Atomic(false)

    init(journal: Journal, target: Transaction, credits: Int) {
        self.journal = journal
        self.target = target
        remaining = Atomic(credits)
    }

    deinit { journal.end(target, unused: remaining.load(ordering: .relaxed)) }

    package var transaction: TransactionID { target.id }

    package consuming func close() {}

    /// Joins the block to the running transaction (copying out the committing version first if needed), then changes
    /// it in place.
    package func modify<R>(
        _ block: CachedBlock, _ body: (inout MutableRawSpan) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        if block.joined.load(ordering: .acquiring) != target.serial { try join(block) }
        hasChanged.store(true, ordering: .relaxed)
        return try block.buffer.withMutableBytes(body)
    }

    private func join(_ block: CachedBlock) throws(Ext4Error) {
        try spend()
        let wasMember = try block.membership.withLock { member throws(Ext4Error) in
            if member.newest == target.serial {
                if member.isForgotten { throw Transaction.freedAndChanged(block.number) }
                return true
            }
            try target.add(block)
            member.join(target.serial, content: block.buffer)
            block.joined.store(target.serial, ordering: .releasing)
            return false
        }
        if wasMember { remaining.add(1, ordering: .relaxed) }
    }

    /// A block newly allocated for metadata: zero-filled, not read from disk, joined; cancels a revoke of the same
    /// transaction.
    package func create(_ number: FSBlock) throws(Ext4Error) -> CachedBlock {
        let block = try journal.cache.blockForNewContent(number)
        try spend()
        let wasMember = block.membership.withLock { member in
            let cancelled = target.contents.withLock { $0.revokes.remove(number.rawValue) != nil }
            let wasMember = member.newest == target.serial
            let canBeLogged = cancelled || member.newest != 0 || member.home != 0
            if wasMember {
                member.isFresh = member.isFresh && !cancelled
                member.isForgotten = false
            } else {
                member.join(target.serial, content: block.buffer)
                member.isFresh = !canBeLogged
                target.contents.withLock { $0.blocks.append(block) }
            }
            block.joined.store(target.serial, ordering: .releasing)
            return wasMember
        }
        if wasMember { remaining.add(1, ordering: .relaxed) }
        hasChanged.store(true, ordering: .relaxed)
        block.buffer.withMutableBytes { $0.fill(0..<$0.byteCount, with: 0) }
        block.markVerified()
        return block
    }

    /// A metadata block was freed in this transaction: takes it out of the transaction and revokes older logged
    /// copies. Costs a credit unless the block was joined before.
    package func revoke(_ number: FSBlock) throws(Ext4Error) {
        try spend()
        hasChanged.store(true, ordering: .relaxed)
        guard let block = journal.cache.cached(number) else {
            target.contents.withLock { _ = $0.revokes.insert(number.rawValue) }
            return
        }
        let wasMember = block.membership.withLock { member in
            let wasMember = member.newest == target.serial
            if !wasMember { member.join(target.serial, content: block.buffer) }
            member.isForgotten = true
            block.joined.store(0, ordering: .releasing)
            target.contents.withLock { contents in
                if !wasMember { contents.blocks.append(block) }
                if !member.isFresh { contents.revokes.insert(number.rawValue) }
            }
            return wasMember
        }
        if wasMember { remaining.add(1, ordering: .relaxed) }
    }

    /// Runs after the transaction is durable (never if the journal aborts), by the thread that committed, in order,
    /// with no journal lock held.
    package func onCommit(_ action: @escaping @Sendable () -> Void) {
        target.contents.withLock { $0.actions.append(action) }
    }

    /// More credits for this handle without giving up the transaction; false if the transaction or the log has no
    /// room.
    package func extend(credits: Int) -> Bool {
        guard journal.grant(credits, to: target) else { return false }
        remaining.add(credits, ordering: .relaxed)
        return true
    }

    /// Takes one credit. An operation that asked for too few gets one more while there is room: better than to fail
    /// half-way, which would abort the journal.
    private func spend() throws(Ext4Error) {
        let left = remaining.subtract(1, ordering: .relaxed).newValue
        if left >= 0 { return }
        remaining.add(1, ordering: .relaxed)
        guard journal.grant(1, to: target) else {
            throw .refused("an operation needed more room in the journal than it had asked for")
        }
    }
}
