internal import Ext4Format

extension Operation {
    /// The nodes that a caller refers to, and not by a name.
    var nodes: [ModelNodeID] {
        switch self {
        case .create(let parent, _, _), .makeNode(let parent, _, _, _, _), .makeDirectory(let parent, _, _),
            .makeSymlink(let parent, _, _), .unlink(let parent, _), .removeDirectory(let parent, _):
            [parent]
        case .link(let id, _, let parent): [id, parent]
        case .rename(let parent, _, let other, _), .exchange(let parent, _, let other, _),
            .whiteout(let parent, _, let other, _):
            [parent, other]
        case .write(let id, _, _, _), .batch(let id, _, _), .truncate(let id, _), .allocate(let id, _, _, _),
            .punch(let id, _, _), .shift(let id, _, _), .changeMode(let id, _), .setAttribute(let id, _, _),
            .removeAttribute(let id, _), .hold(let id), .release(let id), .forget(let id), .sync(let id, _):
            [id]
        case .mount, .remount, .unmount, .syncAll: []
        }
    }
}

extension ModelTree {
    /// The errors with one of which POSIX lets the operation fail on this tree; empty: it succeeds. Every node that
    /// ever was is in the tree.
    func failures(of operation: Operation) -> Set<Int32> {
        switch operation {
        case .create(let parent, let name, _), .makeNode(let parent, let name, _, _, _),
            .makeDirectory(let parent, let name, _), .makeSymlink(let parent, let name, _):
            return additionFailures(name, parent)
        case .link(let id, let name, let parent):
            return additionFailures(name, parent).union(isGone(id) ? [Errno.noEntry] : [])
        case .unlink(let parent, let name):
            guard let id = child(name, of: parent) else { return [Errno.noEntry] }
            return isDirectory(id) ? [Errno.isDirectory] : []
        case .removeDirectory(let parent, let name):
            guard let id = child(name, of: parent) else { return [Errno.noEntry] }
            if !isDirectory(id) { return [Errno.notDirectory] }
            return isEmpty(id) ? [] : [Errno.notEmpty]
        case .rename(let parent, let name, let other, let newName),
            .whiteout(let parent, let name, let other, let newName):
            return renameFailures(name, parent, newName, other)
        case .exchange(let parent, let name, let other, let otherName):
            guard let id = child(name, of: parent), let otherID = child(otherName, of: other) else {
                return [Errno.noEntry]
            }
            let isCircle = isAncestor(id, orSelfOf: other) || isAncestor(otherID, orSelfOf: parent)
            return isCircle ? [Errno.invalid] : []
        case .removeAttribute(let id, let name): return self[id]?.attributes[name] == nil ? [Errno.noData] : []
        default: return []
        }
    }

    private func additionFailures(_ name: [UInt8], _ parent: ModelNodeID) -> Set<Int32> {
        if isGone(parent) { return [Errno.noEntry] }
        return child(name, of: parent) == nil ? [] : [Errno.exists]
    }

    private func renameFailures(
        _ name: [UInt8], _ parent: ModelNodeID, _ newName: [UInt8], _ newParent: ModelNodeID
    ) -> Set<Int32> {
        guard let id = child(name, of: parent) else { return [Errno.noEntry] }
        var result: Set<Int32> = isGone(newParent) ? [Errno.noEntry] : []
        if isAncestor(id, orSelfOf: newParent) { result.insert(Errno.invalid) }
        guard let target = child(newName, of: newParent), target != id else { return result }
        switch (isDirectory(id), isDirectory(target)) {
        case (true, false): result.insert(Errno.notDirectory)
        case (false, true): result.insert(Errno.isDirectory)
        default: break
        }
        if !isEmpty(target) { result.insert(Errno.notEmpty) }
        return result
    }

    /// Without a name, and used by those only who had it open.
    func isGone(_ id: ModelNodeID) -> Bool { (self[id]?.linkCount ?? 0) <= 0 }
    private func isDirectory(_ id: ModelNodeID) -> Bool { self[id]?.isDirectory == true }
    private func isEmpty(_ id: ModelNodeID) -> Bool { self[id]?.entries.isEmpty != false }
}
