/// A node of the model, by the order of its creation. The root is 0.
package struct ModelNodeID: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let rawValue: Int
    package init(_ rawValue: Int) { self.rawValue = rawValue }
    package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    package static var root: Self { Self(0) }
    package var description: String { "#\(rawValue)" }
}

/// What a file, directory, link or device should be: what POSIX says, and what must survive a power cut.
package struct ModelNode: Equatable, Sendable {
    /// Type and permissions, as in st_mode.
    package var mode: UInt16
    package var linkCount = 1
    /// The data of a file, the target of a symbolic link.
    package var content: [UInt8] = []
    /// Of a file: whether each block has been written, so that writing it again is done in place.
    package var isMapped: [Bool] = []
    /// Of a file: the blocks that fallocate gave it and nobody has written yet.
    package var isPreallocated: Set<Int> = []
    package var allocatedBlockCount: Int { isMapped.count(where: \.self) + isPreallocated.count }
    /// Of a directory; "." and ".." are left out.
    package var entries: [[UInt8]: ModelNodeID] = [:]
    package var parent = ModelNodeID.root
    package var attributes: [[UInt8]: [UInt8]] = [:]
    package var deviceMajor: UInt32 = 0, deviceMinor: UInt32 = 0
    /// The operation that last changed anything: what fsync must bring to the medium.
    package var changedBy = 0
    /// The operation that last changed the size or the blocks: what fdatasync must bring to the medium.
    package var remappedBy = 0
    /// All data written up to this operation is on the medium, because a sync said so.
    package var dataSyncedBy = 0
    /// Somebody has it open: it outlives its last name.
    package var isHeld = false

    package init(mode: UInt16) { self.mode = mode }

    mutating func dropContent() {
        content = []
        isMapped = []
        isPreallocated = []
    }

    /// The upper four bits of the mode.
    package enum Kind: UInt16, Sendable {
        case fifo = 1, character = 2, directory = 4, block = 6, file = 8, symlink = 10, socket = 12
    }
    package var kind: Kind? { Kind(rawValue: mode >> 12) }
    package var isDirectory: Bool { kind == .directory }
    package var isFile: Bool { kind == .file }
}

