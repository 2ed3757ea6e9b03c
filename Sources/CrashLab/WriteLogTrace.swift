internal import BlockIO
package import Ext4Format

// A trace in a write log. A plain log knows in which order writes became durable and no more. One that keeps a trace
// has its requests in the order of submission, and a mark for each completion: other readers see a log that they can
// apply, and we get the trace back as it was.

extension WriteLogWriter {
    /// Logs a trace so that `Trace.events(of:)` gives it back. For a log that holds nothing yet.
    package func keep(_ events: [Trace.Event]) {
        marked(Trace.keptLabel)
        var numbers: [UInt64: Int] = [:]
        for event in events {
            switch event {
            case .submitted(let ticket, let request):
                numbers[ticket] = numbers.count
                submit(request)
            case .completed(let ticket, let succeeded):
                guard let number = numbers[ticket] else { continue }
                marked("\(succeeded ? Trace.completedLabel : Trace.failedLabel)\(number)")
            case .mark(let label): marked(label)
            }
        }
    }
}

extension Trace {
    fileprivate static let keptLabel = "jext4 trace 1"
    fileprivate static let completedLabel = "jext4 trace: completed "
    fileprivate static let failedLabel = "jext4 trace: failed "

    /// What a write log says of the requests behind it. A log that keeps a trace says all. Any other does not say when
    /// writes were submitted, so each is complete as soon as it is submitted, and what a crash finds in flight is the
    /// last one alone: the states of such a trace are among those of the real one.
    package static func events(of log: inout WriteLogReader) throws(Ext4Error) -> [Event] {
        var events: [Event] = [], isKept = false
        var open: Set<UInt64> = [], ticket: UInt64 = 0
        func add(_ request: DeviceRequest) {
            events.append(.submitted(ticket: ticket, request))
            if isKept { open.insert(ticket) } else { events.append(.completed(ticket: ticket, succeeded: true)) }
            ticket += 1
        }
        while let entry = try log.next() {
            if entry.isMark {
                if entry.index == 0, entry.text == keptLabel {
                    isKept = true
                } else if isKept, let (number, succeeded) = completion(entry.text) {
                    guard open.remove(number) != nil else {
                        throw .corrupt("write log: completion of no request", where: "entry \(entry.index)")
                    }
                    events.append(.completed(ticket: number, succeeded: succeeded))
                } else if !isKept || entry.text != WriteLogFormat.endLabel {
                    events.append(.mark(entry.text))
                }
            }
            // A flush in front of a write covers what is before it, and not the write.
            if entry.flags.contains(.flush) { add(.flush) }
            guard entry.byteCount > 0, !entry.isMark else { continue }
            add(try request(entry, log))
        }
        return events
    }

    private static func request(_ entry: WriteLogEntry, _ log: WriteLogReader) throws(Ext4Error) -> DeviceRequest {
        if entry.flags.contains(.discard) { return .discard(offset: entry.offset, count: entry.byteCount) }
        let mode: WriteMode = entry.flags.contains(.throughToMedia) ? .throughToMedia : .cached
        return .write(offset: entry.offset, bytes: try log.payload(of: entry), mode: mode)
    }

    private static func completion(_ text: String) -> (number: UInt64, succeeded: Bool)? {
        for (label, succeeded) in [(completedLabel, true), (failedLabel, false)] where text.hasPrefix(label) {
            return UInt64(text.dropFirst(label.count)).map { ($0, succeeded) }
        }
        return nil
    }
}
