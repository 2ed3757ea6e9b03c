internal import BlockIO
internal import Ext4Format

/// A disk with a volatile cache, moved forward event by event.
struct CrashDisk {
    struct Pending {
        let ticket: UInt64
        let request: DeviceRequest
        /// What of its range no newer durable write covers; in bytes.
        var ranges: [Range<UInt64>]
        var isComplete = false
    }

    /// Only what must be there.
    let durable: OverlayDevice
    /// All that completed.
    let landed: OverlayDevice
    /// Submitted and not durable, in order of completion, those in flight last. Failed writes stay: they may have
    /// landed in part.
    private(set) var pending: [Pending] = []
    private var covered: [UInt64: Set<UInt64>] = [:]

    init(over base: any BlockDevice) {
        durable = OverlayDevice(over: base)
        landed = OverlayDevice(over: base)
    }

    mutating func see(_ event: Trace.Event, honoursFlush: Bool) {
        switch event {
        case .mark: return
        case .submitted(let ticket, .flush):
            covered[ticket] = Set(pending.lazy.filter(\.isComplete).map(\.ticket))
        case .submitted(let ticket, let request):
            pending.append(Pending(ticket: ticket, request: request, ranges: [request.range]))
        case .completed(let ticket, let succeeded):
            if let tickets = covered.removeValue(forKey: ticket) {
                if succeeded && honoursFlush { makeDurable(tickets) }
            } else if succeeded {
                complete(ticket, honoursFlush: honoursFlush)
            }
        }
    }

    private mutating func complete(_ ticket: UInt64, honoursFlush: Bool) {
        guard let index = pending.firstIndex(where: { $0.ticket == ticket }) else { return }
        var request = pending.remove(at: index)
        request.isComplete = true
        Self.apply(request.request, request.ranges, to: landed)
        pending.insert(request, at: pending.firstIndex { !$0.isComplete } ?? pending.count)
        if case .write(_, _, .throughToMedia) = request.request, honoursFlush { makeDurable([ticket]) }
    }

    private mutating func makeDurable(_ tickets: Set<UInt64>) {
        var left: [Pending] = []
        for request in pending {
            guard tickets.contains(request.ticket) else {
                left.append(request)
                continue
            }
            Self.apply(request.request, request.ranges, to: durable)
            // An older version of these sectors can no longer come out.
            for index in left.indices {
                left[index].ranges = left[index].ranges.flatMap { Self.subtract(request.request.range, from: $0) }
            }
        }
        pending = left
    }

    /// Whether nothing of `range` waits in the cache or is in flight.
    func isDurable(_ range: Range<UInt64>) -> Bool {
        !pending.contains { $0.ranges.contains { $0.overlaps(range) } }
    }

    func state(after loss: CrashPoint.Loss) -> OverlayDevice {
        switch loss {
        case .nothing: return landed.fork()
        case .everything: return durable.fork()
        case .inFlight(let seed):
            var random = SeededRandom(seed: seed)
            let disk = landed.fork()
            for request in pending where !request.isComplete { Self.tear(request, onto: disk, &random) }
            return disk
        case .some(let seed):
            var random = SeededRandom(seed: seed)
            let disk = durable.fork()
            for request in pending {
                switch UInt8.random(in: 0..<3, using: &random) {
                case 0: continue
                case 1: Self.apply(request.request, request.ranges, to: disk)
                default: Self.tear(request, onto: disk, &random)
                }
            }
            return disk
        }
    }

    private static func tear(_ request: Pending, onto disk: OverlayDevice, _ random: inout SeededRandom) {
        var sectors: [Range<UInt64>] = []
        for range in request.ranges {
            // One coin per sector; a discard of much more would cost more than it finds.
            for start in stride(from: range.lowerBound, to: range.upperBound, by: 512).prefix(4096)
            where Bool.random(using: &random) {
                sectors.append(start..<min(start + 512, range.upperBound))
            }
        }
        apply(request.request, sectors, to: disk)
    }

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
