package import BlockIO
package import Ext4Format
internal import Synchronization
internal import Threads

/// A jbd2 journal that is open for writing: the running transaction, and the way of all transactions through the log
/// to their homes.
///
/// Locks, in order: a block's membership -> the contents of a transaction; the state's monitor -> a worker's. Of these
/// chains, and of the other locks here, a thread holds one at a time. Device I/O happens under the super block's lock
/// alone, and only that of the super block itself.
package final class Journal: Sendable {
    let cache: MetadataCache
    let device: any BlockDevice
    let log: LogArea
    let format: JournalFormat
    let geometry: LogGeometry
    let budget: LogBudget
    let options: JournalOptions
    let clock: CommitClock
    let hook: Mutex<CommitHook?>
    let afterAbort = Mutex<AbortHook?>(nil)
    let state: Monitor<JournalState>
    let superBlock: LogSuperBlock
    let flusher: SharedFlush
    let writer: CommitWriter
    let checkpointer: Checkpointer
    /// Whether a thread is in a commit, from locking to the last action.
    let commitGate = Monitor(false)
    let commitThread = Worker()
    let checkpointThread = Worker()
    let answerer = Answerer()

    /// Opens an empty log for writing. `device` holds the file system; the log may lie elsewhere. A log that is not
    /// empty is `.refused`: recovery comes first. The super block of the journal is checked against the log's length.
    package init(
        device: any BlockDevice, log: LogArea, cache: MetadataCache, superBlock: JournalSuperBlock,
        options: JournalOptions, clock: @escaping CommitClock, beforeCommit: BeforeCommit? = nil
    ) throws(Ext4Error) {
        guard superBlock.start == 0 || options.continuesLog else { throw .refused("the journal needs recovery") }
        guard superBlock.readOnlyCompatible == 0 else {
            throw .unsupported(features: ["journal_ro_compat"], hint: "the journal was written by a newer system")
        }
        // A log that goes on keeps its super block until the first checkpoint, and with it its format.
        let upgraded =
            superBlock.start != 0
            ? superBlock : superBlock.upgraded(wide: options.isWide, checksums: options.wantsChecksums)
        geometry = try LogGeometry(
            upgraded, blockByteCount: log.blockByteCount, blockCount: log.blockCount)
        format = JournalFormat(upgraded)
        guard cache.blockCount <= format.homeLimit else {
            throw .corrupt("journal super block", where: "no 64-bit block numbers, the volume needs them")
        }
        budget = LogBudget(format, geometry, options)
        guard budget.space(for: budget.maximumReserved) <= budget.logBlockCount else {
            throw .refused("the journal of \(budget.logBlockCount) blocks is too small to write to")
        }
        self.cache = cache
        self.device = device
        self.log = log
        self.options = options
        self.clock = clock
        hook = Mutex(beforeCommit.map { CommitHook(body: $0) })
        state = Monitor(JournalState(upgraded, geometry, budget))
        self.superBlock = try LogSuperBlock(upgraded, log: log)
        flusher = SharedFlush(device: device)
        writer = CommitWriter(log: log, format: format, geometry: geometry, budget: budget)
        checkpointer = Checkpointer(blockByteCount: log.blockByteCount)
        if !options.isManual { startThreads() }
    }

    /// Sets the hook when it could not be given at init, before the first handle is opened.
    package func setBeforeCommit(_ body: @escaping BeforeCommit) { hook.withLock { $0 = CommitHook(body: body) } }

    package func setAfterAbort(_ body: @escaping AfterAbort) { afterAbort.withLock { $0 = AbortHook(body: body) } }

    /// Takes back the `s_errno` that an earlier mount has left, once the file system itself says that it needs a check.
    package func clearRecordedError() throws(Ext4Error) { try superBlock.clearError() }

    /// The most credits that one handle may ask for.
    package var maximumCredits: Int { budget.maximumReserved - options.hookCredits }

    package var isAborted: Bool { state.withLock { $0.abortCause != nil } }
    package var counters: JournalCounters { state.withLock { $0.counters } }
    /// The transaction that a handle opened now would join.
    package var runningTransaction: TransactionID { state.withLock { $0.running.transaction.id } }

    // MARK: Handles

    /// Opens a handle in the running transaction; waits (with no lock held by the journal) while the transaction is
    /// full or locked, or the log lacks space. `.aborted` after an abort; `.refused` for more than `maximumCredits`.
    package func begin(credits: Int) throws(Ext4Error) -> Handle {
        precondition(credits >= 0)
        guard credits <= maximumCredits else {
            throw .refused("an operation needs \(credits) journal blocks, the journal allows \(maximumCredits)")
        }
        if options.isManual { return try beginByHand(credits) }
        // Only who has to wait looks at the clock.
        var began: UInt64 = 0
        let transaction: Transaction = try state.wait { state throws(Ext4Error) in
            switch try admit(credits, &state) {
            case .open(let transaction):
                if began != 0 {
                    let wait = monotonicNanoseconds() - began
                    state.running.figures.longestWait = max(state.running.figures.longestWait, wait)
                }
                return transaction
            case .locked: break
            case .full:
                // The commit thread may wait for those who are to ask soon.
                if !state.running.isFull { self.state.notifyAll() }
                state.running.isFull = true
                commitThread.wake()
            case .noSpace:
                state.isSpaceWanted = true
                checkpointThread.wake()
            }
            if began == 0 { began = monotonicNanoseconds() }
            return nil
        }
        return Handle(journal: self, target: transaction, credits: credits)
    }

    /// Without threads the caller does what is in the way of its handle.
    private func beginByHand(_ credits: Int) throws(Ext4Error) -> Handle {
        while true {
            switch try state.withLock({ state throws(Ext4Error) in try admit(credits, &state) }) {
            case .open(let transaction): return Handle(journal: self, target: transaction, credits: credits)
            case .locked: preconditionFailure("a handle was asked for inside a commit")
            case .full: try commitNow()
            case .noSpace: try checkpoint(.space)
            }
        }
    }

    private enum Admission {
        case open(Transaction)
        case locked
        case full
        case noSpace
    }

    private func admit(_ credits: Int, _ state: inout JournalState) throws(Ext4Error) -> Admission {
        try state.checkUsable()
        if state.isFrozen { throw .shutDown }
        guard !state.running.isLocked else { return .locked }
        if let obstacle = obstacle(to: credits, state) { return obstacle }
        if state.running.figures.started == 0 { state.running.figures.started = monotonicNanoseconds() }
        state.running.figures.handleTotal += 1
        state.running.handleCount += 1
        state.running.reserved += credits
        return .open(state.running.transaction)
    }

    /// Why `credits` more do not fit the running transaction; nil when they do.
    private func obstacle(to credits: Int, _ state: JournalState) -> Admission? {
        let wanted = state.running.reserved + credits
        guard wanted + options.hookCredits <= budget.maximumReserved else {
            return .full
        }
        return hasSpace(for: wanted, state) ? nil : .noSpace
    }

    private func hasSpace(for reserved: Int, _ state: JournalState) -> Bool {
        let needed = budget.space(for: reserved + options.hookCredits) + (state.committing?.space ?? 0)
        return state.used + needed <= budget.logBlockCount
    }

    /// More credits for an open handle.
    func grant(_ credits: Int, to transaction: Transaction) -> Bool {
        state.withLock { state in
            // Only the running transaction has open handles, and the hook's handle has its own reserve.
            guard state.abortCause == nil, state.running.transaction === transaction,
                obstacle(to: credits, state) == nil
            else { return false }
            state.running.reserved += credits
            return true
        }
    }

    /// A handle is closed. Unused credits go back.
    func end(_ transaction: Transaction, unused: Int) {
        let isLast = state.withLock { state in
            guard state.running.transaction === transaction else { return false }
            state.running.handleCount -= 1
            state.running.reserved -= max(0, unused)
            return state.running.handleCount == 0 && state.running.isLocked
        }
        if isLast { state.notifyAll() }
    }

    /// begin + body + close. If body throws after the handle has changed a block, the journal aborts: nothing half-done
    /// may commit.
    package func withHandle<R>(
        credits: Int, _ body: (borrowing Handle) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        let handle = try begin(credits: credits)
        do throws(Ext4Error) {
            let result = try body(handle)
            handle.close()
            return result
        } catch {
            // The abort comes before the handle closes, so that no commit can slip in between.
            if handle.hasChanged.load(ordering: .relaxed) { abort(error) }
            throw error
        }
    }
}
