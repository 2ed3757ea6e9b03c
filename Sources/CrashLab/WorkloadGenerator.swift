/// What kind of workload: how often which call, and within which bounds.
package struct WorkloadProfile: Sendable {
    package enum Call: Sendable, CaseIterable {
        case create, special, directory, symlink, link, unlink, removeDirectory, rename, replace, exchange, whiteout
        case append, overwrite, sparse, batch, truncate, allocate, punch, mode, attribute, removeAttribute
        case hold, release, forget, sync, dataSync, directorySync, syncAll, remount
    }
    /// How often each call is chosen; calls that are not named are not made.
    package var weights: [(call: Call, weight: Int)]
    package var operationCount: Int
    /// The longest file, and the sum of all files at which deleting sets in; bytes.
    package var fileByteCount = 96 << 10, totalByteCount = 2 << 20
    /// The longest single write in bytes.
    package var writeByteCount = 24 << 10
    /// How many names there are to choose from in each directory, and the least and greatest length of one.
    package var nameCount = 24, nameByteCounts = 1...24

    package init(_ operationCount: Int, _ weights: [(call: Call, weight: Int)]) {
        self.operationCount = operationCount
        self.weights = weights
    }

    /// A little of everything.
    package static func mixed(_ operationCount: Int) -> Self {
        Self(
            operationCount,
            [
                (.create, 14), (.special, 1), (.directory, 6), (.symlink, 4), (.link, 5), (.unlink, 8),
                (.removeDirectory, 3), (.rename, 7), (.replace, 5), (.exchange, 3), (.append, 16), (.overwrite, 12),
                (.sparse, 5), (.truncate, 6), (.allocate, 3), (.punch, 3),
                (.mode, 2), (.attribute, 5), (.removeAttribute, 2), (.hold, 3), (.release, 3), (.forget, 6), (.sync, 6),
                (.dataSync, 4), (.directorySync, 2), (.syncAll, 2), (.remount, 1),
            ])
    }

    /// Few large directories that grow into hashed trees and shrink again.
    package static func names(_ operationCount: Int) -> Self {
        var profile = Self(
            operationCount,
            [
                (.create, 50), (.directory, 2), (.symlink, 6), (.link, 10), (.unlink, 16), (.removeDirectory, 1),
                (.rename, 16), (.replace, 6), (.exchange, 2), (.whiteout, 3), (.append, 2), (.forget, 4), (.sync, 2),
                (.directorySync, 2), (.syncAll, 1), (.remount, 1),
            ])
        profile.nameCount = 400
        profile.nameByteCounts = 40...200
        return profile
    }

    /// Few names and few bytes, so that threads meet.
    package static func shared(_ operationCount: Int) -> Self {
        var profile = Self(
            operationCount,
            [
                (.create, 12), (.directory, 4), (.symlink, 2), (.link, 6), (.unlink, 12), (.removeDirectory, 5),
                (.rename, 10), (.replace, 8), (.exchange, 4), (.append, 8), (.overwrite, 8), (.sparse, 3),
                (.truncate, 6), (.allocate, 2), (.punch, 2), (.mode, 2), (.attribute, 3), (.removeAttribute, 2),
                (.sync, 5), (.directorySync, 3), (.syncAll, 2),
            ])
        profile.nameCount = 3
        profile.fileByteCount = 24 << 10
        profile.writeByteCount = 6 << 10
        return profile
    }

    /// Changes of few inodes, names and bitmaps, and many syncs: threads that change what a commit is about.
    package static func syncs(_ operationCount: Int) -> Self {
        var profile = Self(
            operationCount,
            [
                (.create, 12), (.directory, 2), (.link, 3), (.unlink, 6), (.rename, 4), (.append, 8), (.truncate, 3),
                (.mode, 8), (.attribute, 3), (.sync, 14), (.directorySync, 6), (.syncAll, 4),
            ])
        profile.nameCount = 3
        profile.fileByteCount = 8 << 10
        profile.writeByteCount = 2 << 10
        return profile
    }

    /// Overwrites within and across blocks, in batches and alone, of files that stay.
    package static func overwrites(_ operationCount: Int) -> Self {
        var profile = Self(
            operationCount,
            [
                (.create, 6), (.unlink, 1), (.append, 12), (.overwrite, 40), (.sparse, 4), (.batch, 12),
                (.truncate, 4), (.allocate, 4), (.hold, 2), (.release, 2), (.forget, 2), (.sync, 6), (.dataSync, 8),
                (.syncAll, 2),
            ])
        profile.fileByteCount = 64 << 10
        profile.writeByteCount = 24 << 10
        profile.nameCount = 4
        return profile
    }

    /// Data and syncs: what fsync and fdatasync promise.
    package static func data(_ operationCount: Int) -> Self {
        var profile = Self(
            operationCount,
            [
                (.create, 6), (.unlink, 3), (.replace, 3), (.append, 24), (.overwrite, 26), (.sparse, 8),
                (.truncate, 8), (.allocate, 5), (.punch, 5),
                (.hold, 2), (.release, 2), (.forget, 2), (.sync, 8), (.dataSync, 10), (.syncAll, 2),
            ])
        profile.fileByteCount = 256 << 10
        profile.writeByteCount = 64 << 10
        profile.nameCount = 8
        return profile
    }
}

