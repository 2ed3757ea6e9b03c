internal import BlockIO
internal import Ext4Format

/// The disk of a trace, moved forward event by event: what has landed, what is durable, and what is open between.
struct FollowedDisk {
    private struct Write {
        let request: DeviceRequest
        /// What of its range no newer durable write covers; in bytes.
        var ranges: [Range<UInt64>]
    }

    /// Only what must be there.
    let durable: OverlayDevice
    /// All that completed.
    let landed: OverlayDevice
    private var cache = WriteCache()
    /// The open ones.
    private var writes: [UInt64: Write] = [:]

    init(over base: any BlockDevice) {
        durable = OverlayDevice(over: base)
        landed = OverlayDevice(over: base)
    }

    mutating func see(_ event: Trace.Event) {
        let promise = cache.see(event)
        switch event {
        case .submitted(let ticket, let request):
            if case .flush = request { return }
            writes[ticket] = Write(request: request, ranges: [request.range])
        case .completed(let ticket, succeeded: true):
            if let write = writes[ticket] { Self.apply(write.request, write.ranges, to: landed) }
        case .completed, .mark: break
        }
        if let promise { makeDurable(promise.tickets) }
    }

    private mutating func makeDurable(_ tickets: [UInt64]) {
        cache.makeDurable(tickets)
        for ticket in tickets {
            guard let write = writes.removeValue(forKey: ticket) else { continue }
            Self.apply(write.request, write.ranges, to: durable)
            // An older version of these sectors can no longer come out.
            for older in cache.open.prefix(while: { $0 < ticket }) {
                let left = writes[older]?.ranges.flatMap { Self.subtract(write.request.range, from: $0) }
                writes[older]?.ranges = left ?? []
            }
        }
    }

    /// Whether nothing of `range` waits in the cache or is in flight.
    func isDurable(_ range: Range<UInt64>) -> Bool {
        !writes.values.contains { $0.ranges.contains { $0.overlaps(range) } }
    }

    /// Whether a write is not durable.
    func isOpen(_ ticket: UInt64) -> Bool { writes[ticket] != nil }

    /// The same of one that has completed.
    func waits(_ ticket: UInt64) -> Bool { cache.isComplete(ticket) }

    /// Does the part of the request that lies in `ranges`.
    private static func apply(_ request: DeviceRequest, _ ranges: [Range<UInt64>], to disk: OverlayDevice) {
        do throws(Ext4Error) {
            for range in ranges {
                switch request {
                case .flush: continue
                case .discard: try disk.discard(at: range.lowerBound, count: UInt64(range.count))
                case .write(let offset, let bytes, _):
                    let part = Int(range.lowerBound - offset)..<Int(range.upperBound - offset)
                    try disk.write(unsafe bytes.span.bytes.extracting(part), at: range.lowerBound, mode: .cached)
                }
            }
        } catch {
            preconditionFailure("the trace holds a request that its own device refused: \(error)")
        }
    }

    private static func subtract(_ hole: Range<UInt64>, from range: Range<UInt64>) -> [Range<UInt64>] {
        guard hole.overlaps(range) else { return [range] }
        let before = range.lowerBound..<max(range.lowerBound, hole.lowerBound)
        let after = min(range.upperBound, hole.upperBound)..<range.upperBound
        return [before, after].filter { !$0.isEmpty }
    }
}
