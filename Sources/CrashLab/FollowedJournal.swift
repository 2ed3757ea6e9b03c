internal import BlockIO
internal import Ext4Format
internal import FileSystem
internal import Journal

/// One transaction as it lies in the log.
struct LoggedTransaction {
    let id: TransactionID
    /// Its first log block, and the one behind its commit block.
    let start: UInt32
    let end: UInt32
    /// All its log blocks.
    var positions: Set<UInt32> = []
    /// The logged blocks by their homes, as they belong there (without the escape).
    var copies: [UInt64: [UInt8]] = [:]
    var revokes: Set<UInt64> = []
    /// It was there when the volume was mounted.
    var isRecovered = false

    /// Hidden from a replay by its own revokes.
    func hides(_ block: UInt64) -> Bool { revokes.contains(block) && copies[block] == nil }
}

/// What the linter knows of the journal of a mounted volume: where the log lies, what it holds, and what of it counts.
struct FollowedJournal {
    let layout: VolumeLayout
    let log: LogArea
    let geometry: LogGeometry
    /// The log block of each block of the volume that belongs to the log.
    let positions: [UInt64: UInt32]
    /// The super block of the log as last written, and as it is on the medium for certain.
    var superBlock: JournalSuperBlock
    var durable: JournalSuperBlock
    /// Committed and not yet left behind by the durable super block, oldest first.
    var live: [LoggedTransaction] = []
    /// Its commit block is on its way.
    var committing: LoggedTransaction?
    /// The newest transaction whose copy of the block a replay would apply.
    var newest: [UInt64: TransactionID] = [:]
    var lastID: TransactionID?
    /// The transaction whose first block was written last, and when.
    var open: (id: TransactionID, event: Int)?
    /// Whether it was mounted with transactions in the log, and has committed none since.
    var isRecovering = false

    init(on device: any BlockDevice, _ volume: SuperBlock) throws(Ext4Error) {
        let location = try JournalLocation(on: device, volume)
        layout = VolumeLayout(volume)
        log = location.log
        superBlock = location.superBlock
        durable = location.superBlock
        geometry = try LogGeometry(
            superBlock, blockByteCount: log.blockByteCount, blockCount: log.blockCount)
        var positions: [UInt64: UInt32] = [:]
        for position in 0..<log.blockCount { positions[log.home(of: position).rawValue] = position }
        self.positions = positions
        try loadLive()
    }

    var format: JournalFormat { JournalFormat(superBlock) }
    var hasFastCommits: Bool { superBlock.incompatible.contains(.fastCommit) }

    /// Takes over the super block as it was written, which must be one of the same log.
    mutating func readSuperBlock() throws(Ext4Error) {
        let next = try log.readSuperBlock()
        let found = try LogGeometry(next, blockByteCount: log.blockByteCount, blockCount: log.blockCount)
        guard found == geometry else {
            throw .corrupt("journal super block", where: "the log changes its size while it is in use")
        }
        superBlock = next
    }

    /// Where the next transaction begins.
    var head: UInt32 { live.last?.end ?? superBlock.start }

    func isRing(_ position: UInt32) -> Bool { position >= geometry.first && position < geometry.end }

    func bytes(at position: UInt32) -> Range<UInt64> {
        let start = log.home(of: position).rawValue * UInt64(log.blockByteCount)
        return start..<start + UInt64(log.blockByteCount)
    }

    func copy(of block: UInt64) -> [UInt8]? {
        guard let id = newest[block] else { return nil }
        return live.last { $0.id == id }?.copies[block]
    }

    private mutating func loadLive() throws(Ext4Error) {
        guard superBlock.start != 0 else { return }
        var position = superBlock.start, id = superBlock.sequence
        while let found = try parse(from: position, id: id, until: nil).transaction {
            var transaction = found
            transaction.isRecovered = true
            publish(transaction)
            position = transaction.end
            id = id.next
            guard live.reduce(0, { $0 + $1.positions.count }) < Int(geometry.count) else { break }
        }
        isRecovering = !live.isEmpty
    }

    mutating func publish(_ transaction: LoggedTransaction) {
        for block in transaction.copies.keys { newest[block] = transaction.id }
        for block in transaction.revokes where transaction.hides(block) { newest[block] = nil }
        lastID = transaction.id
        live.append(transaction)
    }

