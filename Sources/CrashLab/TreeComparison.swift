package import Ext4Format

/// What stands at one inode of a mounted volume.
package struct CapturedNode: Equatable, Sendable {
    package var mode: UInt16
    package var linkCount: UInt32
    package var size: UInt64
    /// The data of a file, the target of a symbolic link.
    package var content: [UInt8] = []
    /// Of a directory; "." and ".." are left out.
    package var entries: [[UInt8]: InodeNumber] = [:]
    package var attributes: [[UInt8]: [UInt8]] = [:]
    package var deviceMajor: UInt32 = 0, deviceMinor: UInt32 = 0
    /// What is allocated, in units of 512 bytes.
    package var sectorCount: UInt64 = 0

    package init(mode: UInt16, linkCount: UInt32, size: UInt64) {
        self.mode = mode
        self.linkCount = linkCount
        self.size = size
    }
}

/// All that can be reached from the root.
package struct CapturedTree: Equatable, Sendable {
    package var nodes: [InodeNumber: CapturedNode] = [:]
    package init() {}

    /// The same without what is allocated: e2fsck makes extent trees smaller where it can.
    package var withoutAllocation: Self {
        var tree = self
        for inode in nodes.keys { tree.nodes[inode]?.sectorCount = 0 }
        return tree
    }
}

