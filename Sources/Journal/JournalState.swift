internal import Ext4Format
internal import Threads

/// What the journal's one monitor guards: which transactions there are and how much of the log they need.
///
/// The log is a ring: `tail` ... `head` holds committed transactions that are not all home; `head` onwards is free.
/// Space is promised before it is used: a handle opens only when what it may log fits behind what the transactions
/// before it may log, so a commit never has to wait for space.
struct JournalState {
    struct Running {
        let transaction: Transaction
        var handleCount = 0
        /// Blocks joined, and credits of open handles that may become such.
        var reserved = 0
        /// Being committed: no new handles.
        var isLocked = false
        var figures = JournalCounters.Run()
        /// Who is to hear when it is durable.
        var answers: [DurabilityAnswer] = []
        /// A handle waits for the next transaction.
        var isFull = false
    }
    /// The transaction whose commit is under way, and the log blocks that it may take.
    struct Committing {
        let transaction: Transaction
        let space: Int
        var answers: [DurabilityAnswer]
    }
    struct Committed {
        let transaction: Transaction
        /// The log block where it begins.
        let start: UInt32
    }

    var running: Running
    var nextSerial: UInt64
    var committing: Committing?
    /// The commit under way has asked for its flush: what is written from now on may not be covered by it.
    var isFlushing = false
    /// Oldest first: committed, not known to be all home.
    var committed: [Committed] = []
    var head: UInt32
    /// Log blocks from the durable tail to `head`.
    var used = 0
    /// On disk s_start is 0: it must become the head before anything is written to the log.
    var isEmptyOnDisk: Bool
    /// How many will probably have asked for the next commit in a while; 0: nobody is waited for.
    private(set) var expectedCount = 0
    /// A handle waits for log space.
    var isSpaceWanted = false
    var lastCommitTime = CommitTime(seconds: 0, nanoseconds: 0)
    var abortCause: Ext4Error?
    /// No new handles: the log is being emptied for a shutdown.
    var isFrozen = false
    var isClosed = false

    var counters: JournalCounters

    /// A log without transactions. One that goes on does so at `s_start`; an empty one, as in Linux, where it stopped
    /// the last time, if that is a place in the ring.
    init(_ superBlock: JournalSuperBlock, _ geometry: LogGeometry, _ budget: LogBudget) {
        counters = JournalCounters(maximumBlocks: budget.maximumReserved)
        running = Running(transaction: Transaction(id: superBlock.sequence, serial: 1))
        nextSerial = 2
        isEmptyOnDisk = superBlock.start == 0
        let last = (geometry.first..<geometry.end).contains(superBlock.head) ? superBlock.head : geometry.first
        head = isEmptyOnDisk ? last : superBlock.start
    }

    /// How far a transaction is, and whether its commit will make durable what is written to its files from now on.
    enum Standing {
        case running(Transaction)
        case committing(Transaction, coversData: Bool)
        case durable
    }

    func standing(of transaction: TransactionID) -> Standing {
        if running.transaction.id == transaction { return .running(running.transaction) }
        guard let committing, committing.transaction.id == transaction else { return .durable }
        return .committing(committing.transaction, coversData: !isFlushing)
    }

    /// Those who were to hear of a transaction that is not durable yet.
    mutating func takeAnswers() -> [DurabilityAnswer] {
        defer {
            committing?.answers = []
            running.answers = []
        }
        return (committing?.answers ?? []) + running.answers
    }

    /// A commit has answered so many while others waited already: they are likely to ask again soon, and one commit for
    /// all is less work than two. A thread that is alone never waits for itself.
    mutating func expectAnswered(_ count: Int) {
        expectedCount = running.answers.isEmpty ? 0 : running.answers.count + count
    }

    /// Whether all who are expected have asked for the next commit.
    var hasAllExpected: Bool { running.answers.count >= expectedCount }

    /// Somebody waits for the commit of the running transaction.
    mutating func noteRequest() {
        if running.figures.requested == 0 { running.figures.requested = monotonicNanoseconds() }
    }

    func checkUsable() throws(Ext4Error) {
        if abortCause == .shutDown { throw .shutDown }
        if abortCause != nil || isClosed { throw .aborted }
    }

    /// What the waiters of a transaction hear that will never be durable.
    var loss: Ext4Error {
        switch abortCause {
        case nil, .aborted: .aborted
        case .shutDown: .shutDown
        case let cause?: .lost(cause.description)
        }
    }
}

/// How many log blocks transactions need, from the format and the length of the log.
struct LogBudget {
    /// Blocks in one write of the log, and so the most that one descriptor describes, itself included.
    let bufferBlockCount: Int
    let tagsPerDescriptor: Int
    /// Blocks of the ring.
    let logBlockCount: Int
    /// The most blocks that one transaction may join.
    let maximumReserved: Int

    private static let bufferByteCount = 1 << 20

    init(_ format: JournalFormat, _ geometry: LogGeometry, _ options: JournalOptions) {
        bufferBlockCount = max(16, Self.bufferByteCount / format.blockByteCount)
        tagsPerDescriptor = format.tagsPerDescriptor
        logBlockCount = Int(geometry.count)
        // At least one block beside the hook's, whatever the log: a minimal log has 15 blocks.
        let overhead = Self.overhead(of: logBlockCount, tagsPerDescriptor, bufferBlockCount)
        let share = min(logBlockCount / options.transactionShare, logBlockCount - overhead)
        maximumReserved = max(options.hookCredits + 1, share)
    }

    /// The most log blocks that a transaction of `count` blocks and revokes can take: they, their descriptors (one for
    /// each full set of tags and one for each buffer, which holds descriptors and revokes too, hence the quarter), a
    /// partly filled revoke block and the commit block.
    func space(for count: Int) -> Int { count + Self.overhead(of: count, tagsPerDescriptor, bufferBlockCount) }

    private static func overhead(of count: Int, _ tagsPerDescriptor: Int, _ bufferBlockCount: Int) -> Int {
        count / tagsPerDescriptor + count / (bufferBlockCount * 3 / 4) + 6
    }
}
