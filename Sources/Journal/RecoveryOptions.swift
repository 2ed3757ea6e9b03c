package import Ext4Format

/// What a recovery may use, and how far it goes.
package struct RecoveryOptions: Sendable {
    /// Bytes of logged blocks that the scan keeps for replay. What does not fit is read from the log a second time.
    package var memoryByteCount = 256 << 20
    /// The last transaction to apply; nil: the last that is whole. What comes after it is listed and not applied. One
    /// that the good part of the log does not hold is `.refused`; the one before the first means to apply none.
    package var last: TransactionID?
    /// Told of the scan as it goes on, and of the replay.
    package var progress: RecoveryProgress.Handler?

    package init() {}
}

/// How far a recovery has come, for whoever waits: every few MiB, and at the end of each phase.
///
/// Give a handler to `RecoveryOptions.progress` for the scan and to `RecoveryPlan.apply` for the writing. It is called
/// in the thread that recovers, which waits for it.
package struct RecoveryProgress: Equatable, Sendable {
    package enum Phase: Sendable {
        /// Log blocks read and verified. Where the log ends is not known yet: `total` is all that it could hold.
        case scanning
        /// Blocks written home.
        case writing
        /// All is written, and the device makes it durable. The counts are those of the writing.
        case flushing
    }
    package let phase: Phase
    package let done: Int
    package let total: Int

    package typealias Handler = @Sendable (RecoveryProgress) -> Void

    package init(phase: Phase, done: Int, total: Int) {
        self.phase = phase
        self.done = done
        self.total = total
    }
}
