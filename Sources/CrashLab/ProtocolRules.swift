/// What a journaling file system must keep to so that a power cut at any moment leaves a volume that recovery puts
/// right. The numbers are those that reports show: I1 ... I12. docs/jext4-replay.md says what a write log can show of
/// each.
package enum ProtocolRule: Int, CaseIterable, Sendable {
    case commitAfterFlush = 1
    case homeAfterCommit
    case tailAfterCheckpoint
    case logReuseAfterTail
    case revokeBeforeReuse
    case acknowledgement
    case sequence
    case recoveryOrder
    case justifiedHome
    case stableContent
    case noOverlap
    case stopAfterFailure

    package var id: String { "I\(rawValue)" }

    /// What must hold.
    package var text: String {
        switch self {
        case .commitAfterFlush: "a commit block is submitted when all else of its transaction is durable"
        case .homeAfterCommit: "a block is written home when the transaction that holds it so is durable"
        case .tailAfterCheckpoint: "a transaction leaves the log when its blocks are durable at home; by FUA"
        case .logReuseAfterTail: "a log block is used again when the durable super block of the log has left it behind"
        case .revokeBeforeReuse: "a logged block that was freed holds other data only behind a durable revoke"
        case .acknowledgement: "a sync returns when what it covers is durable"
        case .sequence: "transaction ids grow by one, and never come back"
        case .recoveryOrder: "recovery empties the log when what it replayed is durable"
        case .justifiedHome: "metadata reaches its home only out of the log"
        case .stableContent: "what is in the log is what its checksums were computed from"
        case .noOverlap: "writes that overlap are not in flight together"
        case .stopAfterFailure: "nothing is committed, and no tail moves, after a write or flush of the journal failed"
        }
    }
}

/// One place where a log breaks a rule.
package struct ProtocolViolation: Hashable, Sendable, CustomStringConvertible {
    package let rule: ProtocolRule
    /// The index of the entry of the write log, or of the event of the trace.
    package let event: Int
    /// The block of the volume, where it is about one.
    package let block: UInt64?
    package let text: String

    package var description: String {
        "\(rule.id) entry \(event)\(block.map { ", block \($0)" } ?? ""): \(text)"
    }
}
