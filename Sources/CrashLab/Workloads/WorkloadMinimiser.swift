/// Makes a workload that fails shorter, as long as it still fails: delta debugging (Zeller and Hildebrandt, 2002).
package enum WorkloadMinimiser {
    /// A part of `operations`, which begin at `tree`, of which no single operation can be left out. `fails` answers
    /// whether a workload fails as the first one did; it does for `operations`.
    ///
    /// What is left over of a part is made a workload again: nodes are numbered anew, and operations on what is not
    /// there any more go too.
    package static func minimise<E: Error>(
        _ operations: [Operation], from tree: ModelTree, fails: ([Operation]) throws(E) -> Bool
    ) throws(E) -> [Operation] {
        var kept = Array(operations.indices), parts = 2
        func workload(_ indices: [Int]) -> [Operation] { repaired(operations, indices, from: tree) }
        while kept.count > 1 {
            let size = (kept.count + parts - 1) / parts
            var shorter: [Int]?
            for start in stride(from: 0, to: kept.count, by: size) {
                let rest = Array(kept[..<start] + kept[min(start + size, kept.count)...])
                if try fails(workload(rest)) {
                    shorter = rest
                    break
                }
            }
            if let shorter {
                kept = shorter
                parts = max(parts - 1, 2)
            } else if size == 1 {
                break
            } else {
                parts = min(parts * 2, kept.count)
            }
        }
        return workload(kept)
    }

    /// The operations at `indices`, ascending, that still make sense without the others.
    package static func repaired(_ operations: [Operation], _ indices: [Int], from tree: ModelTree) -> [Operation] {
        var original = ModelHistory(tree), made = ModelHistory(tree)
        var numbers = Dictionary(uniqueKeysWithValues: tree.nodes.keys.map { ($0, $0) })
        let wanted = Set(indices)
        for (index, operation) in operations.enumerated() {
            let old = original.tree.nextNode
            original.append(operation)
            guard wanted.contains(index), let renumbered = operation.renumbered({ numbers[$0] }),
                made.tree.allows(renumbered)
            else { continue }
            if original.tree.nextNode != old { numbers[old] = made.tree.nextNode }
            made.append(renumbered)
        }
        return made.steps.dropFirst().map(\.operation)
    }
}

extension Operation {
    /// The same on other nodes; nil when one of them has no number.
    func renumbered(_ number: (ModelNodeID) -> ModelNodeID?) -> Operation? {
        switch self {
        case .mount, .syncAll, .remount, .unmount: return self
        case .create(let parent, let name, let mode): return number(parent).map { .create($0, name, mode: mode) }
        case .makeNode(let parent, let name, let mode, let major, let minor):
            return number(parent).map { .makeNode($0, name, mode: mode, major: major, minor: minor) }
        case .makeDirectory(let parent, let name, let mode):
            return number(parent).map { .makeDirectory($0, name, mode: mode) }
        case .makeSymlink(let parent, let name, let target):
            return number(parent).map { .makeSymlink($0, name, target: target) }
        case .unlink(let parent, let name): return number(parent).map { .unlink($0, name) }
        case .removeDirectory(let parent, let name): return number(parent).map { .removeDirectory($0, name) }
        case .link(let id, let name, let parent):
            guard let id = number(id), let parent = number(parent) else { return nil }
            return .link(id, as: name, in: parent)
        case .rename(let parent, let name, let newParent, let newName):
            guard let parent = number(parent), let newParent = number(newParent) else { return nil }
            return .rename(parent, name, to: newParent, newName)
        case .exchange(let parent, let name, let otherParent, let other):
            guard let parent = number(parent), let otherParent = number(otherParent) else { return nil }
            return .exchange(parent, name, with: otherParent, other)
        case .whiteout(let parent, let name, let newParent, let newName):
            guard let parent = number(parent), let newParent = number(newParent) else { return nil }
            return .whiteout(parent, name, to: newParent, newName)
        default: return renumberedOnInode(number)
        }
    }

