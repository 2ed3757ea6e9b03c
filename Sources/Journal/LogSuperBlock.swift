internal import BlockIO
internal import Ext4Format
internal import Threads

/// The journal super block of an open journal: one writer at a time, each write durable when it returns.
///
/// It is encoded into a buffer that nobody else sees and written under the lock, so its checksum always covers what
/// the device gets. What the buffer says last reached the device, or an error froze it.
final class LogSuperBlock: Sendable {
    private struct Content {
        var value: JournalSuperBlock
        /// After an error nothing may move the tail any more.
        var isFrozen = false
    }
    private let log: LogArea
    private let buffer: AlignedBuffer
    private let content: Monitor<Content>

    /// Reads the block once, for the bytes that only others know. Nothing is written.
    init(_ value: JournalSuperBlock, log: LogArea) throws(Ext4Error) {
        self.log = log
        buffer = AlignedBuffer(byteCount: log.blockByteCount)
        try log.read(log.superBlockPosition, count: 1, into: buffer)
        content = Monitor(Content(value: value))
    }

    /// Moves the tail: the log begins at log block `start` with transaction `sequence`.
    func setTail(start: UInt32, sequence: TransactionID) throws(Ext4Error) {
        try change { value in
            value.start = start
            value.sequence = sequence
        }
    }

    /// Says that the log is empty: the next transaction will be `sequence`, and the next block to write `head`.
    func setEmpty(head: UInt32, sequence: TransactionID) throws(Ext4Error) {
        try change { value in
            value.start = 0
            value.sequence = sequence
            value.head = head
        }
    }

    private func change(_ body: (inout JournalSuperBlock) -> Void) throws(Ext4Error) {
        try content.withLock { content throws(Ext4Error) in
            guard !content.isFrozen else { throw .aborted }
            var next = content.value
            body(&next)
            do throws(Ext4Error) {
                try write(next)
            } catch {
                content.isFrozen = true
                throw error
            }
            content.value = next
        }
    }

    /// From now on nothing writes the block.
    func freeze() { content.withLock { $0.isFrozen = true } }

    /// Takes `s_errno` back, when its news has been taken over by the file system.
    func clearError() throws(Ext4Error) {
        try content.withLock { content throws(Ext4Error) in
            guard !content.isFrozen else { throw .aborted }
            content.value.errorNumber = 0
            try write(content.value)
        }
    }

    /// Freezes the tail and records why, as best it can.
    func recordError(_ number: Int32) {
        content.withLock { content in
            content.isFrozen = true
            content.value.errorNumber = number
            do throws(Ext4Error) {
                try write(content.value)
            } catch {
                // The device is failing already; the abort is what counts.
            }
        }
    }

    private func write(_ value: JournalSuperBlock) throws(Ext4Error) {
        buffer.withMutableBytes { bytes in value.encode(into: &bytes) }
        try buffer.withBytes { bytes throws(Ext4Error) in
            try log.write(bytes, at: log.superBlockPosition, mode: .throughToMedia)
        }
    }
}
