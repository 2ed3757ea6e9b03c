package import BlockIO
package import Ext4Format
internal import FileSystem

/// Follows the journal of an ext4 volume through what its device was asked for, and names each breach of a
/// `ProtocolRule`. It enumerates no crash states: one pass tells what made a bad one possible.
///
/// A volume is followed while its super block says needs_recovery, which is while it is mounted for writing; what
/// mke2fs or e2fsck write at other times is their matter. A journal on a device of its own is not followed. Fast
/// commits are let pass and not looked into, and so are checksums v1. Of data=ordered it does not see which data
/// belongs to a transaction.
///
/// Memory: what the log writes, twice, and the transactions that are in the journal at a time.
package struct ProtocolLinter {
    /// What a mark says has returned. Nobody but the caller worked on the volume, one call at a time: what it asked
    /// for, it asked for behind the mark before.
    package enum Acknowledgement: Sendable {
        /// fsync or fdatasync of one file.
        case file
        /// sync: all that completed before.
        case everything
    }

    struct InFlight {
        let event: Int
        let request: DeviceRequest
    }
    /// A change of metadata at home that no committed transaction justifies, yet.
    struct Suspect {
        let event: Int
        let block: UInt64
        /// Nil for a discard.
        let content: [UInt8]?
    }

    package private(set) var violations: [ProtocolViolation] = []
    /// How many transactions were seen to commit.
    package private(set) var transactionCount = 0
    var disk: FollowedDisk
    var journal: FollowedJournal?
    var map: VolumeMap?
    var suspects: [Suspect] = []
    /// The first write or flush of the journal that failed.
    var failure: Int?
    /// When each write of file data was submitted, by ticket.
    var dataWrites: [UInt64: Int] = [:]
    private var inFlight: [UInt64: InFlight] = [:]
    private var committingTicket: UInt64?
    private var lastID: (id: TransactionID, journal: [UInt8])?
    private var lastMark = -1
    /// When the newest completed flush was submitted.
    private var lastFlush = -1
    private let acknowledgement: (String) -> Acknowledgement?

    /// `base` is the disk before the first event; it is only read.
    package init(
        base: any BlockDevice, acknowledgement: @escaping (String) -> Acknowledgement? = Self.usualMarks
    ) throws(Ext4Error) {
        disk = FollowedDisk(over: base)
        self.acknowledgement = acknowledgement
        try followMount(at: 0)
    }

    /// `fsync:...` right after an fsync, `sync:...` right after a sync.
    package static func usualMarks(_ label: String) -> Acknowledgement? {
        label.hasPrefix("fsync:") ? .file : label.hasPrefix("sync:") ? .everything : nil
    }

    /// Takes the next event; `index` is what reports call it. Throws what reading `base` throws.
    package mutating func see(_ event: Trace.Event, at index: Int) throws(Ext4Error) {
        switch event {
        case .mark(let label):
            if let kind = acknowledgement(label) { acknowledge(kind, label, at: index) }
            lastMark = index
        case .submitted(let ticket, let request):
            try submitted(request, ticket, at: index)
            inFlight[ticket] = InFlight(event: index, request: request)
            disk.see(event)
        case .completed(let ticket, let succeeded):
            guard let done = inFlight.removeValue(forKey: ticket) else { return }
            disk.see(event)
            try completed(done, ticket, succeeded, at: index)
        }
    }

    /// After the last event: everything found, in the order of events.
    package mutating func finish() -> [ProtocolViolation] {
        accuseSuspects()
        return violations.sorted { ($0.event, $0.rule.rawValue) < ($1.event, $1.rule.rawValue) }
    }

    mutating func report(_ rule: ProtocolRule, at event: Int, block: UInt64? = nil, _ text: String) {
        violations.append(ProtocolViolation(rule: rule, event: event, block: block, text: text))
    }

    // MARK: - Submission

    private mutating func submitted(_ request: DeviceRequest, _ ticket: UInt64, at index: Int) throws(Ext4Error) {
        let range = request.range
        if let other = inFlight.values.filter({ $0.request.range.overlaps(range) }).min(by: { $0.event < $1.event }) {
            report(.noOverlap, at: index, "overlaps the write of entry \(other.event), which is still in flight")
        }
        guard let journal else { return }
        let size = journal.log.blockByteCount
        switch request {
        case .flush: return
        case .discard(let offset, let count):
            checkDiscard(offset / UInt64(size)..<(offset + count) / UInt64(size), at: index)
        case .write(let offset, let bytes, let mode):
            for number in range.lowerBound / UInt64(size)...(range.upperBound - 1) / UInt64(size) {
                let content = try Self.whole(number, size, offset, bytes, disk.landed)
                if let position = journal.positions[number] {
                    try checkLogWrite(position, content, mode, ticket, at: index)
                } else {
                    try checkHomeWrite(number, content, ticket, at: index)
                }
            }
        }
    }

    /// The block as the write leaves it.
    private static func whole(
        _ number: UInt64, _ size: Int, _ offset: UInt64, _ bytes: [UInt8], _ device: any BlockDevice
    ) throws(Ext4Error) -> [UInt8] {
        let start = number * UInt64(size), end = start + UInt64(size)
        if offset <= start, end <= offset + UInt64(bytes.count) {
            return Array(bytes[Int(start - offset)..<Int(end - offset)])
        }
        var content = try device.block(number, size)
        let from = max(start, offset), to = min(end, offset + UInt64(bytes.count))
        content.replaceSubrange(Int(from - start)..<Int(to - start), with: bytes[Int(from - offset)..<Int(to - offset)])
        return content
    }

    mutating func beginCommit(_ transaction: LoggedTransaction, _ ticket: UInt64) {
        journal?.committing = transaction
        committingTicket = ticket
    }

    // MARK: - Completion

    private mutating func completed(
        _ done: InFlight, _ ticket: UInt64, _ succeeded: Bool, at index: Int
    ) throws(Ext4Error) {
        if !succeeded { return noteFailure(done, ticket) }
        if case .flush = done.request { lastFlush = max(lastFlush, done.event) }
        try settle(done)
        let place = UInt64(SuperBlock.byteOffset)..<UInt64(SuperBlock.byteOffset + SuperBlock.byteCount)
        if done.request.range.overlaps(place) { try followMount(at: index) }
    }

    private mutating func noteFailure(_ done: InFlight, _ ticket: UInt64) {
        guard let journal, let map else { return }
        if committingTicket == ticket {
            self.journal?.committing = nil
            committingTicket = nil
        }
        let size = UInt64(journal.log.blockByteCount), range = done.request.range
        let concernsJournal =
            switch done.request {
            case .flush: true
            case .discard: false
            case .write:
                (range.lowerBound / size...(range.upperBound - 1) / size).contains {
                    journal.positions[$0] != nil || map.isMetadata($0)
                }
            }
        if concernsJournal { failure = failure ?? done.event }
    }

    /// What became durable may be a commit, or a new tail.
    private mutating func settle(_ done: InFlight) throws(Ext4Error) {
        guard var journal else { return }
        let place = journal.bytes(at: journal.log.superBlockPosition)
        if done.request.range.overlaps(place) { try journal.readSuperBlock() }
        if let transaction = journal.committing,
            disk.isDurable(journal.bytes(at: journal.geometry.advance(transaction.end, by: journal.geometry.count - 1)))
        {
            journal.committing = nil
            committingTicket = nil
            journal.publish(transaction)
            journal.isRecovering = false
            journal.open = nil
            transactionCount += 1
            let freed = map?.take(transaction) ?? []
            resolveSuspects(transaction, freed: freed)
        }
        if journal.durable != journal.superBlock, disk.isDurable(place) {
            journal.durable = journal.superBlock
            journal.drop()
        }
        self.journal = journal
    }

    /// Begins to follow a volume that was mounted for writing, or ends it.
    private mutating func followMount(at index: Int) throws(Ext4Error) {
        // While mke2fs is at work this is no volume yet.
        guard let volume = Self.superBlock(disk.landed) else { return }
        let isMounted = volume.features.incompatible.contains(.needsRecovery)
        if let journal, !isMounted {
            if journal.durable.start != 0 {
                report(.recoveryOrder, at: index, "needs_recovery is cleared while the log is not durably empty")
            }
            if let failure {
                report(.stopAfterFailure, at: index, "needs_recovery is cleared after the failure \(failure)")
            }
            accuseSuspects()
            if let id = journal.lastID { lastID = (id, journal.superBlock.uuid) }
            (self.journal, map, failure) = (nil, nil, nil)
        } else if journal == nil, isMounted, let journal = Self.journal(disk.landed, volume) {
            try follow(journal, at: index)
        }
    }

    private mutating func follow(_ found: FollowedJournal, at index: Int) throws(Ext4Error) {
        var journal = found
        if let last = lastID, last.journal == journal.superBlock.uuid, journal.live.isEmpty {
            journal.lastID = last.id
            if !journal.superBlock.sequence.isNewer(than: last.id) {
                report(
                    .sequence, at: index,
                    "the log goes on with \(journal.superBlock.sequence.rawValue) after \(last.id.rawValue)")
            }
        }
        var map = try VolumeMap(journal.layout, disk.landed)
        for transaction in journal.live { _ = map.take(transaction) }
        self.map = map
        self.journal = journal
    }

    private static func superBlock(_ device: any BlockDevice) -> SuperBlock? {
        guard let bytes = try? device.superBlockBytes() else { return nil }
        return bytes.withBytes { try? SuperBlock(decoding: $0, deviceByteCount: device.byteCount) }
    }

    /// Nil when there is none on this device.
    private static func journal(_ device: any BlockDevice, _ volume: SuperBlock) -> FollowedJournal? {
        guard volume.features.compatible.contains(.hasJournal) else { return nil }
        return try? FollowedJournal(on: device, volume)
    }

    // MARK: - Marks

    private mutating func acknowledge(_ kind: Acknowledgement, _ label: String, at index: Int) {
        guard let journal else { return }
        if lastFlush <= lastMark {
            report(.acknowledgement, at: index, "\(label): no flush was asked for and completed since the call began")
        }
        guard kind == .everything else { return }
        if let open = journal.open {
            report(
                .acknowledgement, at: index, "\(label): transaction \(open.id.rawValue) is in the log and not committed"
            )
        }
        dataWrites = dataWrites.filter { disk.isOpen($0.key) }
        if let first = dataWrites.filter({ disk.waits($0.key) }).values.min() {
            report(.acknowledgement, at: index, "\(label): the data written by entry \(first) is not durable")
        }
    }
}