/// A tree as the operations so far should have left it. A value: a copy is a snapshot.
package struct ModelTree: Equatable, Sendable {
    package private(set) var nodes: [ModelNodeID: ModelNode] = [:]
    package let blockByteCount: Int
    /// Where the volume puts overwrites.
    package let placement: Placement
    /// What the next node will be called.
    package internal(set) var nextNode = ModelNodeID(1)

    /// A fresh volume of mke2fs: the root and lost+found.
    package init(blockByteCount: Int, placement: Placement = .inPlace) {
        self.blockByteCount = blockByteCount
        self.placement = placement
        var root = ModelNode(mode: 0o040755)
        root.linkCount = 2
        nodes[.root] = root
        _ = add(ModelNode(mode: 0o040700), Array("lost+found".utf8), to: .root, by: 0)
    }

    package enum Placement: Sendable {
        case inPlace, outOfPlace
    }

    package subscript(_ id: ModelNodeID) -> ModelNode? { nodes[id] }

    package func child(_ name: [UInt8], of parent: ModelNodeID) -> ModelNodeID? { nodes[parent]?.entries[name] }

    /// A name of the node, if it still has one.
    package func place(of id: ModelNodeID) -> (parent: ModelNodeID, name: [UInt8])? {
        if let node = nodes[id], node.isDirectory {
            guard let name = nodes[node.parent]?.entries.first(where: { $0.value == id })?.key else { return nil }
            return (node.parent, name)
        }
        // The least of its names, so that a seed decides which is looked up.
        let parents = nodes.filter { $0.value.entries.values.contains(id) }.keys
        guard let parent = parents.min() else { return nil }
        let names = nodes[parent]?.entries.filter { $0.value == id }.keys
        return names?.min { $0.lexicographicallyPrecedes($1) }.map { (parent, $0) }
    }

    package func isAncestor(_ id: ModelNodeID, orSelfOf other: ModelNodeID) -> Bool {
        var current = other
        while current != id {
            guard current != .root, let parent = nodes[current]?.parent else { return false }
            current = parent
        }
        return true
    }

    // MARK: - Changes

    mutating func change(_ id: ModelNodeID, by operation: Int, _ body: (inout ModelNode) -> Void) {
        guard var node = nodes.removeValue(forKey: id) else { preconditionFailure("the model has no node \(id)") }
        body(&node)
        node.changedBy = operation
        nodes[id] = node
    }

    /// A change that no sync needs to carry.
    mutating func note(_ id: ModelNodeID, _ body: (inout ModelNode) -> Void) {
        let changedBy = nodes[id]?.changedBy ?? 0
        change(id, by: changedBy, body)
    }

    mutating func add(_ node: ModelNode, _ name: [UInt8], to parent: ModelNodeID, by operation: Int) -> ModelNodeID {
        let id = nextNode
        nextNode = ModelNodeID(id.rawValue + 1)
        var node = node
        node.parent = parent
        node.linkCount = node.isDirectory ? 2 : 1
        node.changedBy = operation
        node.remappedBy = operation
        nodes[id] = node
        change(parent, by: operation) {
            $0.entries[name] = id
            if node.isDirectory { $0.linkCount += 1 }
        }
        return id
    }

    mutating func link(_ id: ModelNodeID, as name: [UInt8], in parent: ModelNodeID, by operation: Int) {
        change(parent, by: operation) { $0.entries[name] = id }
        change(id, by: operation) { $0.linkCount += 1 }
    }

    /// Takes the name away; a node without names and holders goes with it.
    mutating func remove(_ name: [UInt8], from parent: ModelNodeID, by operation: Int) {
        guard let id = child(name, of: parent), let node = nodes[id] else { return }
        change(parent, by: operation) {
            $0.entries[name] = nil
            if node.isDirectory { $0.linkCount -= 1 }
        }
        change(id, by: operation) { $0.linkCount -= $0.isDirectory ? 2 : 1 }
        dropIfUnused(id)
    }

    /// Nobody has anything open any more.
    mutating func releaseAll() {
        for id in nodes.keys where nodes[id]?.isHeld == true {
            note(id) { $0.isHeld = false }
            dropIfUnused(id)
        }
    }

    mutating func dropIfUnused(_ id: ModelNodeID) {
        if let node = nodes[id], node.linkCount <= 0, !node.isHeld { nodes[id] = nil }
    }

    mutating func move(
        _ name: [UInt8], from parent: ModelNodeID, to newName: [UInt8], in newParent: ModelNodeID, by operation: Int
    ) {
        guard let id = child(name, of: parent) else { return }
        if let old = child(newName, of: newParent) {
            // Two names of one file: POSIX leaves both.
            if old == id { return }
            remove(newName, from: newParent, by: operation)
        }
        change(parent, by: operation) { $0.entries[name] = nil }
        change(newParent, by: operation) { $0.entries[newName] = id }
        settle(id, from: parent, in: newParent, by: operation)
    }

    mutating func exchange(
        _ name: [UInt8], in parent: ModelNodeID, with other: [UInt8], in otherParent: ModelNodeID, by operation: Int
    ) {
        guard let id = child(name, of: parent), let otherID = child(other, of: otherParent) else { return }
        guard id != otherID else { return }
        change(parent, by: operation) { $0.entries[name] = otherID }
        change(otherParent, by: operation) { $0.entries[other] = id }
        settle(id, from: parent, in: otherParent, by: operation)
        settle(otherID, from: otherParent, in: parent, by: operation)
    }

    private mutating func settle(
        _ id: ModelNodeID, from parent: ModelNodeID, in newParent: ModelNodeID, by operation: Int
    ) {
        change(id, by: operation) { _ in }
        guard nodes[id]?.isDirectory == true, parent != newParent else { return }
        change(parent, by: operation) { $0.linkCount -= 1 }
        change(newParent, by: operation) { $0.linkCount += 1 }
        change(id, by: operation) { $0.parent = newParent }
    }

    /// Gives the byte ranges that were written in place: they may reach the medium before the operation is durable.
    @discardableResult
    mutating func write(
        _ bytes: [UInt8], to id: ModelNodeID, at offset: Int, placement: Placement? = nil, by operation: Int
    ) -> [Range<Int>] {
        guard let old = nodes[id], !bytes.isEmpty else { return [] }
        let end = offset + bytes.count
        let blocks = offset / blockByteCount...(end - 1) / blockByteCount
        let isInPlace = (placement ?? self.placement) == .inPlace
        let overwritten = blocks.filter { isInPlace && $0 < old.isMapped.count && old.isMapped[$0] }
        let isOverwrite = end <= old.content.count && overwritten.count == blocks.count
        change(id, by: operation) { node in
            if end > node.content.count { node.content += [UInt8](repeating: 0, count: end - node.content.count) }
            node.content.replaceSubrange(offset..<end, with: bytes)
            if let last = blocks.last, last >= node.isMapped.count {
                node.isMapped += [Bool](repeating: false, count: last + 1 - node.isMapped.count)
            }
            for block in blocks { node.isMapped[block] = true }
            node.isPreallocated.subtract(blocks)
            if !isOverwrite { node.remappedBy = operation }
        }
        return overwritten.map(range(ofBlock:))
    }

    /// Changes the size. Nothing of that is done in place: the tail of a block that is cut is written anew.
    mutating func truncate(_ id: ModelNodeID, to size: Int, by operation: Int) {
        let blocks = (size + blockByteCount - 1) / blockByteCount
        change(id, by: operation) { node in
            node.remappedBy = operation
            if size > node.content.count {
                node.content += [UInt8](repeating: 0, count: size - node.content.count)
            } else {
                node.content.removeLast(node.content.count - size)
                if blocks < node.isMapped.count { node.isMapped.removeLast(node.isMapped.count - blocks) }
                node.isPreallocated = node.isPreallocated.filter { $0 < blocks }
            }
        }
    }

    /// fallocate without a flag or with FALLOC_FL_KEEP_SIZE: what had no block has one that reads as zeros.
    mutating func allocate(_ range: Range<Int>, in id: ModelNodeID, keepsSize: Bool, by operation: Int) {
        let blocks = range.lowerBound / blockByteCount...(range.upperBound - 1) / blockByteCount
        change(id, by: operation) { node in
            let missing = blocks.filter {
                !node.isPreallocated.contains($0) && ($0 >= node.isMapped.count || !node.isMapped[$0])
            }
            let grows = !keepsSize && range.upperBound > node.content.count
            // What has its blocks already, and its size, is only touched.
            if grows || !missing.isEmpty { node.remappedBy = operation }
            node.isPreallocated.formUnion(missing)
            if grows {
                node.content += [UInt8](repeating: 0, count: range.upperBound - node.content.count)
            }
        }
    }

    /// fallocate with FALLOC_FL_PUNCH_HOLE: whole blocks go, what is left of the others is written over in place. Gives
    /// the byte ranges of these.
    mutating func punch(_ range: Range<Int>, in id: ModelNodeID, by operation: Int) -> [Range<Int>] {
        let unit = blockByteCount
        let whole =
            (range.lowerBound + unit - 1) / unit..<max((range.lowerBound + unit - 1) / unit, range.upperBound / unit)
        let touched = range.lowerBound / unit...(range.upperBound - 1) / unit
        var inPlace: [Range<Int>] = []
        change(id, by: operation) { node in
            node.remappedBy = operation
            let end = min(range.upperBound, node.content.count)
            for byte in min(range.lowerBound, end)..<end { node.content[byte] = 0 }
            for block in touched where block < node.isMapped.count && node.isMapped[block] {
                if whole.contains(block) {
                    node.isMapped[block] = false
                } else {
                    inPlace.append(block * unit..<(block + 1) * unit)
                }
            }
            node.isPreallocated.subtract(whole)
        }
        return inPlace
    }

    /// fallocate with FALLOC_FL_INSERT_RANGE, or FALLOC_FL_COLLAPSE_RANGE where `distance` is negative; in bytes, all
    /// whole blocks. Blocks move with their data, and nothing is written in place.
    mutating func shift(_ id: ModelNodeID, at offset: Int, by distance: Int, by operation: Int) {
        let first = offset / blockByteCount, count = distance / blockByteCount
        change(id, by: operation) { node in
            node.remappedBy = operation
            func moved(_ block: Int) -> Int? {
                block < first ? block : block < first - min(count, 0) ? nil : block + count
            }
            node.isPreallocated = Set(node.isPreallocated.compactMap(moved))
            if count > 0 {
                node.content.insert(contentsOf: repeatElement(0, count: distance), at: offset)
                node.isMapped.insert(
                    contentsOf: repeatElement(false, count: count), at: min(first, node.isMapped.count))
            } else {
                node.content.removeSubrange(offset..<offset - distance)
                let limit = node.isMapped.count
                node.isMapped.removeSubrange(min(first, limit)..<min(first - count, limit))
            }
        }
    }

    private func range(ofBlock block: Int) -> Range<Int> { block * blockByteCount..<(block + 1) * blockByteCount }
}
