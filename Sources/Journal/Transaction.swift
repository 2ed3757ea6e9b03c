internal import Ext4Format
internal import Synchronization

/// What handles put together and one commit makes durable. Its blocks are pinned in the cache by being listed here.
final class Transaction: Sendable {
    let id: TransactionID
    /// Unique over the life of the journal object, where `id` wraps.
    let serial: UInt64

    struct Contents {
        /// Every block that was joined, once each, also those that were forgotten later.
        var blocks: [CachedBlock] = []
        var revokes: Set<UInt64> = []
        var actions: [@Sendable () -> Void] = []

        var isEmpty: Bool { blocks.isEmpty && revokes.isEmpty }
    }
    let contents = Mutex(Contents())

    enum Outcome {
        static var pending: UInt8 { 0 }
        static var durable: UInt8 { 1 }
        /// Durable, and its actions have run.
        static var settled: UInt8 { 2 }
        static var failed: UInt8 { 3 }
    }
    private let outcomeCode = Atomic(Outcome.pending)

    init(id: TransactionID, serial: UInt64) {
        self.id = id
        self.serial = serial
    }

    var outcome: UInt8 { outcomeCode.load(ordering: .acquiring) }

    /// A failure stays; what is durable cannot fail any more.
    func become(_ next: UInt8) {
        let expected = next == Outcome.settled ? Outcome.durable : Outcome.pending
        _ = outcomeCode.compareExchange(expected: expected, desired: next, ordering: .acquiringAndReleasing)
    }

    /// Adds a block that `Membership.join` has just made a member. Fails when the number was revoked in this
    /// transaction: only `Handle.create` may use it again.
    func add(_ block: CachedBlock) throws(Ext4Error) {
        let isRevoked = contents.withLock { contents in
            if contents.revokes.contains(block.number.rawValue) { return true }
            contents.blocks.append(block)
            return false
        }
        if isRevoked { throw Self.freedAndChanged(block.number) }
    }

    static func freedAndChanged(_ number: FSBlock) -> Ext4Error {
        .corrupt("metadata block, freed and changed in one transaction", where: "block \(number.rawValue)")
    }
}
