package import BlockIO
package import Ext4Format
package import FileSystem

/// Nothing is lost: when all that the recovery left has been removed, the volume has as much room as when it was made.
package struct SpaceOracle: Oracle {
    private let freeInodes: UInt64, freeBlocks: UInt64

    /// `fresh` is the volume as mke2fs made it.
    package init(fresh: any BlockDevice, _ options: MountOptions) throws(Ext4Error) {
        let system = try FileSystem.mount(on: OverlayDevice(over: fresh), options: options)
        let room = try Self.room(system)
        try system.unmount()
        (freeInodes, freeBlocks) = room
    }

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        let system = try FileSystem.mount(on: state.recovered.fork(), options: state.options)
        try Self.empty(.root, state.tree, system)
        // What was removed comes back when its transaction has committed.
        try system.syncAll()
        let (inodes, blocks) = try Self.room(system)
        try system.unmount()
        var result: [String] = []
        if inodes != freeInodes {
            result.append("space: \(inodes) free inodes after all was removed, not \(freeInodes)")
        }
        if blocks != freeBlocks {
            result.append("space: \(blocks) free blocks after all was removed, not \(freeBlocks)")
        }
        return result
    }

    private static let lostAndFound = Array("lost+found".utf8)

    private static func empty(
        _ directory: InodeNumber, _ tree: CapturedTree, _ system: FileSystem
    ) throws(Ext4Error) {
        let entries = tree.nodes[directory]?.entries ?? [:]
        for (name, inode) in entries.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            guard tree.nodes[inode].map({ $0.mode >> 12 == 4 }) == true else {
                try system.unlink(try FileName(name), in: directory)
                continue
            }
            try empty(inode, tree, system)
            if directory != .root || name != lostAndFound {
                try system.removeDirectory(try FileName(name), in: directory)
            }
        }
    }

    /// What the two directories have that stay counts as free: a directory that has grown does not shrink.
    private static func room(_ system: FileSystem) throws(Ext4Error) -> (inodes: UInt64, blocks: UInt64) {
        let statistics = system.statistics()
        var kept = try system.attributes(of: .root).sectorCount
        if let found = try system.lookup(try FileName(lostAndFound), in: .root) {
            kept += found.sectorCount
            system.forget(found.inode, count: 1)
        }
        return (statistics.freeInodes, statistics.freeBlocks + kept * 512 / UInt64(statistics.blockByteCount))
    }
}
