/// Shared and exclusive locks on ranges of one file. First come, first served among ranges that conflict.
///
/// Overlapping writes are kept apart, and truncate waits for reads in flight. Not recursive.
package final class RangeLock: Sendable {
    private struct Entry {
        let id: UInt64
        let range: Range<UInt64>
        let isExclusive: Bool
    }
    private struct State {
        var nextID: UInt64 = 0
        /// In order of arrival, held and waiting alike: an entry is held when nothing before it conflicts.
        var entries: [Entry] = []
    }
    private let state = Monitor(State())

    package init() {}

    /// `range` is in bytes; an empty one conflicts with nothing.
    package func withLock<R: ~Copyable, E: Error>(
        _ range: Range<UInt64>, exclusive: Bool, _ body: () throws(E) -> R
    ) throws(E) -> R {
        let id = acquire(range, exclusive)
        defer { release(id) }
        return try body()
    }

    private func acquire(_ range: Range<UInt64>, _ exclusive: Bool) -> UInt64 {
        var mine: UInt64?
        return state.wait { state in
            let id = mine ?? state.nextID
            if mine == nil {
                mine = id
                state.nextID += 1
                state.entries.append(Entry(id: id, range: range, isExclusive: exclusive))
            }
            for entry in state.entries {
                if entry.id == id { return id }
                if (entry.isExclusive || exclusive) && entry.range.overlaps(range) { return nil }
            }
            preconditionFailure("a waiting range lock left its own queue")
        }
    }

    private func release(_ id: UInt64) {
        state.withLock { $0.entries.removeAll { $0.id == id } }
        state.notifyAll()
    }
}
