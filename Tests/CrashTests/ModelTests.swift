import CrashLab
import Ext4Format
import Testing

/// The oracle must be able to say no: each test spoils a tree that it would accept.
@Suite struct ModelTests {
    /// A tree just as the model has it.
    private static func captured(_ tree: ModelTree) -> CapturedTree {
        func number(_ id: ModelNodeID) -> InodeNumber { id == .root ? .root : InodeNumber(UInt32(10 + id.rawValue)) }
        var result = CapturedTree()
        for (id, node) in tree.nodes where node.linkCount > 0 {
            var copy = CapturedNode(
                mode: node.mode, linkCount: UInt32(node.linkCount), size: UInt64(node.content.count))
            copy.content = node.content
            copy.entries = node.entries.mapValues(number)
            copy.attributes = node.attributes
            copy.deviceMajor = node.deviceMajor
            copy.deviceMinor = node.deviceMinor
            result.nodes[number(id)] = copy
        }
        return result
    }

    private static func history(_ seed: UInt64, _ profile: WorkloadProfile) -> ModelHistory {
        var history = ModelHistory(ModelTree(blockByteCount: 1024))
        var generator = WorkloadGenerator(seed: seed, profile: profile)
        for _ in 0..<profile.operationCount { history.append(generator.next(history.tree)) }
        return history
    }

    private static func accepts(_ tree: CapturedTree, _ history: ModelHistory, begun: Int, returned: Int) -> Bool {
        let comparison = TreeComparison(tree, with: history, begun: begun, returned: returned)
        if case .prefix = comparison.verdict() { return true }
        return false
    }

    /// Link counts and parents that drift apart would make every later comparison worthless.
    @Test(arguments: 0..<3) func theModelStaysConsistent(_ kind: Int) {
        let tree = Self.history(3, [WorkloadProfile.mixed(600), .names(400), .data(300)][kind]).tree
        var names: [ModelNodeID: Int] = [:]
        for node in tree.nodes.values { for child in node.entries.values { names[child, default: 0] += 1 } }
        for (id, node) in tree.nodes where id != .root {
            if node.isDirectory {
                let children = node.entries.values.filter { tree[$0]?.isDirectory == true }
                let parent = tree.place(of: id)?.parent
                #expect(names[id] == 1 && parent == node.parent, "\(id)")
                #expect(node.linkCount == 2 + children.count, "\(id)")
            } else {
                let isUsed = node.linkCount > 0 || node.isHeld
                #expect(names[id, default: 0] == node.linkCount && isUsed, "\(id)")
            }
        }
    }

    /// P1 and P2 in one: what a sync covered is there, and what is there is the tree of one moment.
    @Test func everyPrefixFromTheFloorOnIsAcceptedAndNoOlderOne() {
        let history = Self.history(5, .mixed(300))
        let last = history.steps.count - 1
        let floor = history.steps[last].floor
        #expect(floor > 0 && floor < last)
        let accepted = (0...last).filter {
            Self.accepts(Self.captured(history.steps[$0].tree), history, begun: last, returned: last)
        }
        #expect(accepted.suffix(last - floor + 1) == Array(floor...last)[...])
        // Steps that change nothing visible (syncs, holds) may look like the floor.
        let older = accepted.filter { $0 < floor }
        #expect(older.count < 5 && older.allSatisfy { $0 > floor - 10 })
    }

    /// Each way in which a tree may be wrong is seen.
    @Test func aSpoiledTreeIsRefused() throws {
        var history = Self.history(10, .mixed(300))
        history.append(.syncAll)
        let last = history.steps.count - 1
        let good = Self.captured(history.tree)
        func refuses(_ what: Comment, _ spoil: (inout CapturedTree) -> Bool) {
            var bad = good
            let isSpoiled = spoil(&bad)
            #expect(isSpoiled, what)
            let isAccepted = Self.accepts(bad, history, begun: last, returned: last)
            #expect(!isAccepted, what)
        }
        func change(
            _ tree: inout CapturedTree, _ fits: (CapturedNode) -> Bool, _ body: (inout CapturedNode) -> Void
        ) -> Bool {
            guard let id = tree.nodes.keys.sorted().first(where: { fits(tree.nodes[$0]!) }) else { return false }
            body(&tree.nodes[id]!)
            return true
        }
        refuses("mode") { tree in change(&tree, { _ in true }) { $0.mode ^= 1 } }
        refuses("link count") { tree in change(&tree, { _ in true }) { $0.linkCount += 1 } }
        refuses("data") { tree in change(&tree, { $0.mode >> 12 == 8 && $0.size > 900 }) { $0.content[700] ^= 1 } }
        refuses("size") { tree in change(&tree, { $0.mode >> 12 == 8 && $0.size > 0 }) { $0.size -= 1 } }
        refuses("attribute") { tree in change(&tree, { !$0.attributes.isEmpty }) { $0.attributes = [:] } }
        refuses("name") { tree in
            change(&tree, { $0.entries.count > 1 }) { node in
                node.entries[node.entries.keys.sorted { $0.count < $1.count }[0]] = nil
            }
        }
        refuses("identity") { tree in
            change(&tree, { $0.entries.count > 1 }) { node in
                let names = node.entries.keys.sorted { $0.count < $1.count }
                let first = node.entries[names[0]]
                node.entries[names[0]] = node.entries[names[1]]
                node.entries[names[1]] = first
            }
        }
    }

    /// Overwrites in place may be old or new for each 512 bytes until a sync; then only new. Appends are exact.
    @Test func onlyUnsyncedOverwritesMayBeOldOrNew() throws {
        let name = Array("f".utf8), file = ModelNodeID(2)
        var history = ModelHistory(ModelTree(blockByteCount: 1024))
        history.append(.create(.root, name, mode: 0o644))
        history.append(.write(file, at: 0, count: 4096, stamp: 1))
        history.append(.syncAll)
        let old = history.tree
        history.append(.write(file, at: 0, count: 2048, stamp: 2))
        let new = history.tree
        func mixed(_ range: Range<Int>) throws -> CapturedTree {
            var tree = Self.captured(old)
            let number = try #require(tree.nodes[.root]?.entries[name])
            tree.nodes[number]?.content.replaceSubrange(range, with: new[file]!.content[range])
            return tree
        }
        func accepts(_ tree: CapturedTree) -> Bool {
            let last = history.steps.count - 1
            // Of a write nothing has returned yet; a sync has.
            guard case .write = history.steps[last].operation else {
                return Self.accepts(tree, history, begun: last, returned: last)
            }
            return Self.accepts(tree, history, begun: last, returned: last - 1)
        }
        let sector = try mixed(512..<1024), torn = try mixed(512..<1000), whole = try mixed(0..<2048)
        #expect([sector, torn, whole].map(accepts) == [true, false, true])
        history.append(.sync(file, dataOnly: true))
        #expect([sector, torn, whole].map(accepts) == [false, false, true])
        history.append(.write(file, at: 4096, count: 1000, stamp: 3))
        var tree = Self.captured(history.tree)
        let isWholeAccepted = accepts(tree)
        let number = try #require(tree.nodes[.root]?.entries[name])
        tree.nodes[number]?.content.replaceSubrange(4608..<5096, with: [UInt8](repeating: 0, count: 488))
        let isPartAccepted = accepts(tree)
        #expect(isWholeAccepted && !isPartAccepted)
    }
}
