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

    /// Mounts. The volume on `device` holds what `tree` says.
    package init(on device: any BlockDevice, tree: ModelTree, options: MountOptions) throws(WorkloadFailure) {
        self.device = device
        self.options = options.placing(tree.placement)
        history = ModelHistory(tree)
        device.mark("begin 0")
        do throws(Ext4Error) {
            mounted = try FileSystem.mount(on: device, options: self.options)
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
        var operation = operation
        do throws(Ext4Error) {
            try execute(&operation, before)
        } catch .posix(Errno.noSpace) {
            return false
        } catch .posix(Errno.fileTooBig) where operation.isBatch {
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

    private func execute(_ operation: inout Operation, _ tree: ModelTree) throws(Ext4Error) {
        switch operation {
        case .mount: mounted = try FileSystem.mount(on: device, options: options)
        case .unmount: try unmount()
        case .remount:
            try unmount()
            mounted = try FileSystem.mount(on: device, options: options)
        case .hold(let id): _ = try number(id, tree)
        case .release: break
        case .forget(let id): drop(id)
        default:
            let answer = try OperationCaller(system).perform(&operation) { id throws(Ext4Error) in
                try number(id, tree)
            }
            if let answer { try check(answer, operation, tree) }
        }
    }

    /// The inode that an operation has made or changed.
    private func check(_ answer: Attributes, _ operation: Operation, _ tree: ModelTree) throws(Ext4Error) {
        switch operation {
        case .truncate(_, let size): try check(answer.size == UInt64(size), "size")
        case .changeMode(_, let mode): try check(answer.mode & 0o7777 == mode, "mode")
        case .link(let id, _, _):
            try check(answer.inode == numbers[id], "inode number")
            try check(Int(answer.linkCount) == (tree[id]?.linkCount ?? 0) + 1, "link count")
        default:
            // The node that the model is about to make.
            let id = tree.nextNode, node = operation.madeNode
            numbers[id] = answer.inode
            referenced.insert(id)
            try check(answer.mode == node?.mode, "mode")
            try check(Int(answer.linkCount) == (node?.isDirectory == true ? 2 : 1), "link count")
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
