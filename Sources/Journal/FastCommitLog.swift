package import Ext4Format

/// What the fast-commit area holds for one transaction: pure data, made by one scan that writes nothing.
///
/// A fast commit is what one fsync made durable of a transaction that was never committed as a whole. So those in the
/// area count only if their transaction is the one that would come next, and a full commit makes them obsolete.
package struct FastCommitLog: Sendable, Equatable {
    package struct Commit: Sendable, Equatable {
        /// Log blocks from the first record to the tail.
        package let blocks: Range<UInt32>
        /// In order, without head, pads and tail.
        package let records: [FastCommitRecord]
    }

    package struct Problem: Equatable, Sendable {
        /// What is wrong, in words.
        package let what: String
        /// The log block where it was found.
        package let position: UInt32
    }

    package enum End: Equatable, Sendable {
        /// The area does not begin with a head for this transaction.
        case absent
        /// Behind the last commit lies no further tail of this transaction.
        case clean
        /// A further commit did not fully reach the medium: nobody was told that it had.
        case torn(Problem)
        /// A commit is bad and a valid one lies behind it, or a valid one cannot be read: acknowledged changes are
        /// lost from there on.
        case damaged(Problem)
    }

    /// The transaction that they belong to: `RecoveryPlan.endID`.
    package let transaction: TransactionID
    /// Complete and valid, oldest first.
    package internal(set) var commits: [Commit] = []
    package internal(set) var end = End.absent

    package var isDamaged: Bool { if case .damaged = end { true } else { false } }
    package var records: some Sequence<FastCommitRecord> { commits.lazy.flatMap(\.records) }
}
