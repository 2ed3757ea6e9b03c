package import BlockIO
internal import Ext4Format

/// Names one crash state of a trace: with the trace it is all that reproduces the state.
package struct CrashPoint: Hashable, Sendable, CustomStringConvertible {
    /// What became of the writes that need not be on the medium at that moment.
    package enum Loss: Hashable, Sendable {
        /// Each completed write landed, in order of completion; nothing in flight did. The prefixes of the trace.
        case nothing
        /// As `nothing`, and each 512 bytes of the writes in flight landed or not.
        case inFlight(seed: UInt64)
        /// Each write that no flush has covered landed whole, or not at all, or for each 512 bytes yes or no.
        case some(seed: UInt64)
        /// Nothing landed but what a flush or FUA promised.
        case everything
    }
    /// Power is cut right after the event with this index.
    package let event: Int
    package let loss: Loss

    package init(event: Int, loss: Loss) {
        self.event = event
        self.loss = loss
    }

    package var description: String { "event \(event), loss \(loss)" }
}

/// The disks that a power cut during a trace may leave.
///
/// The model: a sector is 512 bytes and never torn. A flush makes durable what completed before it was submitted; a FUA
/// write is durable when it completes. Of everything else submitted by then, any set of sectors may have landed.
/// Overlapping writes are never in flight together, so the order of completion decides between versions of a sector.
package struct CrashStates {
    private let base: any BlockDevice
    package let events: [Trace.Event]
    private let honoursFlush: Bool

    /// `base` holds the disk as it was before the first event; it is only read. With `honoursFlush` false the device
    /// lies: flushes and FUA promise nothing. No file system survives that; it shows that an oracle can fail.
    package init(base: any BlockDevice, events: [Trace.Event], honoursFlush: Bool = true) {
        self.base = base
        self.events = events
        self.honoursFlush = honoursFlush
    }

    /// The points to examine: every flush and FUA boundary (with all and with nothing of what it did not cover) and the
    /// end; and at most so many prefixes, states torn in flight, and states with some writes lost, chosen by `seed`.
    package func points(seed: UInt64, prefixes: Int, inFlight: Int, subsets: Int) -> [CrashPoint] {
        var random = SeededRandom(seed: seed)
        var points: Set<CrashPoint> = []
        var submissions: [Int] = [], completions: [Int] = []
        var boundaries: Set<UInt64> = []
        for (index, event) in events.enumerated() {
            switch event {
            case .submitted(let ticket, .flush):
                boundaries.insert(ticket)
                points.insert(CrashPoint(event: index, loss: .everything))
            case .submitted(let ticket, .write(_, _, let mode)):
                submissions.append(index)
                if mode == .throughToMedia { boundaries.insert(ticket) }
            case .submitted: submissions.append(index)
            case .completed(let ticket, _):
                completions.append(index)
                if boundaries.contains(ticket) { points.insert(CrashPoint(event: index, loss: .nothing)) }
            case .mark: continue
            }
        }
        guard !events.isEmpty else { return [] }
        points.insert(CrashPoint(event: events.count - 1, loss: .nothing))
        points.insert(CrashPoint(event: events.count - 1, loss: .everything))
        for event in random.sample(completions, count: prefixes) {
            points.insert(CrashPoint(event: event, loss: .nothing))
        }
        for event in random.sample(submissions, count: inFlight) {
            points.insert(CrashPoint(event: event, loss: .inFlight(seed: random.next())))
        }
        for _ in 0..<subsets {
            guard let event = (submissions + completions).randomElement(using: &random) else { break }
            points.insert(CrashPoint(event: event, loss: .some(seed: random.next())))
        }
        return points.sorted { ($0.event, "\($0.loss)") < ($1.event, "\($1.loss)") }
    }

    /// Walks the trace once and calls `body` with each wanted state, in the order of events. The overlay is the
    /// caller's: it may be written.
    package func forEach<E: Error>(
        _ wanted: [CrashPoint], _ body: (CrashPoint, OverlayDevice) throws(E) -> Void
    ) throws(E) {
        var queue = wanted.sorted { $0.event < $1.event }[...]
        var disk = CrashDisk(over: base)
        for (index, event) in events.enumerated() {
            guard let first = queue.first else { return }
            disk.see(event, honoursFlush: honoursFlush)
            guard first.event == index else { continue }
            while let point = queue.first, point.event == index {
                queue.removeFirst()
                try body(point, disk.state(after: point.loss))
            }
        }
    }
}

/// A disk with a volatile cache, moved forward event by event.
private struct CrashDisk {
    private struct Pending {
        let ticket: UInt64
        let request: DeviceRequest
        /// What of its range no newer durable write covers; in bytes.
        var ranges: [Range<UInt64>]
        var isComplete = false
    }

    /// Only what must be there.
    private let durable: OverlayDevice
    /// All that completed.
    private let landed: OverlayDevice
    /// Submitted and not durable, in order of completion, those in flight last. Failed writes stay: they may have
    /// landed in part.
    private var pending: [Pending] = []
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
