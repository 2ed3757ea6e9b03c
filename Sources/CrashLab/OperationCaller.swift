internal import Ext4Format
internal import FileSystem

/// Which call of the library each operation on a mounted volume is.
struct OperationCaller {
    private let system: FileSystem
    private let caller = Caller(uid: 0, gid: 0, umask: 0)

    init(_ system: FileSystem) { self.system = system }

    /// `number` gives the inode of a node, on which the caller holds a reference. Answers the inode that was made, with
    /// a reference on it, or the one that was linked, truncated or given another mode. A write out of place that did
    /// less than it was asked for becomes what it did; one in place does all.
    func perform(
        _ operation: inout Operation, _ number: (ModelNodeID) throws(Ext4Error) -> InodeNumber
    ) throws(Ext4Error) -> Attributes? {
        switch operation {
        case .write(let id, let offset, let count, let stamp):
            let bytes = Operation.pattern(stamp: stamp, at: offset, count: count)
            let file = try number(id)
            let done = try system.write(file, at: UInt64(offset), unsafe bytes.span.bytes)
            let maybeShort = try system.writesOutOfPlace(file)
            guard done == count || done > 0 && maybeShort else {
                throw .refused("a write of \(count) bytes did \(done)")
            }
            operation = .write(id, at: offset, count: done, stamp: stamp)
        case .batch(let id, let ranges, let stamp): try performBatch(on: try number(id), ranges, stamp: stamp)
        case .truncate(let id, let size):
            var changes = AttributeChanges()
            changes.size = UInt64(size)
            return try system.setAttributes(of: try number(id), changes)
        case .allocate(let id, let offset, let count, let keepsSize):
            try system.allocate(
                try number(id), at: UInt64(offset), count: UInt64(count), mode: keepsSize ? .keepSize : [])
        case .punch(let id, let offset, let count):
            try system.allocate(
                try number(id), at: UInt64(offset), count: UInt64(count), mode: [.punchHole, .keepSize])
        case .shift(let id, let offset, let distance):
            try system.allocate(
                try number(id), at: UInt64(offset), count: UInt64(distance.magnitude),
                mode: distance > 0 ? .insertRange : .collapseRange)
        case .changeMode(let id, let mode):
            var changes = AttributeChanges()
            changes.mode = mode
            return try system.setAttributes(of: try number(id), changes)
        case .setAttribute(let id, let name, let value):
            try system.setExtendedAttribute(name, of: try number(id), to: value, create: false, replace: false)
        case .removeAttribute(let id, let name): try system.removeExtendedAttribute(name, of: try number(id))
        case .sync(let id, let dataOnly): try system.sync(try number(id), dataOnly: dataOnly)
        case .syncAll: try system.syncAll()
        default: return try performName(operation, number)
        }
        return nil
    }

    /// Without room for all of it, nothing of it happens.
    private func performBatch(on file: InodeNumber, _ ranges: [Range<Int>], stamp: UInt64) throws(Ext4Error) {
        try system.startBatch(file, owner: BatchOwner(process: 1, handle: 1), by: caller)
        do throws(Ext4Error) {
            for range in ranges {
                let bytes = Operation.pattern(stamp: stamp, at: range.lowerBound, count: range.count)
                let done = try system.write(file, at: UInt64(range.lowerBound), unsafe bytes.span.bytes)
                guard done == range.count else { throw .refused("a write of \(range.count) bytes did \(done)") }
            }
        } catch {
            _ = try system.abortBatch(file)
            throw error
        }
        try system.commitBatch(file, by: caller)
    }

    private func performName(
        _ operation: Operation, _ number: (ModelNodeID) throws(Ext4Error) -> InodeNumber
    ) throws(Ext4Error) -> Attributes? {
        switch operation {
        case .create(let parent, let name, let mode):
            return try system.createFile(
                try FileName(name), in: try number(parent), mode: FileType.regular.rawValue | mode, caller: caller)
        case .makeNode(let parent, let name, let mode, let major, let minor):
            return try system.makeNode(
                try FileName(name), in: try number(parent), mode: mode, major: major, minor: minor, caller: caller)
        case .makeDirectory(let parent, let name, let mode):
            return try system.makeDirectory(
                try FileName(name), in: try number(parent), mode: FileType.directory.rawValue | mode, caller: caller)
        case .makeSymlink(let parent, let name, let target):
            return try system.makeSymlink(try FileName(name), in: try number(parent), target: target, caller: caller)
        case .link(let id, let name, let parent):
            let number = (linked: try number(id), parent: try number(parent))
            let answer = try system.link(number.linked, as: try FileName(name), in: number.parent)
            system.forget(number.linked, count: 1)
            return answer
        case .unlink(let parent, let name): try system.unlink(try FileName(name), in: try number(parent))
        case .removeDirectory(let parent, let name):
            try system.removeDirectory(try FileName(name), in: try number(parent))
        case .rename(let parent, let name, let newParent, let newName):
            try system.rename(
                try FileName(name), in: try number(parent), to: try FileName(newName), in: try number(newParent),
                flags: [])
        case .exchange(let parent, let name, let otherParent, let other):
            try system.rename(
                try FileName(name), in: try number(parent), to: try FileName(other), in: try number(otherParent),
                flags: .exchange)
        case .whiteout(let parent, let name, let newParent, let newName):
            let place = (name: try FileName(name), parent: try number(parent))
            try system.rename(
                place.name, in: place.parent, to: try FileName(newName), in: try number(newParent), flags: .whiteout,
                by: caller)
            return try system.lookup(place.name, in: place.parent)
        default: preconditionFailure("\(operation) is not a call of a mounted volume")
        }
        return nil
    }
}
