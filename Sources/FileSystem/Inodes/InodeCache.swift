internal import Ext4Format
internal import Threads

/// The inodes in memory, and how often the kernel (or another user of the library) refers to each number.
///
/// The two are apart: a reference costs a few bytes, so that a kernel may remember a million inodes, while the objects
/// of idle inodes are dropped. ARC is the pin count: an object leaves only when nobody but the cache holds it, so that
/// two objects for one number can never be alive.
final class InodeCache: Sendable {
    private struct Shard {
        var inodes: [UInt32: Inode] = [:]
        var references: [UInt32: UInt64] = [:]
        /// Numbers without a name: deleted when the last reference goes.
        var unlinked: Set<UInt32> = []
        /// Those of them that never had one, and may be given one.
        var nameless: Set<UInt32> = []
        /// How many objects to have before looking for idle ones to drop.
        var limit = Self.idleLimit
        static let idleLimit = 256
    }
    private final class ShardBox: Sendable {
        let shard = Monitor(Shard())
    }
    private static let shardCount = 16
    private let shards: [ShardBox]

    init() { shards = (0..<Self.shardCount).map { _ in ShardBox() } }

    private func shard(_ number: InodeNumber) -> ShardBox { shards[Int(number.rawValue) % Self.shardCount] }

    /// The inode, read now if it is not in memory.
    func inode(_ number: InodeNumber, _ volume: Volume) throws(Ext4Error) -> Inode {
        try shard(number).shard.withLock { shard throws(Ext4Error) in
            if let inode = shard.inodes[number.rawValue] { return inode }
            let inode = try Inode(reading: number, volume)
            Self.makeRoom(&shard)
            shard.inodes[number.rawValue] = inode
            return inode
        }
    }

    /// Puts a new inode in the place of whatever had its number before.
    func insert(_ inode: Inode) {
        shard(inode.number).shard.withLock { shard in
            Self.makeRoom(&shard)
            shard.inodes[inode.number.rawValue] = inode
        }
    }

    /// One more reference, given back by `release`.
    func retain(_ number: InodeNumber) {
        shard(number).shard.withLock { $0.references[number.rawValue, default: 0] += 1 }
    }

    /// Gives references back. True when none is left and the inode has no name: it is to be deleted now.
    func release(_ number: InodeNumber, count: UInt64) -> Bool {
        shard(number).shard.withLock { shard in
            guard let references = shard.references[number.rawValue] else { return false }
            guard references > count else {
                shard.references[number.rawValue] = nil
                return shard.unlinked.contains(number.rawValue)
            }
            shard.references[number.rawValue] = references - count
            return false
        }
    }

    func isReferenced(_ number: InodeNumber) -> Bool {
        shard(number).shard.withLock { $0.references[number.rawValue] != nil }
    }

    /// The last name is gone. True when nobody refers to the inode either: it is to be deleted now.
    func markUnlinked(_ number: InodeNumber) -> Bool {
        shard(number).shard.withLock { shard in
            shard.unlinked.insert(number.rawValue)
            return shard.references[number.rawValue] == nil
        }
    }

    /// An inode that begins without a name, and that somebody refers to.
    func markNameless(_ number: InodeNumber) {
        shard(number).shard.withLock { shard in
            shard.unlinked.insert(number.rawValue)
            shard.nameless.insert(number.rawValue)
        }
    }

    /// Whether an inode without a name may be given one.
    func isNameless(_ number: InodeNumber) -> Bool {
        shard(number).shard.withLock { $0.nameless.contains(number.rawValue) }
    }

    /// It has its first name.
    func markNamed(_ number: InodeNumber) {
        shard(number).shard.withLock { shard in
            shard.unlinked.remove(number.rawValue)
            shard.nameless.remove(number.rawValue)
        }
    }

    /// Forgets a deleted inode: its number may be given out again. Called before the handle that frees the number
    /// closes.
    func remove(_ inode: Inode) {
        shard(inode.number).shard.withLock { shard in
            shard.unlinked.remove(inode.number.rawValue)
            shard.nameless.remove(inode.number.rawValue)
            if shard.inodes[inode.number.rawValue] === inode { shard.inodes[inode.number.rawValue] = nil }
        }
    }

    /// The numbers without a name that are still referred to: they are deleted when the volume is unmounted.
    var unlinked: [InodeNumber] {
        // Sorted, so that the same operations write the same log.
        shards.flatMap { $0.shard.withLock { $0.unlinked.map { InodeNumber($0) } } }.sorted()
    }

    /// The numbers that are referred to.
    var referenced: [InodeNumber] {
        shards.flatMap { $0.shard.withLock { $0.references.keys.map { InodeNumber($0) } } }
    }

    private static func makeRoom(_ shard: inout Shard) {
        guard shard.inodes.count >= shard.limit else { return }
        for number in Array(shard.inodes.keys) {
            // Taken out of the dictionary, an idle inode has this one owner left.
            guard var inode = shard.inodes.removeValue(forKey: number) else { continue }
            let isKept = inode.remembersItsEnd && shard.references[number] != nil
            if !isKept && isKnownUniquelyReferenced(&inode) { continue }
            shard.inodes[number] = inode
        }
        shard.limit = max(Shard.idleLimit, shard.inodes.count * 2)
    }
}
