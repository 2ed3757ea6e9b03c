internal import BlockIO
internal import Ext4Format

/// Puts one transaction into the log: revokes, descriptors with their blocks, and after the flush the commit block.
/// Used by one commit at a time.
final class CommitWriter: Sendable {
    private let log: LogArea
    private let format: JournalFormat
    private let geometry: LogGeometry
    private let budget: LogBudget
    private let buffer: ReusedBuffer
    private let commitBuffer: AlignedBuffer

    init(log: LogArea, format: JournalFormat, geometry: LogGeometry, budget: LogBudget) {
        self.log = log
        self.format = format
        self.geometry = geometry
        self.budget = budget
        buffer = ReusedBuffer(byteLimit: budget.bufferBlockCount * format.blockByteCount)
        commitBuffer = AlignedBuffer(byteCount: format.blockByteCount)
    }

    /// What was written so far, and where the commit block belongs.
    struct Body {
        let blockCount: Int
        let revokeCount: Int
        /// Log blocks taken, without the commit block.
        let logBlockCount: UInt32
        let commitPosition: UInt32
        /// The v1 checksum.
        let payload: UInt32
    }

    /// Writes everything but the commit block from log block `start` on. Not durable yet.
    func writeBody(of transaction: Transaction, at start: UInt32) throws(Ext4Error) -> Body {
        let (listed, revokes) = transaction.contents.withLock { ($0.blocks, $0.revokes.sorted()) }
        let serial = transaction.serial
        let blocks = listed.filter { block in
            block.membership.withLock { member in
                member.newest == serial ? !member.isForgotten : member.older == serial && !member.isOlderForgotten
            }
        }
        // A buffer that were too small for a transaction which fits the limit would cost it descriptors.
        let most = blocks.count + blocks.count / format.tagsPerDescriptor + revokes.count / format.revokesPerBlock + 2
        let buffer = buffer.room(for: most * format.blockByteCount)
        var stream = LogStream(log: log, geometry: geometry, buffer: buffer, position: start)
        try write(revokes, of: transaction.id, to: &stream)
        var payload = UInt32.max
        var rest = blocks[...]
        while !rest.isEmpty {
            if stream.room < 2 { try stream.flush() }
            let count = min(rest.count, format.tagsPerDescriptor, stream.room - 1)
            writeGroup(rest.prefix(count), of: transaction, to: &stream, &payload)
            rest = rest.dropFirst(count)
        }
        try stream.flush()
        return Body(
            blockCount: blocks.count, revokeCount: revokes.count, logBlockCount: stream.written,
            commitPosition: stream.position, payload: payload)
    }

    private func write(
        _ revokes: [UInt64], of transaction: TransactionID, to stream: inout LogStream
    ) throws(Ext4Error) {
        var rest = revokes[...]
        while !rest.isEmpty {
            if stream.room < 1 { try stream.flush() }
            let part = rest.prefix(format.revokesPerBlock)
            stream.append { block in
                block.fill(0..<block.byteCount, with: 0)
                format.encodeRevoke(part, of: transaction, into: &block)
            }
            rest = rest.dropFirst(part.count)
        }
    }

    /// One descriptor and its blocks, which fit the buffer.
    private func writeGroup(
        _ blocks: ArraySlice<CachedBlock>, of transaction: Transaction, to stream: inout LogStream,
        _ payload: inout UInt32
    ) {
        let descriptor = stream.append { _ in }
        var tags: [JournalTag] = []
        tags.reserveCapacity(blocks.count)
        for block in blocks {
            var tag = JournalTag(home: block.number, flags: [], checksum: 0)
            stream.append { slot in
                Self.copyOut(block, of: transaction.serial, into: &slot)
                if JournalHeader.isMagic(slot.bytes) {
                    JournalHeader.setMagic(0, in: &slot)
                    tag.flags.insert(.escaped)
                }
                tag.checksum = format.tagChecksum(slot.bytes, in: transaction.id)
            }
            tags.append(tag)
        }
        stream.withBlock(descriptor) { block in
            block.fill(0..<block.byteCount, with: 0)
            format.encodeDescriptor(tags, of: transaction.id, into: &block)
        }
        guard format.checksums == .v1 else { return }
        for index in descriptor...descriptor + blocks.count {
            stream.withBlock(index) { payload = crc32BE($0.bytes, seed: payload) }
        }
    }

    /// The version of the block that belongs to the committing transaction. From now on a later transaction may
    /// change the content without a copy.
    private static func copyOut(_ block: CachedBlock, of serial: UInt64, into slot: inout MutableRawSpan) {
        block.membership.withLock { member in
            if member.newest == serial {
                block.buffer.withBytes { slot.copy($0, at: 0) }
                member.isCopied = true
            } else if let frozen = member.frozen {
                precondition(member.older == serial)
                frozen.withBytes { slot.copy($0, at: 0) }
                member.frozen = nil
            } else {
                preconditionFailure("a committing block was changed without a copy")
            }
        }
    }

    /// Writes the commit block through to the medium: with it the transaction is durable. The body must have been
    /// flushed.
    func writeCommit(of transaction: Transaction, after body: Body, at time: CommitTime) throws(Ext4Error) {
        commitBuffer.withMutableBytes { block in
            block.fill(0..<block.byteCount, with: 0)
            format.encodeCommit(of: transaction.id, at: time, payload: body.payload, into: &block)
        }
        try commitBuffer.withBytes { block throws(Ext4Error) in
            try log.write(block, at: body.commitPosition, mode: .throughToMedia)
        }
    }
}

/// Blocks on their way to consecutive positions of the ring, gathered into large writes.
struct LogStream {
    private let log: LogArea
    private let geometry: LogGeometry
    private let buffer: AlignedBuffer
    private let capacity: Int
    private var fill = 0
    /// Where the first block of the buffer will go; after `flush`, where the next block will.
    private(set) var position: UInt32
    private(set) var written: UInt32 = 0

    init(log: LogArea, geometry: LogGeometry, buffer: AlignedBuffer, position: UInt32) {
        self.log = log
        self.geometry = geometry
        self.buffer = buffer
        self.position = position
        capacity = buffer.byteCount / log.blockByteCount
    }

    /// How many blocks can be appended before a flush.
    var room: Int { capacity - fill }

    /// Appends one block, whose bytes are those of an earlier use until `body` sets them. Answers its index.
    @discardableResult
    mutating func append(_ body: (inout MutableRawSpan) -> Void) -> Int {
        precondition(room > 0)
        fill += 1
        withBlock(fill - 1, body)
        return fill - 1
    }

    func withBlock(_ index: Int, _ body: (inout MutableRawSpan) -> Void) {
        let start = index * log.blockByteCount
        buffer.withMutableBytes { bytes in
            var block = bytes._mutatingExtracting(start..<start + log.blockByteCount)
            body(&block)
        }
    }

    /// Writes what is gathered, in two parts where the ring ends between.
    mutating func flush() throws(Ext4Error) {
        let count = UInt32(fill)
        guard count > 0 else { return }
        let first = min(count, geometry.end - position)
        let split = Int(first) * log.blockByteCount, end = fill * log.blockByteCount
        try buffer.withBytes { bytes throws(Ext4Error) in
            try log.write(bytes.extracting(0..<split), at: position, mode: .cached)
            if first < count { try log.write(bytes.extracting(split..<end), at: geometry.first, mode: .cached) }
        }
        position = geometry.advance(position, by: count)
        written += count
        fill = 0
    }
}
