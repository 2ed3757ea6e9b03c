package import Ext4Format
internal import Synchronization

extension Journal {
    /// The commit thread commits what grew old, what begin() finds full and what somebody is to hear of; the checkpoint
    /// thread empties the log in the background, and at once when begin() lacks space.
    func startThreads() {
        commitThread.start(name: "jext4-commit", intervalMilliseconds: max(1, options.commitSeconds) * 1000) {
            [self] wasWoken in commitWhatIsDue(isOld: !wasWoken)
        }
        answerer.start()
        checkpointThread.start(name: "jext4-checkpt", intervalMilliseconds: nil) { [self] _ in
            let goal = state.withLock { state in
                defer { state.isSpaceWanted = false }
                return state.isSpaceWanted ? CheckpointGoal.space : .background
            }
            do throws(Ext4Error) { try checkpoint(goal) } catch {}
        }
    }

    /// The first error wins. Every waiter is woken: who waits for a commit gets `.lost`, everybody later `.aborted`.
    /// Nothing later moves the tail, and once this has returned nothing is written home; s_errno is recorded as well as
    /// the device allows, and the hook of `setAfterAbort` runs. May be called with any lock of a higher layer held.
    package func abort(_ cause: Ext4Error) {
        switch cause {
        // No causes of their own: the journal was aborted before, or a thread in the background found it closed, and a
        // closed journal bears no error.
        case .aborted, .lost: return
        default: break
        }
        guard fail(cause) else { return }
        superBlock.recordError(Self.errorNumber(of: cause))
        checkpointer.stop()
        afterAbort.withLock { $0 }?.body(cause)
    }

    /// Lets nobody in any more and wakes everybody. False when that has happened before.
    private func fail(_ cause: Ext4Error) -> Bool {
        let told: (answers: [DurabilityAnswer], loss: Ext4Error)? = state.withLock { state in
            guard state.abortCause == nil else { return nil }
            state.abortCause = cause
            state.running.transaction.become(Transaction.Outcome.failed)
            state.committing?.transaction.become(Transaction.Outcome.failed)
            return (state.takeAnswers(), state.loss)
        }
        guard let told else { return false }
        answerer.give(told.loss, to: told.answers)
        state.notifyAll()
        commitGate.notifyAll()
        return true
    }

    /// Ends all writing as a power cut would, as FS_IOC_SHUTDOWN asks: when it returns nothing of the journal is under
    /// way, and nothing is written any more, not even s_errno. Waiters and later callers get `.shutDown`. No handle of
    /// the calling thread is open. After an abort, or another shutdown: what that left stays. True when the log is
    /// empty and everything is home. Throws, with the journal shut down, when the mode could not be kept.
    @discardableResult package func shutDown(_ mode: ShutdownMode) throws(Ext4Error) -> Bool {
        var failure: Ext4Error?
        if abortCause == nil {
            do throws(Ext4Error) {
                switch mode {
                case .atOnce: break
                case .afterCommit: try commitNow()
                case .afterFreeze: try freeze()
                }
            } catch {
                failure = error
            }
        }
        let isFirst = fail(.shutDown)
        if isFirst {
            superBlock.freeze()
            checkpointer.stop()
        }
        commitGate.wait { isBusy -> Void? in isBusy ? nil : () }
        checkpointer.gate.wait { isBusy -> Void? in isBusy ? nil : () }
        if let failure { throw failure }
        return isFirst && mode == .afterFreeze
    }

    /// Brings everything home and marks the log empty, while no new handle opens.
    private func freeze() throws(Ext4Error) {
        state.withLock { $0.isFrozen = true }
        state.notifyAll()
        // The handles that are open: a commit waits for them, also one that finds nothing to write.
        try commitNow()
        try emptyLog()
    }

    /// Why the journal was aborted, `.shutDown` when it was shut down; nil while it works.
    package var abortCause: Ext4Error? { state.withLock { $0.abortCause } }

    /// As `s_errno` has it: a negative errno.
    private static func errorNumber(of cause: Ext4Error) -> Int32 {
        switch cause {
        case .io(let errno, _, _, _): -abs(errno)
        case .posix(let errno): -abs(errno)
        case .corrupt: -117
        default: -5
        }
    }

    /// sync, checkpoint all, mark the log empty (s_start = 0, sequence advanced), stop the threads. No handle is open
    /// and none is opened any more. After an abort: `.aborted`, with the threads stopped and the log left as it is.
    package func close() throws(Ext4Error) {
        defer {
            commitThread.stop()
            checkpointThread.stop()
            // Who asked after the last commit had begun.
            let (late, loss) = state.withLock { state in (state.takeAnswers(), state.loss) }
            answerer.give(loss, to: late)
            answerer.stop()
        }
        try emptyLog()
        state.withLock { $0.isClosed = true }
    }

    /// No handle is open, and none is opened meanwhile.
    private func emptyLog() throws(Ext4Error) {
        try sync()
        try checkpoint(.everything)
        let (isEmptyOnDisk, next, head) = try state.withLock { state throws(Ext4Error) in
            try state.checkUsable()
            precondition(state.running.handleCount == 0 && state.committed.isEmpty)
            return (state.isEmptyOnDisk, state.running.transaction.id, state.head)
        }
        guard !isEmptyOnDisk else { return }
        do throws(Ext4Error) {
            try superBlock.setEmpty(head: head, sequence: next)
        } catch {
            abort(error)
            throw error
        }
    }
}
