package import Ext4Format

/// What a log holds and what replay would write: pure data, made by one scan that writes nothing.
///
/// Memory is bounded by the number of log blocks: revoke records stay in the log, only their blocks are noted. Single
/// copies are listed on demand.
package struct RecoveryPlan: Sendable {
    package enum Detail: Sendable {
        /// What replay needs.
        case copies
        /// Also every logged block, superseded ones included, with a verdict.
        case everything
    }

    /// One logged copy of a block.
    package struct LoggedBlock: Equatable, Sendable {
        /// Where the copy lies, a log block.
        package let position: UInt32
        package let home: FSBlock
        package let isEscaped: Bool
        /// From its tag; 0 where tags have none.
        package let checksum: UInt32
        package internal(set) var verdict: Verdict
    }
    package enum Verdict: Equatable, Sendable {
        /// The checksum of the tag holds.
        case good
        /// The log has no checksum for single blocks.
        case unchecked
        case badChecksum
        /// The tag names a block past the end of the volume.
        case homePastEnd
        /// The tag names a block of the log itself.
        case homeInLog
    }

    package struct LoggedTransaction: Sendable {
        package let id: TransactionID
        /// The log block of its first descriptor or revoke block.
        package let start: UInt32
        /// The log block of its commit block; nil when there is none, or none that is valid.
        package internal(set) var commit: UInt32?
        package internal(set) var time: CommitTime?
        package internal(set) var blockCount = 0
        /// Only in a plan that was scanned for everything.
        package internal(set) var blocks: [LoggedBlock] = []
        /// Log blocks with revoke records, and how many records those hold.
        package internal(set) var revokeBlocks: [UInt32] = []
        package internal(set) var revokeCount = 0
        /// The first thing that is wrong with it.
        package internal(set) var problem: Problem?
    }

    package struct Problem: Equatable, Sendable {
        package enum Kind: String, Sendable {
            case descriptorChecksum = "descriptor checksum"
            case revokeChecksum = "revoke block checksum"
            case revokeCount = "revoke block byte count"
            case commitChecksum = "commit block checksum"
            case payloadChecksum = "transaction checksum"
            case blockChecksum = "logged block checksum"
            case homePastEnd = "home block past the end of the volume"
            case homeInLog = "home block inside the log"
            case blockType = "unknown block type"
            /// Not a block of jbd2's own: where nothing was ever written, or the damage hides what was.
            case noBlock = "no journal block"
            /// What the ring held before: the usual end of a log that has gone round.
            case olderBlock = "a block of an older transaction"
            /// A transaction is missing before it.
            case laterBlock = "a block of a later transaction"
            /// The expected sequence with a bad checksum, and a commit time before that of the last good commit: from
            /// an earlier life of the log.
            case leftover = "a block left over from an earlier use of the log"
            /// The log goes round without an end.
            case endless = "a log longer than its area"

            /// Whether a write that did not reach the medium looks like this.
            var isTear: Bool {
                switch self {
                case .descriptorChecksum, .revokeChecksum, .commitChecksum, .payloadChecksum, .blockChecksum, .noBlock,
                    .olderBlock:
                    true
                case .revokeCount, .homePastEnd, .homeInLog, .blockType, .laterBlock, .leftover, .endless: false
                }
            }
        }
        package let kind: Kind
        /// The log block where it was found.
        package let position: UInt32

        package init(kind: Kind, position: UInt32) {
            self.kind = kind
            self.position = position
        }
    }

    /// Why the log ends where it ends.
    package enum End: Equatable, Sendable {
        /// The super block says that there is nothing to replay.
        case empty
        /// Behind the last commit lies nothing of the next transaction: the usual end.
        case clean
        /// The next transaction began and was never committed, or its commit did not fully reach the medium.
        case torn(Problem)
        /// Something is wrong and valid commits lie behind it, or a committed transaction is itself bad: acknowledged
        /// changes are lost from there on. `laterCommit` is the newest id known to have been committed.
        case damaged(Problem, laterCommit: TransactionID)
    }

    /// The newest logged copy of a block that no later revoke covers.
    package struct Copy: Equatable, Sendable {
        package let home: FSBlock
        package let position: UInt32
        package let isEscaped: Bool
        package let checksum: UInt32
        package let transaction: TransactionID
        /// Where the scan has kept it; `LogMemory.none` where it has not.
        var place: UInt32
    }

    package internal(set) var superBlock: JournalSuperBlock
    package internal(set) var geometry: LogGeometry
    /// What the caller wanted to be the last transaction that is applied.
    package let limit: TransactionID?
    let memory: LogMemory
    /// Complete and valid, oldest first: what replay applies.
    package internal(set) var transactions: [LoggedTransaction] = []
    /// What begins behind the last of those and is not applied: torn, damaged, or behind damage.
    package internal(set) var unapplied: [LoggedTransaction] = []
    package internal(set) var end: End = .empty
    /// What the scan met where it stopped. Behind a sound log: nothing of the journal, or what the ring held before.
    package internal(set) var stop: Problem?
    /// The first commit that is older by its clock than the one before it. Someone set the clock back: sequences and
    /// checksums decide, as everywhere, and the transaction is applied.
    package internal(set) var timeRunsBackwards: TransactionID?
    /// Good transactions behind `limit` are not applied.
    package internal(set) var isCut = false
    /// The log block where the scan stopped; the start of what is not applied.
    package internal(set) var endPosition: UInt32
    /// The first transaction that is not applied.
    package internal(set) var endID: TransactionID
    /// What the log must go on with, so that nothing left in it can ever be taken for new.
    package internal(set) var nextSequence: TransactionID
    /// Sorted by home.
    package internal(set) var copies: [Copy] = []
    /// Copies that were dropped because their block was revoked.
    package internal(set) var revokedCopyCount = 0
    /// What lies in the fast-commit area for `endID`; nil when there is no area, or the log is empty or damaged.
    package internal(set) var fastCommits: FastCommitLog?
    package var hasFastCommits: Bool { fastCommits.map { !$0.commits.isEmpty } ?? false }

    /// Whether the log has lost acknowledged changes. Applying it then needs a `limit`: the owner's word.
    package var isDamaged: Bool {
        if case .damaged = end { return true }
        return fastCommits?.isDamaged ?? false
    }
    /// Whether there is nothing to write and the log is marked empty already.
    package var isEmpty: Bool { end == .empty }
}
