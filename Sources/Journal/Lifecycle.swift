package import Ext4Format
internal import Synchronization

extension Journal {
    /// The commit thread commits what grew old and what begin() finds full; the checkpoint thread empties the log in
    /// the background, and at once when begin() lacks space.
    func startThreads() {
        commitThread.start(name: "jext4-commit", intervalMilliseconds: max(1, options.commitSeconds) * 1000) { [self] in
            // An error has aborted the journal, and whoever waits has been told.
            do throws(Ext4Error) { try commitNow() } catch {}
        }
        checkpointThread.start(name: "jext4-checkpt", intervalMilliseconds: nil) { [self] in
            let goal = state.withLock { state in
                defer { state.isSpaceWanted = false }
                return state.isSpaceWanted ? CheckpointGoal.space : .background
            }
            do throws(Ext4Error) { try checkpoint(goal) } catch {}
        }
    }

    /// The first error wins; every waiter is woken with `.aborted`; nothing later moves the tail; s_errno recorded as
    /// well as the device allows.
    package func abort(_ cause: Ext4Error) {
        // Not a cause of its own: the journal was aborted before, or a thread in the background found it closed, and a
        // closed journal bears no error.
        if cause == .aborted { return }
        let isFirst = state.withLock { state in
            guard state.abortCause == nil else { return false }
            state.abortCause = cause
            state.running.transaction.become(Transaction.Outcome.failed)
            state.committing?.transaction.become(Transaction.Outcome.failed)
            return true
        }
        guard isFirst else { return }
        state.notifyAll()
        commitGate.notifyAll()
        superBlock.recordError(Self.errorNumber(of: cause))
    }

    /// Why the journal was aborted; nil while it works.
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
        }
        try sync()
        try checkpoint(.everything)
        let (isEmptyOnDisk, next) = try state.withLock { state throws(Ext4Error) in
            try state.checkUsable()
            precondition(state.running.handleCount == 0 && state.committed.isEmpty)
            state.isClosed = true
            return (state.isEmptyOnDisk, state.running.transaction.id)
        }
        guard !isEmptyOnDisk else { return }
        do throws(Ext4Error) {
            try superBlock.setTail(start: 0, sequence: next)
        } catch {
            abort(error)
            throw error
        }
    }
}