    /// The transactions that leave the log when its super block says this.
    func dropped(by next: JournalSuperBlock) -> ArraySlice<LoggedTransaction> {
        live.prefix { next.start == 0 || next.sequence.isNewer(than: $0.id) }
    }

    mutating func drop() {
        let count = dropped(by: durable).count
        for transaction in live.prefix(count) {
            for block in transaction.copies.keys where newest[block] == transaction.id { newest[block] = nil }
        }
        live.removeFirst(count)
    }

    // MARK: - Reading a transaction

    struct Reading {
        /// Nil when what was looked for is not there.
        var transaction: LoggedTransaction?
        /// Log blocks that are not what their checksums say.
        var unlike: [UInt32] = []
        /// The log block that is none of this transaction's.
        var stranger: UInt32?
    }

    /// Reads the transaction `id` from log block `start` on. `commit` says where its commit block will be written;
    /// without it, it must be there.
    func parse(from start: UInt32, id: TransactionID, until commit: UInt32?) throws(Ext4Error) -> Reading {
        guard isRing(start) else { return Reading(stranger: start) }
        var reading = Reading()
        var positions: Set<UInt32> = [], copies: [UInt64: [UInt8]] = [:], revokes: Set<UInt64> = []
        var position = start
        let format = format
        let block = AlignedBuffer(byteCount: log.blockByteCount)
        while positions.count < Int(geometry.count), positions.insert(position).inserted {
            if position == commit { break }
            try log.read(position, count: 1, into: block)
            guard let header = block.withBytes({ JournalHeader(decoding: $0) }), header.transaction == id else {
                reading.stranger = position
                return reading
            }
            switch header.type {
            case .descriptor:
                if !block.withBytes(format.isTailValid) { reading.unlike.append(position) }
                for tag in try Self.tags(block, format) {
                    position = geometry.advance(position, by: 1)
                    guard position != commit, positions.insert(position).inserted else {
                        reading.stranger = position
                        return reading
                    }
                    let (content, isAsSummed) = try logged(position, tag, id, format)
                    if !isAsSummed { reading.unlike.append(position) }
                    copies[tag.home.rawValue] = content
                }
            case .revoke:
                if !block.withBytes(format.isTailValid) { reading.unlike.append(position) }
                block.withBytes { bytes in format.forEachRevoke(in: bytes) { revokes.insert($0.rawValue) } }
            case .commit where commit == nil:
                if !block.withBytes(format.isCommitValid) { return Reading(stranger: position) }
                let end = geometry.advance(position, by: 1)
                reading.transaction = LoggedTransaction(
                    id: id, start: start, end: end, positions: positions, copies: copies, revokes: revokes)
                return reading
            default:
                reading.stranger = position
                return reading
            }
            position = geometry.advance(position, by: 1)
        }
        guard let commit, position == commit else { return Reading(stranger: position) }
        reading.transaction = LoggedTransaction(
            id: id, start: start, end: geometry.advance(commit, by: 1), positions: positions, copies: copies,
            revokes: revokes)
        return reading
    }

    private static func tags(_ block: AlignedBuffer, _ format: JournalFormat) throws(Ext4Error) -> [JournalTag] {
        var tags: [JournalTag] = []
        try block.withBytes { bytes throws(Ext4Error) in
            try format.forEachTag(in: bytes) { tag throws(Ext4Error) in tags.append(tag) }
        }
        return tags
    }

    /// The logged block as it belongs home, and whether it is what its tag was computed from.
    private func logged(
        _ position: UInt32, _ tag: JournalTag, _ id: TransactionID, _ format: JournalFormat
    ) throws(Ext4Error) -> ([UInt8], Bool) {
        let block = AlignedBuffer(byteCount: log.blockByteCount)
        try log.read(position, count: 1, into: block)
        let isAsSummed = block.withBytes { format.tagChecksum($0, in: id) == tag.checksum }
        if tag.flags.contains(.escaped) {
            block.withMutableBytes { JournalHeader.setMagic(JournalHeader.magic, in: &$0) }
        }
        return (block.withBytes { $0.array(0..<log.blockByteCount) }, isAsSummed)
    }
}
