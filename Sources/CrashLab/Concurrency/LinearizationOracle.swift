package import Ext4Format

/// The tree is that of some moment of some order of the calls that explains what they answered: with all that returned
/// syncs covered, and with nothing that had not begun. What was written in place since may be there, sector by sector.
package struct LinearizationOracle: Oracle {
    private let calls: [ConcurrentHistory.Call]
    private let moments: [ConcurrentHistory.Moment]
    private let threadCount: Int

    package init(_ history: ConcurrentHistory) {
        calls = history.calls
        moments = history.possibleMoments
        threadCount = moments.first?.done.count ?? 0
    }

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        complaints(about: state.tree, begun: state.begun, returned: state.returned)
    }

    func complaints(about tree: CapturedTree, begun: Int, returned: Int) -> [String] {
        let least = required(returned), most = self.begun(begun)
        let candidates = moments.filter { Self.isLater($0.done, than: least) && Self.isLater(most, than: $0.done) }
        let match = TreeMatch(tree)
        var differences: [String] = []
        for moment in candidates {
            guard let difference = mismatch(match, moment, candidates) else { return [] }
            differences.append("after \(moment.done): \(difference)")
        }
        let shown = [differences.first, differences.last].compactMap(\.self)
        return ["of \(candidates.count) moments from \(least) to \(most) calls of each thread it is none"] + shown
    }

    private func mismatch(
        _ match: TreeMatch, _ moment: ConcurrentHistory.Moment, _ candidates: [ConcurrentHistory.Moment]
    ) -> String? {
        match.mismatch(with: moment.tree) { node, id, found in
            let wrong = TreeMatch.wrongSector(found, node.content) { bytes in
                candidates.contains { later in
                    Self.isLater(later.done, than: moment.done)
                        && TreeMatch.wrote(bytes, of: id, inPlace: later.inPlace, later.tree)
                }
            }
            return wrong.map { "wrong data at byte \($0.startIndex) of \(found.count)" }
        }
    }

    /// In each thread at least as far.
    private static func isLater(_ done: [Int], than other: [Int]) -> Bool { zip(done, other).allSatisfy { $0 >= $1 } }

    /// How many calls of each thread had begun when `count` had.
    private func begun(_ count: Int) -> [Int] {
        calls.prefix(count).reduce(into: [Int](repeating: 0, count: threadCount)) { $0[$1.thread] += 1 }
    }

    /// How many calls of each thread the syncs had made durable that were among the first `count` to return. What a
    /// call overlapped with is not required by it, and what came before it in its own thread is.
    private func required(_ count: Int) -> [Int] {
        var result = [Int](repeating: 0, count: threadCount)
        for sync in calls where (sync.rank ?? .max) <= count && sync.failure == nil {
            var position = [Int](repeating: 0, count: threadCount)
            for call in calls {
                position[call.thread] += 1
                guard (call.rank ?? .max) <= sync.returnedBefore, Self.covers(sync.operation, call) else { continue }
                result[call.thread] = max(result[call.thread], position[call.thread])
            }
        }
        return result
    }

    private static func covers(_ sync: Operation, _ call: ConcurrentHistory.Call) -> Bool {
        switch sync {
        case .syncAll, .unmount: return true
        case .sync(let id, dataOnly: false):
            // A sync changes nothing that another one would cover.
            if case .sync = call.operation { return false }
            return call.failure == nil && (call.node == id || call.operation.nodes.contains(id))
        default: return false
        }
    }
}