    private func renumberedOnInode(_ number: (ModelNodeID) -> ModelNodeID?) -> Operation? {
        guard let target, let id = number(target) else { return nil }
        switch self {
        case .write(_, let offset, let count, let stamp): return .write(id, at: offset, count: count, stamp: stamp)
        case .batch(_, let ranges, let stamp): return .batch(id, ranges, stamp: stamp)
        case .truncate(_, let size): return .truncate(id, to: size)
        case .allocate(_, let offset, let count, let keepsSize):
            return .allocate(id, at: offset, count: count, keepsSize: keepsSize)
        case .punch(_, let offset, let count): return .punch(id, at: offset, count: count)
        case .shift(_, let offset, let distance): return .shift(id, at: offset, by: distance)
        case .changeMode(_, let mode): return .changeMode(id, mode: mode)
        case .setAttribute(_, let name, let value): return .setAttribute(id, name, value)
        case .removeAttribute(_, let name): return .removeAttribute(id, name)
        case .hold: return .hold(id)
        case .release: return .release(id)
        case .forget: return .forget(id)
        case .sync(_, let dataOnly): return .sync(id, dataOnly: dataOnly)
        default: return nil
        }
    }

    /// The node of an operation on an inode alone.
    var target: ModelNodeID? {
        switch self {
        case .write(let id, _, _, _), .batch(let id, _, _), .truncate(let id, _), .allocate(let id, _, _, _),
            .punch(let id, _, _), .shift(let id, _, _), .changeMode(let id, _), .setAttribute(let id, _, _),
            .removeAttribute(let id, _), .hold(let id), .release(let id), .forget(let id), .sync(let id, _):
            id
        default: nil
        }
    }
}

extension ModelTree {
    /// Whether the operation would succeed, space aside.
    func allows(_ operation: Operation) -> Bool {
        func isFree(_ name: [UInt8], _ parent: ModelNodeID) -> Bool {
            self[parent]?.isDirectory == true && child(name, of: parent) == nil
        }
        switch operation {
        case .mount, .syncAll, .remount, .unmount: return true
        case .create(let parent, let name, _), .makeNode(let parent, let name, _, _, _),
            .makeDirectory(let parent, let name, _), .makeSymlink(let parent, let name, _):
            return isFree(name, parent)
        case .link(let id, let name, let parent):
            return self[id].map { !$0.isDirectory && $0.linkCount > 0 } == true && isFree(name, parent)
        case .unlink(let parent, let name):
            return child(name, of: parent).flatMap { self[$0] }.map { !$0.isDirectory } == true
        case .removeDirectory(let parent, let name):
            return child(name, of: parent).flatMap { self[$0] }.map { $0.isDirectory && $0.entries.isEmpty } == true
        case .rename(let parent, let name, let newParent, let newName):
            return allowsRename(name, parent, newName, newParent)
        case .exchange(let parent, let name, let otherParent, let other):
            guard let id = child(name, of: parent), let otherID = child(other, of: otherParent) else { return false }
            return id != otherID && !isAncestor(id, orSelfOf: otherParent) && !isAncestor(otherID, orSelfOf: parent)
        case .whiteout(let parent, let name, let newParent, let newName):
            return child(name, of: parent) != child(newName, of: newParent)
                && allowsRename(name, parent, newName, newParent)
        case .removeAttribute(let id, let name): return self[id]?.attributes[name] != nil
        case .write(let id, _, _, _), .batch(let id, _, _), .truncate(let id, _), .allocate(let id, _, _, _),
            .punch(let id, _, _):
            return self[id]?.isFile == true
        case .shift(let id, let offset, let distance):
            return self[id].map { $0.isFile && offset + max(0, -distance) < $0.content.count } ?? false
        default: return operation.target.flatMap { self[$0] } != nil
        }
    }

    private func allowsRename(
        _ name: [UInt8], _ parent: ModelNodeID, _ newName: [UInt8], _ newParent: ModelNodeID
    ) -> Bool {
        guard let id = child(name, of: parent), let node = self[id], self[newParent]?.isDirectory == true,
            !isAncestor(id, orSelfOf: newParent)
        else { return false }
        guard let old = child(newName, of: newParent), let target = self[old] else { return true }
        return node.isDirectory == target.isDirectory && target.entries.isEmpty && !isAncestor(old, orSelfOf: parent)
    }
}
