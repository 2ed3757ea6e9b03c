package import Ext4Format
internal import Threads

extension BlockAllocator {
    /// Hands the free runs of a group to `discard`, while nobody can be given their blocks: of each what lies in
    /// `bits` (bits of the group's bitmap), where that is `least` clusters or more. Answers how many clusters these
    /// were. Takes group locks, but holds none while `discard` runs. A group that cannot be read or trusted is an
    /// error.
    package func trim(
        _ group: GroupNumber, _ bits: Range<Int>, least: Int, _ discard: (BlockRun) throws(Ext4Error) -> Void
    ) throws(Ext4Error) -> UInt64 {
        var count: UInt64 = 0
        var rest = bits
        while !rest.isEmpty {
            // Under the gate, for nobody who finds nothing else may conclude that these blocks are nowhere.
            let found = try windowGate.withReadLock { () throws(Ext4Error) -> Range<Int>? in
                guard let found = try takeFree(group, rest, least) else { return nil }
                let part = Part(group: group, bits: found)
                defer { putBack(part) }
                try discard(run(part))
                return found
            }
            guard let found else { break }
            count += UInt64(found.count)
            rest = found.upperBound..<bits.upperBound
        }
        return count
    }

    /// The first free run of `least` clusters or more, taken out of the in-core map.
    private func takeFree(_ group: GroupNumber, _ bits: Range<Int>, _ least: Int) throws(Ext4Error) -> Range<Int>? {
        try withGroup(group) { state throws(Ext4Error) in
            guard !state.isOutOfUse else { throw Self.outOfUse(group) }
            var next = bits.lowerBound
            while next < bits.upperBound, let start = state.index.firstFree(from: next), start < bits.upperBound {
                let run = state.index.run(at: start, limit: bits.upperBound - start)
                next = run.upperBound
                guard run.count >= least else { continue }
                state.index.take(run)
                state.stagedCount += run.count
                relist(group, state)
                return run
            }
            return nil
        }
    }
}
