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

    /// A held range. Released once, by the thread that acquired it or another.
    package struct Lease: ~Copyable {
        fileprivate let lock: RangeLock
        fileprivate let id: UInt64
        package func release() { lock.release(id) }
    }

    /// Waits until `range` is free. In bytes; an empty one conflicts with nothing. A lease and not a closure, since a
    /// caller's span cannot be captured by one.
    package func acquire(
        _ range: Range<UInt64>, exclusive: Bool, file: StaticString = #fileID, line: UInt = #line
    ) -> Lease {
        var mine: UInt64?
        let id: UInt64 = state.wait(file: file, line: line) { state in
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
        return Lease(lock: self, id: id)
    }

    private func release(_ id: UInt64) {
        state.withLock { $0.entries.removeAll { $0.id == id } }
        state.notifyAll()
    }
}
