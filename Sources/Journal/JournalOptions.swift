package import Ext4Format

/// How a journal behaves; what FileSystem decides at mount.
package struct JournalOptions: Sendable {
    /// Seconds between commits that nobody asked for.
    package var commitSeconds = 5
    /// A transaction may fill one part in this many of the log.
    package var transactionShare = 4
    /// No threads: commits and checkpoints happen in the calls that need them, so that a test's seed decides all.
    package var isManual = false
    /// Credits of the handle that the `beforeCommit` hook gets.
    package var hookCredits = 4
    /// Whether home block numbers may need more than 32 bits (the 64bit feature).
    package var isWide = false
    /// Whether to write checksums v3 when the journal has none of its own kind yet (metadata_csum).
    package var wantsChecksums = false

    /// The log holds nothing and is not marked empty: it goes on at s_start with s_sequence, in the format it has. Then
    /// what is committed first takes the place of what recovery would find there (`RecoveryPlan.markContinued`).
    package var continuesLog = false

    package init() {}
}

/// How FS_IOC_SHUTDOWN ends the writing of a journal.
package enum ShutdownMode: UInt32, Sendable {
    /// Everything is brought home and the log is empty, as after a freeze (GOING_FLAGS_DEFAULT).
    case afterFreeze = 0
    /// What has finished is committed (GOING_FLAGS_LOGFLUSH).
    case afterCommit = 1
    /// What no commit has covered is lost (GOING_FLAGS_NOLOGFLUSH).
    case atOnce = 2
}

/// Gives the time for commit blocks.
package typealias CommitClock = @Sendable () -> CommitTime
