internal import BlockIO
package import Ext4Format

extension Trace {
    /// What a write log says of the requests behind it, as far as a log can: it knows in which order writes became
    /// complete and not when they were submitted, so each is complete as soon as it is submitted, and what a crash
    /// finds in flight is the last one alone. The states of such a trace are among those of the real one.
    package static func events(of log: inout WriteLogReader) throws(Ext4Error) -> [Event] {
        var events: [Event] = []
        var ticket: UInt64 = 0
        func add(_ request: DeviceRequest) {
            events.append(.submitted(ticket: ticket, request))
            events.append(.completed(ticket: ticket, succeeded: true))
            ticket += 1
        }
        while let entry = try log.next() {
            if entry.isMark { events.append(.mark(entry.text)) }
            // A flush in front of a write covers what is before it, and not the write.
            if entry.flags.contains(.flush) { add(.flush) }
            guard entry.byteCount > 0, !entry.isMark else { continue }
            if entry.flags.contains(.discard) {
                add(.discard(offset: entry.offset, count: entry.byteCount))
            } else {
                let mode: WriteMode = entry.flags.contains(.throughToMedia) ? .throughToMedia : .cached
                add(.write(offset: entry.offset, bytes: try log.payload(of: entry), mode: mode))
            }
        }
        return events
    }
}
