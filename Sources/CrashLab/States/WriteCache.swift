internal import BlockIO

/// The volatile cache of a disk, followed through a trace: which writes must be on the medium, and since when. That
/// rule stands here alone.
///
/// A flush covers what had completed when it was submitted; a write through to the medium is durable itself when it
/// completes. Each event costs the number of open writes at most.
struct WriteCache {
    /// These are on the medium from now on: so says the disk.
    struct Promise {
        let tickets: [UInt64]
        /// Whether it is true.
        let isKept: Bool
    }

    private let disk: DiskModel
    /// Submitted and not durable, in the order of submission. Failed writes stay: they may have landed in part.
    private(set) var open: [UInt64] = []
    /// For each write on its way: whether it goes through to the medium.
    private var inFlight: [UInt64: Bool] = [:]
    /// Those of the open ones that completed without an error.
    private var complete: Set<UInt64> = []
    /// What each flush on its way will have covered.
    private var covered: [UInt64: [UInt64]] = [:]

    init(_ disk: DiskModel = DiskModel()) { self.disk = disk }

    /// Whether an open write completed without an error.
    func isComplete(_ ticket: UInt64) -> Bool { complete.contains(ticket) }

    /// Takes the next event. A promise that is kept is to be answered by `makeDurable`.
    mutating func see(_ event: Trace.Event) -> Promise? {
        switch event {
        case .mark: return nil
        case .submitted(let ticket, .flush):
            covered[ticket] = open.filter { complete.contains($0) }
            return nil
        case .submitted(let ticket, let request):
            open.append(ticket)
            let isThrough = if case .write(_, _, .throughToMedia) = request { true } else { false }
            inFlight[ticket] = isThrough
            return nil
        case .completed(let ticket, let succeeded):
            if let tickets = covered.removeValue(forKey: ticket) {
                // What another flush has made durable is not promised again.
                let left = succeeded ? tickets.filter { complete.contains($0) } : []
                return left.isEmpty ? nil : Promise(tickets: left, isKept: disk.honoursFlush)
            }
            guard let isThrough = inFlight.removeValue(forKey: ticket), succeeded else { return nil }
            complete.insert(ticket)
            guard isThrough || !disk.hasCache else { return nil }
            return Promise(tickets: [ticket], isKept: disk.honoursFUA || !disk.hasCache)
        }
    }

    mutating func makeDurable(_ tickets: [UInt64]) {
        complete.subtract(tickets)
        let gone = Set(tickets)
        open.removeAll { gone.contains($0) }
    }
}
