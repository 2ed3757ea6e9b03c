internal import Ext4Format
internal import Glibc

/// Compares what a mounted volume shows with one tree of the model.
struct TreeMatch {
    /// The unit that a power cut leaves whole.
    private static let sectorByteCount = 512
    private let captured: CapturedTree

    init(_ captured: CapturedTree) { self.captured = captured }

    /// The first difference from `tree`; nil: none. `data` says what is wrong with the data of a file, which has the
    /// right size.
    func mismatch(with tree: ModelTree, data: (ModelNode, ModelNodeID, _ found: [UInt8]) -> String?) -> String? {
        var numbers: [ModelNodeID: InodeNumber] = [.root: .root]
        var owners: [InodeNumber: ModelNodeID] = [.root: .root]
        // Most prefixes differ: a path is written down only where it is to be told.
        var names: [ModelNodeID: (parent: ModelNodeID, name: [UInt8])] = [:]
        var queue: [ModelNodeID] = [.root]
        while let id = queue.popLast() {
            guard let node = tree[id], let number = numbers[id], let found = captured.nodes[number] else {
                return "\(Self.path(of: id, names)): not captured"
            }
            if let difference = compare(node, found) ?? compareData(node, id, found, data) {
                return "\(Self.path(of: id, names)) (\(id)): \(difference)"
            }
            let missing = node.entries.keys.filter { found.entries[$0] == nil }
            if !missing.isEmpty || node.entries.count != found.entries.count {
                let unexpected = found.entries.keys.filter { node.entries[$0] == nil }
                return "\(Self.path(of: id, names)): missing \(Self.text(missing)), "
                    + "unexpected \(Self.text(unexpected))"
            }
            for (name, child) in node.entries.sorted(by: { $0.value < $1.value }) {
                guard let childNumber = found.entries[name] else { return "\(Self.path(of: id, names)): missing entry" }
                let known = numbers.updateValue(childNumber, forKey: child)
                let owner = owners.updateValue(child, forKey: childNumber)
                if known == nil { names[child] = (id, name) }
                if known ?? childNumber != childNumber || owner ?? child != child {
                    return "\(Self.path(of: child, names)): inode \(childNumber.rawValue) where the model has \(child)"
                }
                if known == nil { queue.append(child) }
            }
        }
        return nil
    }

    private static func path(
        of id: ModelNodeID, _ names: [ModelNodeID: (parent: ModelNodeID, name: [UInt8])]
    ) -> String {
        var parts: [String] = [], at = id
        while let (parent, name) = names[at] {
            parts.append(String(decoding: name, as: UTF8.self))
            at = parent
        }
        return "/" + parts.reversed().joined(separator: "/")
    }

    private func compare(_ node: ModelNode, _ found: CapturedNode) -> String? {
        guard node.mode == found.mode else {
            return "mode \(Self.octal(found.mode)) instead of \(Self.octal(node.mode))"
        }
        guard node.linkCount == Int(found.linkCount) else {
            return "link count \(found.linkCount) instead of \(node.linkCount)"
        }
        guard node.attributes == found.attributes else {
            return "attributes \(Self.text(found.attributes.keys)) instead of \(Self.text(node.attributes.keys))"
        }
        guard node.deviceMajor == found.deviceMajor, node.deviceMinor == found.deviceMinor else {
            return "device \(found.deviceMajor):\(found.deviceMinor)"
        }
        if node.kind == .symlink && node.content != found.content { return "another target" }
        return nil
    }

    private func compareData(
        _ node: ModelNode, _ id: ModelNodeID, _ found: CapturedNode,
        _ data: (ModelNode, ModelNodeID, [UInt8]) -> String?
    ) -> String? {
        guard node.isFile else { return nil }
        guard Int(found.size) == node.content.count, found.content.count == node.content.count else {
            return "size \(found.size) with \(found.content.count) bytes instead of \(node.content.count)"
        }
        return data(node, id, found.content)
    }

    /// The first sector that is neither what was expected nor `isLater`: written in place since.
    static func wrongSector(
        _ found: [UInt8], _ expected: [UInt8], _ isLater: (ArraySlice<UInt8>) -> Bool
    ) -> ArraySlice<UInt8>? {
        guard !isSame(found[...], expected[...]) else { return nil }
        for start in stride(from: 0, to: expected.count, by: sectorByteCount) {
            let range = start..<min(start + sectorByteCount, expected.count)
            if !isSame(found[range], expected[range]), !isLater(found[range]) { return found[range] }
        }
        return nil
    }

    /// As `==`, which looks at one byte after the other.
    private static func isSame(_ a: ArraySlice<UInt8>, _ b: ArraySlice<UInt8>) -> Bool {
        guard a.count == b.count, !a.isEmpty else { return a.count == b.count }
        return unsafe a.withUnsafeBytes { a in
            unsafe b.withUnsafeBytes { b in
                guard let left = a.baseAddress, let right = b.baseAddress else { return false }
                return unsafe memcmp(left, right, b.count) == 0
            }
        }
    }

    /// Whether an operation that wrote in place and left `tree` wrote these bytes, or may have left garbage there. What
    /// lies behind its end of file was zeros.
    static func wrote(
        _ bytes: ArraySlice<UInt8>, of id: ModelNodeID, inPlace: [(node: ModelNodeID, range: Range<Int>)],
        _ tree: ModelTree, admitsGarbage: Bool = false
    ) -> Bool {
        let isTouched = inPlace.contains { $0.node == id && $0.range.overlaps(bytes.indices) }
        guard isTouched, let content = tree[id]?.content else { return false }
        if admitsGarbage { return true }
        let part = content[min(bytes.startIndex, content.count)..<min(bytes.endIndex, content.count)]
        return bytes.elementsEqual(part + repeatElement(0, count: bytes.count - part.count))
    }

    private static func text(_ names: some Sequence<[UInt8]>) -> String {
        "[" + names.map { String(decoding: $0, as: UTF8.self) }.sorted().joined(separator: ", ") + "]"
    }

    private static func octal(_ mode: UInt16) -> String { String(mode, radix: 8) }
}