/// Chooses the next operation from the model alone: the same seed gives the same workload whatever happens below.
package struct WorkloadGenerator {
    private let profile: WorkloadProfile
    private var random: SeededRandom
    private var stamp: UInt64

    package init(seed: UInt64, profile: WorkloadProfile) {
        self.profile = profile
        random = SeededRandom(seed: seed)
        stamp = seed << 20
    }

    package mutating func next(_ tree: ModelTree) -> Operation {
        for _ in 0..<100 {
            if let operation = attempt(choose(tree), tree) { return operation }
        }
        return .syncAll
    }

    private mutating func choose(_ tree: ModelTree) -> WorkloadProfile.Call {
        let used = tree.nodes.values.reduce(0) { $0 + $1.content.count }
        if used > profile.totalByteCount, !random.once(in: 3) { return random.once(in: 3) ? .truncate : .unlink }
        var left = Int.random(in: 0..<profile.weights.reduce(0) { $0 + $1.weight }, using: &random)
        for (call, weight) in profile.weights {
            if left < weight { return call }
            left -= weight
        }
        return .syncAll
    }

    private mutating func attempt(_ call: WorkloadProfile.Call, _ tree: ModelTree) -> Operation? {
        switch call {
        case .create, .special, .directory, .symlink, .link: return addition(call, tree)
        case .unlink, .removeDirectory, .rename, .replace, .exchange, .whiteout: return nameChange(call, tree)
        case .append, .overwrite, .sparse, .batch, .truncate, .allocate, .punch: return dataChange(call, tree)
        case .mode:
            let mode: UInt16 = .random(in: 0...0o777, using: &random) | 0o400
            return pick(tree) { $0.kind != .symlink }.map { .changeMode($0, mode: mode) }
        case .attribute:
            guard let id = pick(tree, where: { $0.isFile || $0.isDirectory }) else { return nil }
            let count = Int.random(in: random.once(in: 4) ? 200...700 : 0...60, using: &random)
            return .setAttribute(id, attributeName(), Operation.pattern(stamp: nextStamp(), at: 0, count: count))
        case .removeAttribute:
            guard let id = pick(tree, where: { !$0.attributes.isEmpty }) else { return nil }
            let names = tree[id]?.attributes.keys.sorted { $0.lexicographicallyPrecedes($1) } ?? []
            return names.randomElement(using: &random).map { .removeAttribute(id, $0) }
        case .hold: return pick(tree) { $0.isFile && !$0.isHeld }.map { .hold($0) }
        case .release: return pick(tree, alsoUnlinked: true) { $0.isHeld }.map { .release($0) }
        case .forget: return pick(tree) { !$0.isHeld }.map { $0 == .root ? nil : .forget($0) } ?? nil
        case .sync: return pick(tree, alsoUnlinked: true, where: \.isFile).map { .sync($0, dataOnly: false) }
        case .dataSync: return pick(tree, where: \.isFile).map { .sync($0, dataOnly: true) }
        case .directorySync: return pick(tree, where: \.isDirectory).map { .sync($0, dataOnly: false) }
        case .syncAll: return .syncAll
        case .remount: return .remount
        }
    }

    private mutating func addition(_ call: WorkloadProfile.Call, _ tree: ModelTree) -> Operation? {
        guard let parent = pickDirectory(tree) else { return nil }
        let name = newName(parent)
        guard tree.child(name, of: parent) == nil else { return nil }
        let mode: UInt16 = .random(in: 0...0o777, using: &random) | 0o400
        switch call {
        case .special:
            let isFifo = Bool.random(using: &random)
            let major = UInt32.random(in: 1...300, using: &random)
            let minor = UInt32.random(in: 0...70_000, using: &random)
            if isFifo { return .makeNode(parent, name, mode: 0o010000 | mode, major: 0, minor: 0) }
            return .makeNode(parent, name, mode: 0o020000 | mode, major: major, minor: minor)
        case .directory: return .makeDirectory(parent, name, mode: mode | 0o700)
        case .symlink:
            // Up to 59 bytes lie in the inode, more take a block.
            let count = Int.random(in: random.once(in: 2) ? 1...59 : 60...400, using: &random)
            return .makeSymlink(parent, name, target: (0..<count).map { _ in .random(in: 97...122, using: &random) })
        case .link: return pick(tree) { !$0.isDirectory && $0.linkCount < 40 }.map { .link($0, as: name, in: parent) }
        default: return .create(parent, name, mode: mode)
        }
    }

    private mutating func nameChange(_ call: WorkloadProfile.Call, _ tree: ModelTree) -> Operation? {
        guard let (parent, name, id) = pickEntry(tree), let node = tree[id] else { return nil }
        func move(to newParent: ModelNodeID, _ newName: [UInt8]) -> Operation {
            call == .whiteout
                ? .whiteout(parent, name, to: newParent, newName) : .rename(parent, name, to: newParent, newName)
        }
        switch call {
        case .unlink: return node.isDirectory ? nil : .unlink(parent, name)
        case .removeDirectory:
            return node.isDirectory && node.entries.isEmpty ? .removeDirectory(parent, name) : nil
        case .rename, .whiteout:
            guard call == .rename || random.once(in: 2) else { break }
            guard let newParent = pickDirectory(tree), !tree.isAncestor(id, orSelfOf: newParent) else { return nil }
            let newName = newName(newParent)
            guard tree.child(newName, of: newParent) == nil else { return nil }
            return move(to: newParent, newName)
        default: break
        }
        guard let (otherParent, otherName, other) = pickEntry(tree), let target = tree[other] else { return nil }
        guard other != id, !tree.isAncestor(id, orSelfOf: otherParent) else { return nil }
        guard !tree.isAncestor(other, orSelfOf: parent) else { return nil }
        if call == .exchange { return .exchange(parent, name, with: otherParent, otherName) }
        guard node.isDirectory == target.isDirectory, target.entries.isEmpty else { return nil }
        return move(to: otherParent, otherName)
    }

    private mutating func dataChange(_ call: WorkloadProfile.Call, _ tree: ModelTree) -> Operation? {
        guard let id = pick(tree, alsoUnlinked: true, where: \.isFile), let node = tree[id] else { return nil }
        let limit = profile.fileByteCount, size = node.content.count
        // Small writes and large ones, within blocks and across them.
        let count = Int.random(in: 1...(random.once(in: 2) ? 600 : profile.writeByteCount), using: &random)
        switch call {
        case .append: return size + count > limit ? nil : .write(id, at: size, count: count, stamp: nextStamp())
        case .overwrite:
            guard size > 0 else { return nil }
            let offset = Int.random(in: 0..<size, using: &random)
            return .write(id, at: offset, count: min(count, limit - offset), stamp: nextStamp())
        case .sparse:
            let offset = Int.random(in: 0..<limit, using: &random)
            return .write(id, at: offset, count: min(count, limit - offset), stamp: nextStamp())
        case .batch:
            // Overlapping ones too.
            let ranges = (0..<Int.random(in: 1...5, using: &random)).map { _ in
                let offset = Int.random(in: 0..<min(limit, size + 4096), using: &random)
                return offset..<min(offset + Int.random(in: 1...6000, using: &random), limit)
            }
            return .batch(id, ranges, stamp: nextStamp())
        case .allocate:
            let offset = Int.random(in: 0..<limit, using: &random)
            return .allocate(
                id, at: offset, count: min(count, limit - offset), keepsSize: random.once(in: 2))
        case .punch:
            guard size > 0 else { return nil }
            return .punch(id, at: Int.random(in: 0..<size, using: &random), count: count)
        default:
            let greatest = random.once(in: 4) ? 0 : random.once(in: 3) ? limit : size
            let target = Int.random(in: 0...greatest, using: &random)
            return target == size ? nil : .truncate(id, to: target)
        }
    }

    // MARK: - Choices

    private mutating func nextStamp() -> UInt64 {
        stamp += 1
        return stamp
    }

    private mutating func pick(
        _ tree: ModelTree, alsoUnlinked: Bool = false, where condition: (ModelNode) -> Bool
    ) -> ModelNodeID? {
        let fit = tree.nodes.filter { condition($0.value) && (alsoUnlinked || $0.value.linkCount > 0) }.keys.sorted()
        return fit.randomElement(using: &random)
    }

    private mutating func pickDirectory(_ tree: ModelTree) -> ModelNodeID? {
        // The root and the oldest directories get most of the names, so that something grows.
        let directories = tree.nodes.filter { $0.value.isDirectory }.keys.sorted()
        return random.once(in: 2)
            ? directories.prefix(3).randomElement(using: &random)
            : directories.randomElement(using: &random)
    }

    private mutating func pickEntry(_ tree: ModelTree) -> (parent: ModelNodeID, name: [UInt8], id: ModelNodeID)? {
        guard let parent = pick(tree, where: { $0.isDirectory && !$0.entries.isEmpty }),
            let (name, id) = tree[parent]?.entries.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) })
                .randomElement(using: &random),
            name != Array("lost+found".utf8)
        else { return nil }
        return (parent, name, id)
    }

    /// A name from the directory's own pool: the same number is always the same bytes.
    private mutating func newName(_ parent: ModelNodeID) -> [UInt8] {
        let number = Int.random(in: 0..<profile.nameCount, using: &random)
        var own = SeededRandom(seed: UInt64(parent.rawValue) << 32 | UInt64(number))
        let lengths = profile.nameByteCounts
        let count = own.once(in: 50) ? 255 : Int.random(in: lengths, using: &own)
        var name = Array("n\(number)".utf8.prefix(count))
        // Bytes above 127 decide how the hash of a name is signed.
        while name.count < count { name.append(.random(in: own.once(in: 8) ? 128...255 : 97...122, using: &own)) }
        return name
    }

    private mutating func attributeName() -> [UInt8] { Array("user.a\(Int.random(in: 0..<6, using: &random))".utf8) }
}
