package import BlockIO

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
