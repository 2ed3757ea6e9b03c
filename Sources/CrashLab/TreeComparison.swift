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
        TreeMatch(captured).mismatch(with: history.steps[prefix].tree) { node, id, found in
            // A sync of overwritten data need not bring the tree forward, but the data is there.
            let synced = history.steps[returned].tree[id]?.dataSyncedBy ?? 0
            var first = prefix, expected = node.content
            if synced > prefix, let later = history.steps[synced].tree[id], later.content.count == expected.count {
                first = synced
                expected = later.content
            }
            guard let wrong = TreeMatch.wrongSector(found, expected, { isLaterVersion($0, of: id, after: first) })
            else { return nil }
            return "wrong data at byte \(wrong.startIndex) of \(expected.count)\(describe(wrong, id))"
        }
    }

    /// Whether an operation after `first` wrote these bytes in place, or may have left garbage there.
    private func isLaterVersion(_ bytes: ArraySlice<UInt8>, of id: ModelNodeID, after first: Int) -> Bool {
        guard first < begun else { return false }
        for step in history.steps[(first + 1)...begun] {
            let isWritten = TreeMatch.wrote(
                bytes, of: id, inPlace: step.inPlace, step.tree, admitsGarbage: admitsGarbage)
            if isWritten { return true }
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
}
