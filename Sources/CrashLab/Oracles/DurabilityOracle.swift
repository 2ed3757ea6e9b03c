package import Ext4Format

/// What a sync acknowledged is there, call by call: data, size, mode, links, attributes, names and allocated blocks.
///
/// It knows nothing of prefixes. An obligation begins when a sync returns, and ends with the first operation that
/// changes what was synced.
package struct DurabilityOracle: Oracle {
    private struct Obligation {
        let id: ModelNodeID
        /// From the root on.
        let path: [[UInt8]]
        let node: ModelNode
        /// Only of an fdatasync: the names and the rest may be older.
        let isDataOnly: Bool
        /// The sync, and the first operation after which it need not hold.
        let since: Int
        var until = Int.max
    }
    private let obligations: [Obligation]
    private let history: ModelHistory

    package init(_ history: ModelHistory) {
        var ended: [Obligation] = [], open: [Obligation] = []
        for (step, entry) in history.steps.enumerated() {
            let stillOpen = open.filter { Self.stands($0, in: entry.tree) }
            for var obligation in open where !Self.stands(obligation, in: entry.tree) {
                obligation.until = step
                ended.append(obligation)
            }
            open = stillOpen
            for id in Self.synced(entry) {
                guard let path = Self.path(of: id, in: entry.tree), let node = entry.tree[id] else { continue }
                let (isDataOnly, covered) = Self.coverage(of: node, by: entry.operation, step)
                // The sync of a file need not carry the rename of a directory above it, nor an fdatasync its own.
                guard Self.path(of: id, in: history.steps[covered].tree) == path else { continue }
                open.removeAll { $0.id == id && (!isDataOnly || $0.isDataOnly) }
                open.append(Obligation(id: id, path: path, node: node, isDataOnly: isDataOnly, since: step))
            }
        }
        obligations = ended + open
        self.history = history
    }

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        var result: [String] = []
        for obligation in obligations where obligation.since <= state.returned && state.begun < obligation.until {
            guard let reason = breach(of: obligation, in: state) else { continue }
            let path = obligation.path.map { "/" + String(decoding: $0, as: UTF8.self) }.joined()
            let operation = history.steps[obligation.since].operation
            result.append("not durable: \(path) after step \(obligation.since), \(operation): \(reason)")
        }
        return result
    }

    /// The nodes that an operation has made durable once it has returned.
    private static func synced(_ step: ModelHistory.Step) -> [ModelNodeID] {
        switch step.operation {
        case .sync(let id, _): [id]
        case .syncAll, .remount, .unmount: step.tree.nodes.keys.sorted()
        default: []
        }
    }

    /// Up to which operation a sync carries what concerns the node.
    private static func coverage(
        of node: ModelNode, by operation: Operation, _ step: Int
    ) -> (isDataOnly: Bool, covered: Int) {
        guard case .sync(_, let dataOnly) = operation else { return (false, step) }
        return (dataOnly, dataOnly ? node.remappedBy : node.changedBy)
    }

    private static func path(of id: ModelNodeID, in tree: ModelTree) -> [[UInt8]]? {
        var path: [[UInt8]] = [], at = id
        while at != .root {
            guard let place = tree.place(of: at) else { return nil }
            path.append(place.name)
            at = place.parent
        }
        return path.reversed()
    }

    private static func stands(_ obligation: Obligation, in tree: ModelTree) -> Bool {
        guard let node = tree[obligation.id], node.content == obligation.node.content else { return false }
        let names = obligation.node.entries
        let isSame =
            obligation.isDataOnly
            || node.mode == obligation.node.mode && node.linkCount == obligation.node.linkCount
                && node.attributes == obligation.node.attributes && node.entries == names
        return isSame && node.isMapped == obligation.node.isMapped
            && node.isPreallocated == obligation.node.isPreallocated && find(obligation.path, in: tree) == obligation.id
    }

    private static func find(_ path: [[UInt8]], in tree: ModelTree) -> ModelNodeID? {
        path.reduce(.root) { at, name in at.flatMap { tree.child(name, of: $0) } }
    }

    private func breach(of obligation: Obligation, in state: RecoveredState) -> String? {
        var at: InodeNumber = .root
        for name in obligation.path {
            guard let next = state.tree.nodes[at]?.entries[name] else { return "it has no such name" }
            at = next
        }
        guard let found = state.tree.nodes[at] else { return "it is not there" }
        let node = obligation.node
        if node.isFile {
            guard Int(found.size) == node.content.count else { return "\(found.size) of \(node.content.count) bytes" }
            guard found.content == node.content else { return "other data" }
            let unit = UInt64(history.tree.blockByteCount / 512)
            let allocated = UInt64(node.allocatedBlockCount) * unit
            guard found.sectorCount >= allocated else { return "\(found.sectorCount) of \(allocated) sectors" }
        }
        guard !obligation.isDataOnly else { return nil }
        guard found.mode == node.mode else { return "mode \(String(found.mode, radix: 8))" }
        guard Int(found.linkCount) == node.linkCount else { return "\(found.linkCount) of \(node.linkCount) links" }
        guard found.attributes == node.attributes else { return "other attributes" }
        if node.kind == .symlink, found.content != node.content { return "another target" }
        return Set(found.entries.keys) == Set(node.entries.keys) ? nil : "other names"
    }
}
