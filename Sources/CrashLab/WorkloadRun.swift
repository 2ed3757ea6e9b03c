package import BlockIO
package import Ext4Format
package import FileSystem

/// Why a workload stopped.
package enum WorkloadFailure: Error, CustomStringConvertible {
    /// A call failed that should have succeeded.
    case failed(step: Int, Operation, Ext4Error)
    /// A call answered what the model does not.
    case wrong(step: Int, String)

    package var description: String {
        switch self {
        case .failed(let step, let operation, let error): "step \(step), \(operation): \(error)"
        case .wrong(let step, let text): "step \(step): \(text)"
        }
    }
}

/// Runs operations on a mounted volume and keeps the model beside it. Marks in the device's trace say when each began
/// and returned: "begin 7", "end 7". Like the kernel, it holds one reference to each inode that it has looked up.
package final class WorkloadRun {
    private let device: any BlockDevice
    private let options: MountOptions
    package private(set) var history: ModelHistory
    private var mounted: FileSystem?
    private var numbers: [ModelNodeID: InodeNumber] = [.root: .root]
    private var referenced: Set<ModelNodeID> = []
    private let caller = Caller(uid: 0, gid: 0, umask: 0)

    /// Mounts. The volume on `device` holds what `tree` says.
    package init(on device: any BlockDevice, tree: ModelTree, options: MountOptions) throws(WorkloadFailure) {
        self.device = device
        self.options = options
        history = ModelHistory(tree)
        device.mark("begin 0")
        do throws(Ext4Error) {
            mounted = try FileSystem.mount(on: device, options: options)
        } catch { throw .failed(step: 0, .mount, error) }
        device.mark("end 0")
    }

    package var system: FileSystem {
        guard let mounted else { preconditionFailure("the volume is not mounted") }
        return mounted
    }

    /// False: there was no space, and nothing happened.
    @discardableResult
    package func perform(_ operation: Operation) throws(WorkloadFailure) -> Bool {
        let step = history.steps.count
        let before = history.tree
        device.mark("begin \(step)")
        do throws(Ext4Error) {
            try execute(operation, before)
        } catch .posix(28) {
            return false
        } catch { throw .failed(step: step, operation, error) }
        history.append(operation)
        for id in before.nodes.keys.sorted() where history.tree[id] == nil { drop(id) }
        device.mark("end \(step)")
        return true
    }

    /// Compares what is mounted with the model, all of it.
    package func compare() throws(WorkloadFailure) {
        let step = history.steps.count - 1
        let tree: CapturedTree
        do throws(Ext4Error) {
            tree = try CapturedTree(reading: system)
        } catch { throw .wrong(step: step, "reading the tree back: \(error)") }
        let comparison = TreeComparison(tree, with: history, begun: step, returned: step)
        if let difference = comparison.mismatch(step) { throw .wrong(step: step, difference) }
    }

    // MARK: - Calls

    private func execute(_ operation: Operation, _ tree: ModelTree) throws(Ext4Error) {
        switch operation {
        case .mount: mounted = try FileSystem.mount(on: device, options: options)
        case .unmount: try unmount()
        case .remount:
            try unmount()
            mounted = try FileSystem.mount(on: device, options: options)
        case .write(let id, let offset, let count, let stamp):
            let bytes = Operation.pattern(stamp: stamp, at: offset, count: count)
            let done = try system.write(try number(id, tree), at: UInt64(offset), unsafe bytes.span.bytes)
            guard done == count else { throw .refused("a write of \(count) bytes did \(done)") }
        case .truncate(let id, let size):
            var changes = AttributeChanges()
            changes.size = UInt64(size)
            try check(try system.setAttributes(of: try number(id, tree), changes).size == UInt64(size), "size")
        case .allocate(let id, let offset, let count, let keepsSize):
            try system.allocate(
                try number(id, tree), at: UInt64(offset), count: UInt64(count), mode: keepsSize ? .keepSize : [])
        case .punch(let id, let offset, let count):
            try system.allocate(
                try number(id, tree), at: UInt64(offset), count: UInt64(count), mode: [.punchHole, .keepSize])
        case .changeMode(let id, let mode):
            var changes = AttributeChanges()
            changes.mode = mode
            let answer = try system.setAttributes(of: try number(id, tree), changes)
            try check(answer.mode & 0o7777 == mode, "mode")
        case .setAttribute(let id, let name, let value):
            let number = try number(id, tree)
            try system.setExtendedAttribute(name, of: number, to: value, create: false, replace: false)
        case .removeAttribute(let id, let name):
            try system.removeExtendedAttribute(name, of: try number(id, tree))
        case .hold(let id): _ = try number(id, tree)
        case .release: break
        case .forget(let id): drop(id)
        case .sync(let id, let dataOnly): try system.sync(try number(id, tree), dataOnly: dataOnly)
        case .syncAll: try system.syncAll()
        default: try executeName(operation, tree)
        }
    }

    private func executeName(_ operation: Operation, _ tree: ModelTree) throws(Ext4Error) {
        switch operation {
        case .create(let parent, let name, let mode):
            let answer = try system.createFile(
                try FileName(name), in: try number(parent, tree), mode: 0o100000 | mode, caller: caller)
            try made(answer, 0o100000 | mode, tree)
        case .makeNode(let parent, let name, let mode, let major, let minor):
            let answer = try system.makeNode(
                try FileName(name), in: try number(parent, tree), mode: mode, major: major, minor: minor,
                caller: caller)
            try made(answer, mode, tree)
        case .makeDirectory(let parent, let name, let mode):
            let answer = try system.makeDirectory(
                try FileName(name), in: try number(parent, tree), mode: 0o040000 | mode, caller: caller)
            try made(answer, 0o040000 | mode, tree)
        case .makeSymlink(let parent, let name, let target):
            let answer = try system.makeSymlink(
                try FileName(name), in: try number(parent, tree), target: target, caller: caller)
            try made(answer, 0o120777, tree)
        case .link(let id, let name, let parent):
            let number = try number(id, tree)
            let answer = try system.link(number, as: try FileName(name), in: try self.number(parent, tree))
            system.forget(number, count: 1)
            try check(answer.inode == number && Int(answer.linkCount) == (tree[id]?.linkCount ?? 0) + 1, "link count")
        case .unlink(let parent, let name): try system.unlink(try FileName(name), in: try number(parent, tree))
        case .removeDirectory(let parent, let name):
            try system.removeDirectory(try FileName(name), in: try number(parent, tree))
        case .rename(let parent, let name, let newParent, let newName):
            try system.rename(
                try FileName(name), in: try number(parent, tree), to: try FileName(newName),
                in: try number(newParent, tree), flags: [])
        case .exchange(let parent, let name, let otherParent, let other):
            try system.rename(
                try FileName(name), in: try number(parent, tree), to: try FileName(other),
                in: try number(otherParent, tree), flags: .exchange)
        default: break
        }
    }

    private func check(_ condition: Bool, _ what: String) throws(Ext4Error) {
        guard condition else { throw .refused("the answer has another \(what)") }
    }

    private func unmount() throws(Ext4Error) {
        try system.unmount()
        mounted = nil
        referenced = []
    }

    // MARK: - References

    /// The node that the model is about to make.
    private func made(_ answer: Attributes, _ mode: UInt16, _ tree: ModelTree) throws(Ext4Error) {
        let id = tree.nextNode
        numbers[id] = answer.inode
        referenced.insert(id)
        try check(answer.mode == mode, "mode")
        try check(Int(answer.linkCount) == (mode >> 12 == 4 ? 2 : 1), "link count")
    }

    /// The inode of a node, looked up by name if it has been forgotten.
    private func number(_ id: ModelNodeID, _ tree: ModelTree) throws(Ext4Error) -> InodeNumber {
        if id == .root { return .root }
        if referenced.contains(id), let number = numbers[id] { return number }
        guard let place = tree.place(of: id) else { throw .refused("node \(id) has no name to look up") }
        guard let found = try system.lookup(try FileName(place.name), in: try number(place.parent, tree)) else {
            throw .refused("lookup does not find \(id)")
        }
        try check(numbers[id] ?? found.inode == found.inode, "inode number")
        numbers[id] = found.inode
        referenced.insert(id)
        return found.inode
    }

    private func drop(_ id: ModelNodeID) {
        guard referenced.remove(id) != nil, let number = numbers[id] else { return }
        mounted?.forget(number, count: 1)
    }
}
