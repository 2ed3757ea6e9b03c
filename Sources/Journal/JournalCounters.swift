/// What a journal has done since it was opened, as Linux tells it in /proc/fs/jbd2/DEVICE/info and a little more. Times
/// are sums over all commits, in nanoseconds, but for `averageCommit`.
package struct JournalCounters: Sendable, Equatable {
    /// The most blocks that one transaction may change.
    package let maximumBlocks: Int
    package var commits = 0
    /// Commits that somebody asked for, and not the interval alone.
    package var requested = 0
    package var handles = 0
    /// Copies of blocks that went to the log.
    package var loggedBlocks = 0
    /// All blocks that went to the log, those of revokes, descriptors and commits among them.
    package var logBlocks = 0
    package var revokes = 0
    package var checkpoints = 0
    package var homeBlocks = 0

    /// The longest that a handle waited to get into the transaction.
    package var waiting: UInt64 = 0
    /// From the first that asked for the commit to its begin.
    package var requestDelay: UInt64 = 0
    /// From the first handle of the transaction to its commit.
    package var running: UInt64 = 0
    /// Waiting for open handles to close.
    package var locked: UInt64 = 0
    /// The flush of the device between the log and its commit block, which also makes the data durable.
    package var flushing: UInt64 = 0
    /// Writing to the log.
    package var logging: UInt64 = 0
    /// The time of a whole commit, a new one counting for a quarter.
    package var averageCommit: UInt64 = 0

    init(maximumBlocks: Int) { self.maximumBlocks = maximumBlocks }

    /// The life of a transaction until its commit, in nanoseconds of the monotonic clock.
    struct Run {
        /// When the first handle came.
        var started: UInt64 = 0
        /// When somebody first asked for the commit; 0: nobody has.
        var requested: UInt64 = 0
        /// The longest that a handle waited.
        var longestWait: UInt64 = 0
        var handleTotal = 0
    }

    /// When a commit reached what, in nanoseconds of the monotonic clock.
    struct Phases {
        let began: UInt64
        var locked: UInt64 = 0
        var written: UInt64 = 0
        var flushed: UInt64 = 0
        var ended: UInt64 = 0
    }

    mutating func add(_ run: Run, _ phases: Phases) {
        commits += 1
        handles += run.handleTotal
        waiting += run.longestWait
        running += phases.began - min(run.started, phases.began)
        if run.requested != 0 {
            requested += 1
            requestDelay += phases.began - min(run.requested, phases.began)
        }
        locked += phases.locked - phases.began
        flushing += phases.flushed - phases.written
        logging += phases.written - phases.locked + phases.ended - phases.flushed
        let whole = phases.ended - phases.began
        averageCommit = averageCommit == 0 ? whole : (whole + 3 * averageCommit) / 4
    }
}
