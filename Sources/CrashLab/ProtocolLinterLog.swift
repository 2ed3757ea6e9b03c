package import BlockIO
package import Ext4Format

extension ProtocolLinter {
    /// Lints a dm-log-writes log: each entry is submitted and completed at its place in the log. `disk` is the one
    /// before the log: of zeros where it starts before mkfs. `progress` hears of every entry.
    package static func lint(
        _ log: WriteLogReader, base disk: any BlockDevice, progress: (UInt64) -> Void = { _ in }
    ) throws(Ext4Error) -> (violations: [ProtocolViolation], transactionCount: Int) {
        var log = log
        var linter = try ProtocolLinter(base: disk)
        while let entry = try log.next() {
            try linter.see(entry, of: log, diskByteCount: disk.byteCount)
            progress(entry.index)
        }
        return (linter.finish(), linter.transactionCount)
    }

    private mutating func see(
        _ entry: WriteLogEntry, of log: WriteLogReader, diskByteCount: UInt64
    ) throws(Ext4Error) {
        let index = Int(entry.index)
        if entry.isMark { return try see(.mark(entry.text), at: index) }
        guard entry.byteCount <= diskByteCount, entry.offset <= diskByteCount - entry.byteCount else {
            throw .refused("entry \(entry.index) of the write log lies past the end of the device")
        }
        // A flush with data: the cache is flushed before the data is written.
        if entry.flags.contains(.flush) { try seeWhole(.flush, entry.index * 2, at: index) }
        guard entry.byteCount > 0 else { return }
        let request: DeviceRequest =
            if entry.flags.contains(.discard) {
                .discard(offset: entry.offset, count: entry.byteCount)
            } else {
                .write(
                    offset: entry.offset, bytes: try log.payload(of: entry),
                    mode: entry.flags.contains(.throughToMedia) ? .throughToMedia : .cached)
            }
        try seeWhole(request, entry.index * 2 + 1, at: index)
    }

    private mutating func seeWhole(_ request: DeviceRequest, _ ticket: UInt64, at index: Int) throws(Ext4Error) {
        try see(.submitted(ticket: ticket, request), at: index)
        try see(.completed(ticket: ticket, succeeded: true), at: index)
    }

    /// Lints a native trace. `base` is the disk before its first event.
    package static func lint(
        _ events: [Trace.Event], base: any BlockDevice,
        acknowledgement: @escaping (String) -> Acknowledgement? = Self.usualMarks
    ) throws(Ext4Error) -> [ProtocolViolation] {
        var linter = try ProtocolLinter(base: base, acknowledgement: acknowledgement)
        for (index, event) in events.enumerated() { try linter.see(event, at: index) }
        return linter.finish()
    }
}
