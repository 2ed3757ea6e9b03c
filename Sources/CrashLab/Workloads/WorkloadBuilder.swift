internal import Ext4Format

/// Writes a workload by paths, and keeps the model beside it. A path is absolute, without the leading slash; "" is the
/// root. Every call must make sense at its place: what it names exists, what it makes does not.
package struct WorkloadBuilder {
    private var history: ModelHistory
    private var stamp: UInt64 = 0

    package init(_ tree: ModelTree) { history = ModelHistory(tree) }

    /// Without the first mount, which every workload has.
    package var operations: [Operation] { history.steps.dropFirst().map(\.operation) }
    package var tree: ModelTree { history.tree }

    package func exists(_ path: String) -> Bool { find(path) != nil }

    package func node(_ path: String) -> ModelNode? { find(path).flatMap { history.tree[$0] } }

    private func find(_ path: String) -> ModelNodeID? {
        path.split(separator: "/").reduce(.root) { at, name in
            at.flatMap { history.tree.child(Array(name.utf8), of: $0) }
        }
    }

    private func id(_ path: String) -> ModelNodeID {
        guard let id = find(path) else { preconditionFailure("the workload names \(path), which is not there") }
        return id
    }

    private func place(_ path: String) -> (parent: ModelNodeID, name: [UInt8]) {
        let names = path.split(separator: "/")
        guard let last = names.last else { preconditionFailure("the root has no name") }
        return (id(names.dropLast().joined(separator: "/")), Array(last.utf8))
    }

    private mutating func append(_ operation: Operation) { history.append(operation) }

    package mutating func create(_ path: String) {
        let (parent, name) = place(path)
        append(.create(parent, name, mode: 0o644))
    }
    package mutating func makeDirectory(_ path: String) {
        let (parent, name) = place(path)
        append(.makeDirectory(parent, name, mode: 0o755))
    }
    package mutating func makeSymlink(_ path: String, to target: String) {
        let (parent, name) = place(path)
        append(.makeSymlink(parent, name, target: Array(target.utf8)))
    }
    package mutating func link(_ path: String, as new: String) {
        let (parent, name) = place(new)
        append(.link(id(path), as: name, in: parent))
    }
    package mutating func unlink(_ path: String) {
        let (parent, name) = place(path)
        append(.unlink(parent, name))
    }
    package mutating func removeDirectory(_ path: String) {
        let (parent, name) = place(path)
        append(.removeDirectory(parent, name))
    }
    package mutating func rename(_ path: String, to new: String) {
        let (parent, name) = place(path), (newParent, newName) = place(new)
        append(.rename(parent, name, to: newParent, newName))
    }
    package mutating func whiteout(_ path: String, movingTo new: String) {
        let (parent, name) = place(path), (newParent, newName) = place(new)
        append(.whiteout(parent, name, to: newParent, newName))
    }
    package mutating func exchange(_ path: String, with other: String) {
        let (parent, name) = place(path), (otherParent, otherName) = place(other)
        append(.exchange(parent, name, with: otherParent, otherName))
    }
    package mutating func write(_ path: String, at offset: Int, count: Int) {
        stamp += 1
        append(.write(id(path), at: offset, count: count, stamp: stamp))
    }
    package mutating func truncate(_ path: String, to size: Int) { append(.truncate(id(path), to: size)) }
    package mutating func allocate(_ path: String, at offset: Int, count: Int, keepsSize: Bool) {
        append(.allocate(id(path), at: offset, count: count, keepsSize: keepsSize))
    }
    package mutating func punch(_ path: String, at offset: Int, count: Int) {
        append(.punch(id(path), at: offset, count: count))
    }
    /// Makes room for `distance` bytes, or takes as many out if it is negative.
    package mutating func shift(_ path: String, at offset: Int, by distance: Int) {
        append(.shift(id(path), at: offset, by: distance))
    }
    package mutating func setAttribute(_ path: String, _ name: String, count: Int) {
        stamp += 1
        append(.setAttribute(id(path), Array(name.utf8), Operation.pattern(stamp: stamp, at: 0, count: count)))
    }
    package mutating func removeAttribute(_ path: String, _ name: String) {
        append(.removeAttribute(id(path), Array(name.utf8)))
    }
    package mutating func hold(_ path: String) -> ModelNodeID {
        let id = id(path)
        append(.hold(id))
        return id
    }
    package mutating func release(_ id: ModelNodeID) { append(.release(id)) }
    package mutating func sync(_ path: String, dataOnly: Bool = false) { append(.sync(id(path), dataOnly: dataOnly)) }
    package mutating func sync(_ id: ModelNodeID) { append(.sync(id, dataOnly: false)) }
    package mutating func syncAll() { append(.syncAll) }
    package mutating func remount() { append(.remount) }
}
