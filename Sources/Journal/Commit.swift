internal import Ext4Format
internal import Synchronization
internal import Threads

// How a transaction becomes durable. The commit thread leads, or whoever waits for it; one at a time.

extension Journal {
    /// Returns when `transaction` is durable, or was found empty. This thread does the work if no other is at it.
    func commit(_ transaction: Transaction) throws(Ext4Error) {
        let isLeader = try commitGate.wait { isBusy throws(Ext4Error) in
            switch transaction.outcome {
            case Transaction.Outcome.durable, Transaction.Outcome.settled: return false
            case Transaction.Outcome.failed: throw loss
            default: break
            }
            if isBusy { return nil }
            isBusy = true
            return true
        }
        guard isLeader else { return }
        defer {
            commitGate.withLock { $0 = false }
            commitGate.notifyAll()
        }
        do throws(Ext4Error) {
            try commitRunning()
        } catch {
            abort(error)
            throw loss
        }
    }

    private func commitRunning() throws(Ext4Error) {
        var phases = JournalCounters.Phases(began: monotonicNanoseconds())
        guard let transaction = try lockRunning() else { return }
        phases.locked = monotonicNanoseconds()
        try runHook(transaction)
        let (start, mustMark, time, run) = try switchRunning(transaction)
        // Before the log's first block is overwritten, the super block must say where it begins.
        if mustMark { try superBlock.setTail(start: start, sequence: transaction.id) }
        let body = try writer.writeBody(of: transaction, at: start)
        phases.written = monotonicNanoseconds()
        state.withLock { $0.isFlushing = true }
        if log.device !== device { try log.device.flush() }
        try flusher.flush()
        phases.flushed = monotonicNanoseconds()
        try state.withLock { state throws(Ext4Error) in try state.checkUsable() }
        try writer.writeCommit(of: transaction, after: body, at: time)
        phases.ended = monotonicNanoseconds()
        settle(transaction)
        publish(transaction, body, start: start) { $0.add(run, phases) }
        for action in takeActions(of: transaction) { action() }
        transaction.become(Transaction.Outcome.settled)
    }

    /// Locks the running transaction and waits for its handles. Nil, and unlocked again, when it has nothing to log.
    private func lockRunning() throws(Ext4Error) -> Transaction? {
        let transaction = try state.wait { state throws(Ext4Error) in
            try state.checkUsable()
            state.running.isLocked = true
            return state.running.handleCount == 0 ? state.running.transaction : nil
        }
        guard transaction.contents.withLock({ $0.isEmpty }) else { return transaction }
        let actions = takeActions(of: transaction)
        let answers = state.withLock { state in
            state.running.isLocked = false
            // No handle is open and nothing was joined, but a credit may have been spent on a failed join.
            state.running.reserved = 0
            state.running.figures.requested = 0
            defer { state.running.answers = [] }
            return state.running.answers
        }
        state.notifyAll()
        if !answers.isEmpty { try flush(for: answers) }
        for action in actions { action() }
        return nil
    }

    /// For who asked about a transaction that was empty: data that was written before may still lie in the cache.
    private func flush(for answers: [DurabilityAnswer]) throws(Ext4Error) {
        do throws(Ext4Error) {
            try flushOrAbort()
        } catch {
            answerer.give(loss, to: answers)
            throw error
        }
        answerer.give(nil, to: answers)
    }

    private func takeActions(of transaction: Transaction) -> [@Sendable () -> Void] {
        transaction.contents.withLock { contents in
            defer { contents.actions = [] }
            return contents.actions
        }
    }

    private func runHook(_ transaction: Transaction) throws(Ext4Error) {
        guard let body = hook.withLock({ $0 })?.body else { return }
        state.withLock { state in
            state.running.handleCount += 1
            state.running.reserved += options.hookCredits
        }
        let handle = Handle(journal: self, target: transaction, credits: options.hookCredits)
        try body(handle)
        handle.close()
    }

    /// The transaction is complete: it becomes the committing one, and a new one takes handles from here on.
    private func switchRunning(
        _ transaction: Transaction
    ) throws(Ext4Error) -> (start: UInt32, mustMark: Bool, time: CommitTime, run: JournalCounters.Run) {
        let now = clock()
        let result = try state.withLock { state throws(Ext4Error) in
            try state.checkUsable()
            precondition(state.running.transaction === transaction && state.running.handleCount == 0)
            state.committing = JournalState.Committing(
                transaction: transaction, space: budget.space(for: state.running.reserved),
                answers: state.running.answers)
            state.isFlushing = false
            let next = Transaction(id: transaction.id.next, serial: state.nextSerial)
            state.nextSerial += 1
            let run = state.running.figures
            state.running = JournalState.Running(transaction: next)
            let mustMark = state.isEmptyOnDisk
            state.isEmptyOnDisk = false
            // Recovery takes a commit that is older than the one before it for a leftover.
            state.lastCommitTime = max(state.lastCommitTime, now)
            return (start: state.head, mustMark: mustMark, time: state.lastCommitTime, run: run)
        }
        state.notifyAll()
        return result
    }

    /// The transaction is durable: its blocks wait for their checkpoint, and those it freed are out of everybody's
    /// hands. Nothing may write a freed block home once the actions have told the allocator, so a home write that is
    /// under way is waited for.
    private func settle(_ transaction: Transaction) {
        var forgotten: [CachedBlock] = []
        var mustWait = false
        for block in transaction.contents.withLock({ $0.blocks }) {
            block.membership.withLock { member in
                let isForgotten =
                    member.newest == transaction.serial
                    ? member.isForgotten : member.older == transaction.serial && member.isOlderForgotten
                if isForgotten {
                    forgotten.append(block)
                    if member.isWritingHome { mustWait = true }
                }
                member.settle(transaction.serial)
            }
        }
        if mustWait { checkpointer.waitForWrites() }
        for block in forgotten { cache.forget(block) }
    }

    private func publish(
        _ transaction: Transaction, _ body: CommitWriter.Body, start: UInt32,
        _ count: (inout JournalCounters) -> Void
    ) {
        let length = body.logBlockCount + 1
        let (answers, isHalfFull) = state.withLock { state in
            let answers = state.committing?.answers ?? []
            precondition(
                Int(length) <= state.committing?.space ?? 0, "a transaction took more of the log than promised")
            state.committing = nil
            state.expectAnswered(answers.count)
            state.committed.append(JournalState.Committed(transaction: transaction, start: start))
            state.head = geometry.advance(start, by: length)
            state.used += Int(length)
            count(&state.counters)
            state.counters.logBlocks += Int(length)
            state.counters.loggedBlocks += body.blockCount
            state.counters.revokes += body.revokeCount
            return (answers, state.used > budget.logBlockCount / 2)
        }
        transaction.become(Transaction.Outcome.durable)
        state.notifyAll()
        commitGate.notifyAll()
        answerer.give(nil, to: answers)
        if isHalfFull && !options.isManual { checkpointThread.wake() }
    }
}
