internal import FileSystem

/// One call of a workload, in terms of the model. Printed, it reads as the step of a story.
package enum Operation: Sendable, CustomStringConvertible {
    case mount
    case create(ModelNodeID, [UInt8], mode: UInt16)
    case makeNode(ModelNodeID, [UInt8], mode: UInt16, major: UInt32, minor: UInt32)
    case makeDirectory(ModelNodeID, [UInt8], mode: UInt16)
    case makeSymlink(ModelNodeID, [UInt8], target: [UInt8])
    case link(ModelNodeID, as: [UInt8], in: ModelNodeID)
    case unlink(ModelNodeID, [UInt8])
    case removeDirectory(ModelNodeID, [UInt8])
    case rename(ModelNodeID, [UInt8], to: ModelNodeID, [UInt8])
    case exchange(ModelNodeID, [UInt8], with: ModelNodeID, [UInt8])
    /// A rename that leaves a whiteout at the old name (RENAME_WHITEOUT), between names of two nodes.
    case whiteout(ModelNodeID, [UInt8], to: ModelNodeID, [UInt8])
    /// The bytes are `Operation.pattern` of the stamp.
    case write(ModelNodeID, at: Int, count: Int, stamp: UInt64)
    /// Several writes that a batch makes one change of, which is durable when it returns.
    case batch(ModelNodeID, [Range<Int>], stamp: UInt64)
    case truncate(ModelNodeID, to: Int)
    /// fallocate, with `keepsSize` beyond the end of the file too.
    case allocate(ModelNodeID, at: Int, count: Int, keepsSize: Bool)
    case punch(ModelNodeID, at: Int, count: Int)
    /// fallocate that takes blocks out of the middle of a file, or makes room there: `count` bytes, or minus as many.
    /// The model knows what is written in place by its place in the file, so a sync has to come between.
    case shift(ModelNodeID, at: Int, by: Int)
    case changeMode(ModelNodeID, mode: UInt16)
    case setAttribute(ModelNodeID, [UInt8], [UInt8])
    case removeAttribute(ModelNodeID, [UInt8])
    /// Opens the node for longer, so that it outlives its last name.
    case hold(ModelNodeID)
    case release(ModelNodeID)
    /// Lets the server forget the node until it is used again.
    case forget(ModelNodeID)
    case sync(ModelNodeID, dataOnly: Bool)
    case syncAll
    /// Unmount, then mount again.
    case remount
    case unmount

    package var description: String {
        func text(_ bytes: [UInt8]) -> String { "'" + String(decoding: bytes.prefix(24), as: UTF8.self) + "'" }
        switch self {
        case .mount: return "mount"
        case .create(let parent, let name, let mode): return "create \(parent)/\(text(name)) \(String(mode, radix: 8))"
        case .makeNode(let parent, let name, let mode, _, _):
            return "mknod \(parent)/\(text(name)) \(String(mode, radix: 8))"
        case .makeDirectory(let parent, let name, _): return "mkdir \(parent)/\(text(name))"
        case .makeSymlink(let parent, let name, let target):
            return "symlink \(parent)/\(text(name)) of \(target.count) bytes"
        case .link(let id, let name, let parent): return "link \(id) as \(parent)/\(text(name))"
        case .unlink(let parent, let name): return "unlink \(parent)/\(text(name))"
        case .removeDirectory(let parent, let name): return "rmdir \(parent)/\(text(name))"
        case .rename(let parent, let name, let to, let new):
            return "rename \(parent)/\(text(name)) to \(to)/\(text(new))"
        case .exchange(let parent, let name, let to, let other):
            return "exchange \(parent)/\(text(name)) and \(to)/\(text(other))"
        case .whiteout(let parent, let name, let to, let new):
            return "whiteout \(parent)/\(text(name)), moved to \(to)/\(text(new))"
        case .write(let id, let offset, let count, let stamp):
            return "write \(id) at \(offset) +\(count), stamp \(stamp)"
        case .batch(let id, let ranges, let stamp): return "batch \(id) of \(ranges), stamp \(stamp)"
        case .truncate(let id, let size): return "truncate \(id) to \(size)"
        case .allocate(let id, let offset, let count, let keepsSize):
            return "fallocate \(id) at \(offset) +\(count)\(keepsSize ? ", size kept" : "")"
        case .punch(let id, let offset, let count): return "punch \(id) at \(offset) +\(count)"
        case .shift(let id, let offset, let distance):
            return "\(distance > 0 ? "insert in" : "collapse") \(id) at \(offset) +\(abs(distance))"
        case .changeMode(let id, let mode): return "chmod \(id) \(String(mode, radix: 8))"
        case .setAttribute(let id, let name, let value): return "setxattr \(id) \(text(name)) of \(value.count) bytes"
        case .removeAttribute(let id, let name): return "removexattr \(id) \(text(name))"
        case .hold(let id): return "open \(id)"
        case .release(let id): return "close \(id)"
        case .forget(let id): return "forget \(id)"
        case .sync(let id, let dataOnly): return "\(dataOnly ? "fdatasync" : "fsync") \(id)"
        case .syncAll: return "syncfs"
        case .remount: return "remount"
        case .unmount: return "unmount"
        }
    }

    var isBatch: Bool { if case .batch = self { true } else { false } }

    /// What the operation makes; nil: nothing.
    var madeNode: ModelNode? {
        switch self {
        case .create(_, _, let mode): return ModelNode(mode: FileType.regular.rawValue | mode)
        case .makeNode(_, _, let mode, let major, let minor):
            var node = ModelNode(mode: mode)
            node.deviceMajor = major
            node.deviceMinor = minor
            return node
        case .makeDirectory(_, _, let mode): return ModelNode(mode: FileType.directory.rawValue | mode)
        case .makeSymlink(_, _, let target):
            var node = ModelNode(mode: 0o120777)
            node.content = target
            return node
        case .whiteout: return ModelNode(mode: FileType.characterDevice.rawValue)
        default: return nil
        }
    }

    /// Bytes that differ from stamp to stamp and from place to place, and are never zero.
    package static func pattern(stamp: UInt64, at offset: Int, count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        var word = offset / 8
        while bytes.count < count + offset % 8 {
            var random = SeededRandom(seed: stamp &* 0x1_0000_0001 &+ UInt64(word))
            var value = random.next() | 0x0101_0101_0101_0101
            for _ in 0..<8 {
                bytes.append(UInt8(truncatingIfNeeded: value))
                value >>= 8
            }
            word += 1
        }
        return Array(bytes[(offset % 8)..<(offset % 8 + count)])
    }
}

