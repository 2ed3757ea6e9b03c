package import Ext4Format
internal import Synchronization
internal import Threads

// Who wants a transaction durable, and how they hear of it: a thread of the caller's that waits, or an answer that the
// journal gives on a thread of its own.

extension Journal {
    /// Returns when the transaction is durable; starts its commit if it is running. If it is already durable, one
    /// device flush (shared by all who ask together), so that data written in place is durable too.
    package func makeDurable(_ transaction: TransactionID) throws(Ext4Error) {
        let (pending, needsFlush): (Transaction?, Bool) = try state.withLock { state throws(Ext4Error) in
            try state.checkUsable()
            switch state.standing(of: transaction) {
            case .running(let running):
                state.noteRequest()
                return (running, false)
            case .committing(let committing, let coversData): return (committing, !coversData)
            case .durable: return (nil, true)
            }
        }
        if let pending {
            try commit(pending)
            if pending.outcome != Transaction.Outcome.pending && !needsFlush { return }
        }
        try flushOrAbort()
    }

    /// As `makeDurable`, but does not wait: `answer` is called once, when the transaction is durable or will never be.
    /// On a thread of the journal's with no lock held, or on this one before the call returns.
    package func makeDurable(_ transaction: TransactionID, then answer: @escaping DurabilityAnswer) {
        guard !enqueue(answer, for: transaction) else { return }
        do throws(Ext4Error) {
            try makeDurable(transaction)
            answer(nil)
        } catch {
            answer(error)
        }
    }

    /// False when no commit to come covers the transaction and the data that the caller wrote before.
    private func enqueue(_ answer: @escaping DurabilityAnswer, for transaction: TransactionID) -> Bool {
        guard !options.isManual else { return false }
        let (isTaken, isAllExpected) = state.withLock { state in
            guard state.abortCause == nil, !state.isClosed else { return (false, false) }
            switch state.standing(of: transaction) {
            case .running:
                state.noteRequest()
                state.running.answers.append(answer)
                if state.running.answers.count == 1 { commitThread.wake() }
                return (true, state.hasAllExpected)
            case .committing(_, coversData: true):
                state.committing?.answers.append(answer)
                return (true, false)
            case .committing, .durable: return (false, false)
            }
        }
        if isAllExpected { state.notifyAll() }
        return isTaken
    }

    /// The work of the commit thread: what grew old, what is full, and what somebody is to hear of. A call that came
    /// while the commit it asks for was under way finds neither.
    func commitWhatIsDue(isOld: Bool) {
        if !isOld { waitForExpected() }
        let isDue = isOld || state.withLock { $0.running.isFull || !$0.running.answers.isEmpty }
        guard isDue else { return }
        // An error has aborted the journal, and whoever waits has been told.
        do throws(Ext4Error) { try commitNow() } catch {}
    }

    /// Not longer than half of what a commit takes: see `expectAnswered`.
    private func waitForExpected() {
        let most = state.withLock { $0.hasAllExpected ? 0 : $0.counters.averageCommit / 2 }
        guard most > 0 else { return }
        _ = state.wait(nanoseconds: Int(min(most, Self.longestWaitNanoseconds))) { state -> Void? in
            state.hasAllExpected || state.running.isFull || state.abortCause != nil ? () : nil
        }
    }
    private static let longestWaitNanoseconds: UInt64 = 10_000_000

    /// Commits what is running and waits, also for its actions. Data written in place is durable too: by the flush of
    /// that commit, which begins after this call, or by one of its own when there was nothing to commit.
    package func sync() throws(Ext4Error) {
        if try !commitAndSettle(isRequested: true) { try flushOrAbort() }
    }

    /// Commits the running transaction, if it has changed anything, and waits until its actions have run.
    package func commitNow() throws(Ext4Error) { _ = try commitAndSettle(isRequested: false) }

    /// False when there was nothing to commit.
    private func commitAndSettle(isRequested: Bool) throws(Ext4Error) -> Bool {
        let transaction = try state.withLock { state throws(Ext4Error) in
            try state.checkUsable()
            if isRequested { state.noteRequest() }
            return state.running.transaction
        }
        try commit(transaction)
        return try commitGate.wait { isBusy throws(Ext4Error) in
            switch transaction.outcome {
            case Transaction.Outcome.settled: true
            case Transaction.Outcome.failed: throw loss
            // Still pending with nobody at work: it was empty.
            case Transaction.Outcome.pending: isBusy ? nil : false
            default: nil
            }
        }
    }

    var loss: Ext4Error { state.withLock { $0.loss } }

    func flushOrAbort() throws(Ext4Error) {
        do throws(Ext4Error) {
            try flusher.flush()
        } catch {
            abort(error)
            throw error
        }
    }
}
