package import Ext4Format

// What FileSystem gives the journal to call. A closure that a generic lock holds is wrapped anew at each access, and
// the lock keeps the wrapping: so each lies in a structure of its own.

/// Called with a handle of a locked transaction that has changed something, when no other handle is open.
package typealias BeforeCommit = @Sendable (borrowing Handle) throws(Ext4Error) -> Void

/// Called once, when the journal is aborted, by the thread that met the error and with whatever locks that holds: it
/// must neither take one of theirs nor call the journal.
package typealias AfterAbort = @Sendable (Ext4Error) -> Void

/// Hears of every block that could not be read, on the thread that wanted it and with whatever locks that holds.
package typealias ReadFailureHook = @Sendable (FSBlock, Ext4Error) -> Void

/// Called once with nil when what it was asked for is durable, or with why it will never be.
package typealias DurabilityAnswer = @Sendable (Ext4Error?) -> Void

struct CommitHook: Sendable {
    let body: BeforeCommit
}

struct AbortHook: Sendable {
    let body: AfterAbort
}

struct FailureHook: Sendable {
    let body: ReadFailureHook
}