/// A model with its past: what the tree was after each operation, and how much of that past must survive.
package struct ModelHistory: Sendable {
    package struct Step: Sendable {
        package let operation: Operation
        /// After the operation.
        package let tree: ModelTree
        /// What the operation wrote in place, in bytes of the file.
        package let inPlace: [(node: ModelNodeID, range: Range<Int>)]
        /// Once the operation has returned, a power cut leaves the effects of at least this many steps.
        package let floor: Int
    }

    /// Step 0 is the first mount.
    package private(set) var steps: [Step]

    package init(_ tree: ModelTree) {
        steps = [Step(operation: .mount, tree: tree, inPlace: [], floor: 0)]
    }

    package var tree: ModelTree { steps[steps.count - 1].tree }

    /// Appends an operation that succeeded. A short write is recorded with the count that was written.
    package mutating func append(_ operation: Operation) {
        let index = steps.count
        var tree = tree
        var floor = steps[index - 1].floor
        var inPlace: [(node: ModelNodeID, range: Range<Int>)] = []
        switch operation {
        case .sync(let id, let dataOnly):
            if let node = tree[id] { floor = max(floor, dataOnly ? node.remappedBy : node.changedBy) }
            tree.note(id) { $0.dataSyncedBy = index }
        case .mount, .unmount, .remount, .syncAll:
            floor = index
            if case .syncAll = operation {} else { tree.releaseAll() }
            for id in tree.nodes.keys where tree[id]?.isFile == true { tree.note(id) { $0.dataSyncedBy = index } }
        default:
            inPlace = Self.apply(operation, index, to: &tree)
            if case .batch = operation { floor = index }
        }
        steps.append(Step(operation: operation, tree: tree, inPlace: inPlace, floor: floor))
    }

    /// Changes the tree as the operation does, which has the number `index`. Gives what it writes in place. Nothing for
    /// syncs and mounts.
    static func apply(
        _ operation: Operation, _ index: Int, to tree: inout ModelTree
    ) -> [(node: ModelNodeID, range: Range<Int>)] {
        switch operation {
        case .write(let id, let offset, let count, let stamp):
            let bytes = Operation.pattern(stamp: stamp, at: offset, count: count)
            return tree.write(bytes, to: id, at: offset, by: index).map { (id, $0) }
        case .batch(let id, let ranges, let stamp):
            for range in ranges {
                let bytes = Operation.pattern(stamp: stamp, at: range.lowerBound, count: range.count)
                tree.write(bytes, to: id, at: range.lowerBound, placement: .outOfPlace, by: index)
            }
        case .truncate(let id, let size): tree.truncate(id, to: size, by: index)
        case .allocate(let id, let offset, let count, let keepsSize):
            tree.allocate(offset..<offset + count, in: id, keepsSize: keepsSize, by: index)
        case .punch(let id, let offset, let count):
            return tree.punch(offset..<offset + count, in: id, by: index).map { (id, $0) }
        case .shift(let id, let offset, let distance): tree.shift(id, at: offset, by: distance, by: index)
        case .changeMode(let id, let mode): tree.change(id, by: index) { $0.mode = $0.mode & FileType.mask | mode }
        case .setAttribute(let id, let name, let value): tree.change(id, by: index) { $0.attributes[name] = value }
        case .removeAttribute(let id, let name): tree.change(id, by: index) { $0.attributes[name] = nil }
        case .hold(let id): tree.note(id) { $0.isHeld = true }
        case .release(let id):
            tree.note(id) { $0.isHeld = false }
            tree.dropIfUnused(id)
        default: applyName(operation, index, to: &tree)
        }
        return []
    }

    private static func applyName(_ operation: Operation, _ index: Int, to tree: inout ModelTree) {
        switch operation {
        case .create(let parent, let name, _), .makeNode(let parent, let name, _, _, _),
            .makeDirectory(let parent, let name, _), .makeSymlink(let parent, let name, _):
            if let node = operation.madeNode { _ = tree.add(node, name, to: parent, by: index) }
        case .link(let id, let name, let parent): tree.link(id, as: name, in: parent, by: index)
        case .unlink(let parent, let name), .removeDirectory(let parent, let name):
            tree.remove(name, from: parent, by: index)
        case .rename(let parent, let name, let newParent, let newName):
            tree.move(name, from: parent, to: newName, in: newParent, by: index)
        case .exchange(let parent, let name, let otherParent, let other):
            tree.exchange(name, in: parent, with: other, in: otherParent, by: index)
        case .whiteout(let parent, let name, let newParent, let newName):
            tree.move(name, from: parent, to: newName, in: newParent, by: index)
            if let node = operation.madeNode { _ = tree.add(node, name, to: parent, by: index) }
        default: break
        }
    }
}