/// Compares what a power cut left with what it may have left.
///
/// The rule: the tree is that of some prefix of the operations, from the floor of those that had returned by then to
/// the last one that had begun. Data is that of the prefix too, but for what later operations wrote in place: of these,
/// each 512 bytes may be there or not, or be garbage on a disk that leaves it. Data that a sync covered is never
/// older than the sync.
package struct TreeComparison {
    private static let sectorByteCount = 512
    private let history: ModelHistory
    private let captured: CapturedTree
    /// The last operations that had begun, and that had returned.
    private let begun: Int, returned: Int
    private let admitsGarbage: Bool

    package init(
        _ captured: CapturedTree, with history: ModelHistory, begun: Int, returned: Int, admitsGarbage: Bool = false
    ) {
        precondition(returned <= begun && begun < history.steps.count)
        self.captured = captured
        self.history = history
        self.begun = begun
        self.returned = returned
        self.admitsGarbage = admitsGarbage
    }

    package enum Verdict: Sendable {
        /// The newest prefix that explains the tree.
        case prefix(Int)
        /// Why no prefix does, for a few of them.
        case impossible([String])
    }

    package func verdict() -> Verdict {
        let floor = history.steps[returned].floor
        for prefix in stride(from: begun, through: floor, by: -1) where mismatch(prefix) == nil {
            return .prefix(prefix)
        }
        let shown = Set([floor, returned, begun]).sorted()
        return .impossible(shown.map { "prefix \($0): \(mismatch($0) ?? "matches")" })
    }

    /// The first difference from the tree after `prefix`; nil: none.
    package func mismatch(_ prefix: Int) -> String? {
        let tree = history.steps[prefix].tree
        var numbers: [ModelNodeID: InodeNumber] = [.root: .root]
        var owners: [InodeNumber: ModelNodeID] = [.root: .root]
        var queue: [(id: ModelNodeID, path: String)] = [(.root, "/")]
        while let (id, path) = queue.popLast() {
            guard let node = tree[id], let number = numbers[id], let found = captured.nodes[number] else {
                return "\(path): not captured"
            }
            if let difference = compare(node, id, found, prefix) { return "\(path) (\(id)): \(difference)" }
            let missing = node.entries.keys.filter { found.entries[$0] == nil }
            if !missing.isEmpty || node.entries.count != found.entries.count {
                let unexpected = found.entries.keys.filter { node.entries[$0] == nil }
                return "\(path): missing \(Self.text(missing)), unexpected \(Self.text(unexpected))"
            }
            for (name, child) in node.entries.sorted(by: { $0.value < $1.value }) {
                guard let childNumber = found.entries[name] else { return "\(path): missing entry" }
                let childPath = path + (path == "/" ? "" : "/") + String(decoding: name, as: UTF8.self)
                let known = numbers.updateValue(childNumber, forKey: child)
                let owner = owners.updateValue(child, forKey: childNumber)
                if known ?? childNumber != childNumber || owner ?? child != child {
                    return "\(childPath): inode \(childNumber.rawValue) where the model has \(child)"
                }
                if known == nil { queue.append((child, childPath)) }
            }
        }
        return nil
    }

    private func compare(_ node: ModelNode, _ id: ModelNodeID, _ found: CapturedNode, _ prefix: Int) -> String? {
        guard node.mode == found.mode else { return "mode \(octal(found.mode)) instead of \(octal(node.mode))" }
        guard node.linkCount == Int(found.linkCount) else {
            return "link count \(found.linkCount) instead of \(node.linkCount)"
        }
        guard node.attributes == found.attributes else {
            return "attributes \(Self.text(found.attributes.keys)) instead of \(Self.text(node.attributes.keys))"
        }
        guard node.deviceMajor == found.deviceMajor, node.deviceMinor == found.deviceMinor else {
            return "device \(found.deviceMajor):\(found.deviceMinor)"
        }
        if node.isFile { return compareData(node, id, found, prefix) }
        if node.kind == .symlink && node.content != found.content { return "another target" }
        return nil
    }

    private func compareData(_ node: ModelNode, _ id: ModelNodeID, _ found: CapturedNode, _ prefix: Int) -> String? {
        guard Int(found.size) == node.content.count, found.content.count == node.content.count else {
            return "size \(found.size) with \(found.content.count) bytes instead of \(node.content.count)"
        }
        // A sync of overwritten data need not bring the tree forward, but the data is there.
        let synced = history.steps[returned].tree[id]?.dataSyncedBy ?? 0
        var first = prefix, expected = node.content
        if synced > prefix, let later = history.steps[synced].tree[id], later.content.count == expected.count {
            first = synced
            expected = later.content
        }
        guard found.content != expected else { return nil }
        let sector = Self.sectorByteCount
        for start in stride(from: 0, to: expected.count, by: sector) {
            let range = start..<min(start + sector, expected.count)
            guard found.content[range] != expected[range] else { continue }
            if !isLaterVersion(found.content[range], of: id, after: first) {
                return "wrong data at byte \(start) of \(expected.count)\(describe(found.content[range], id))"
            }
        }
        return nil
    }

    /// Whether an operation after `first` wrote these bytes in place, or may have left garbage there. What lies behind
    /// its end of file was zeros.
    private func isLaterVersion(_ bytes: ArraySlice<UInt8>, of id: ModelNodeID, after first: Int) -> Bool {
        guard first < begun else { return false }
        for step in history.steps[(first + 1)...begun] {
            let touched = step.inPlace.contains { $0.node == id && $0.range.overlaps(bytes.indices) }
            guard touched, let content = step.tree[id]?.content else { continue }
            if admitsGarbage { return true }
            let part = content[min(bytes.startIndex, content.count)..<min(bytes.endIndex, content.count)]
            if bytes.elementsEqual(part + repeatElement(0, count: bytes.count - part.count)) { return true }
        }
        return false
    }

    /// Where the bytes come from, if any version of any file had them: the first clue to a bug.
    private func describe(_ bytes: ArraySlice<UInt8>, _ id: ModelNodeID) -> String {
        if bytes.allSatisfy({ $0 == 0 }) { return ": zeros" }
        for (index, step) in history.steps.enumerated().reversed() {
            for (other, node) in step.tree.nodes where node.isFile && node.content.count >= bytes.endIndex {
                if node.content[bytes.indices] == bytes {
                    return ": as \(other == id ? "the file itself" : "\(other)") had it after operation \(index)"
                }
            }
        }
        return ": \(bytes.prefix(8).map { String($0, radix: 16) }.joined(separator: " "))..., never written there"
    }

    private static func text(_ names: some Sequence<[UInt8]>) -> String {
        "[" + names.map { String(decoding: $0, as: UTF8.self) }.sorted().joined(separator: ", ") + "]"
    }

    private func octal(_ mode: UInt16) -> String { String(mode, radix: 8) }
}
