package import BlockIO
package import Ext4Format
internal import FileSystem

/// One name and what it stands for.
package struct NamedInode: Hashable, Sendable {
    package let name: [UInt8]
    package let inode: UInt32
}

extension VolumeReader {
    /// The names in a block of a directory, the dots left out. An index block has none, and from a record on that makes
    /// no sense there are none.
    package func names(in block: AlignedBuffer) -> [NamedInode] {
        block.withBytes { bytes in
            var names: [NamedInode] = [], offset = 0
            while offset < bytes.byteCount,
                // To the end of the block: the tail with the checksum looks like a free record.
                let entry = try? directories.entry(bytes, at: offset, end: bytes.byteCount, in: FSBlock(0))
            {
                let name = bytes.array(entry.nameRange)
                if entry.inode != 0, name != [0x2E], name != [0x2E, 0x2E] {
                    names.append(NamedInode(name: name, inode: entry.inode))
                }
                offset = entry.end
            }
            return names
        }
    }

    /// Which inode "..", in the first block of a directory, stands for.
    func parent(in block: AlignedBuffer) -> UInt32? {
        block.withBytes { bytes in
            guard let own = try? directories.entry(bytes, at: 0, end: bytes.byteCount, in: FSBlock(0)),
                own.end < bytes.byteCount,
                let parent = try? directories.entry(bytes, at: own.end, end: bytes.byteCount, in: FSBlock(0)),
                bytes.array(parent.nameRange) == [0x2E, 0x2E], parent.inode != 0
            else { return nil }
            return parent.inode
        }
    }
}

/// Paths of inodes as far as they are cheap to find: a directory knows its parent, the parent its name.
package struct PathFinder {
    private let volume: VolumeReader
    private var known: [UInt32: [UInt8]?] = [InodeNumber.root.rawValue: Array("/".utf8)]
    /// Names seen on the way, of inodes that know no parent.
    private var hints: [UInt32: (parent: UInt32, name: [UInt8])] = [:]
    private static let depthLimit = 64
    /// A directory with more blocks is not searched for a name.
    private static let searchLimit = 4096

    package init(_ volume: VolumeReader) { self.volume = volume }

    /// Names of a directory that were read for another reason: they tell where files lie.
    package mutating func learn(_ names: [NamedInode], in directory: InodeNumber) {
        for one in names { hints[one.inode] = (directory.rawValue, one.name) }
    }

    /// Nil when it would take too long to find, or cannot be found.
    package mutating func path(of inode: InodeNumber) throws(Ext4Error) -> [UInt8]? {
        try path(of: inode.rawValue, depth: 0)
    }

    private mutating func path(of number: UInt32, depth: Int) throws(Ext4Error) -> [UInt8]? {
        if let path = known[number] { return path }
        guard depth < Self.depthLimit else { return nil }
        // A ring of directories must come to an end.
        known[number] = .some(nil)
        guard let (parent, name) = try place(of: number), let above = try path(of: parent, depth: depth + 1) else {
            return nil
        }
        let path = above + (above.count > 1 ? [UInt8(ascii: "/")] : []) + name
        known[number] = path
        return path
    }

    private func place(of number: UInt32) throws(Ext4Error) -> (parent: UInt32, name: [UInt8])? {
        if let hint = hints[number] { return hint }
        guard let record = try volume.inode(InodeNumber(number)), FileType(mode: record.mode) == .directory,
            let first = try blocks(of: record, limit: 1).first,
            let parent = volume.parent(in: try volume.block(first)),
            let above = try volume.inode(InodeNumber(parent)), FileType(mode: above.mode) == .directory,
            above.size / UInt64(volume.blockByteCount) <= UInt64(Self.searchLimit)
        else { return nil }
        for block in try blocks(of: above, limit: Self.searchLimit) {
            if let found = volume.names(in: try volume.block(block)).first(where: { $0.inode == number }) {
                return (parent, found.name)
            }
        }
        return nil
    }

    private func blocks(of record: InodeRecord, limit: Int) throws(Ext4Error) -> [UInt64] {
        var result: [UInt64] = []
        var blocks = InodeBlocks(volume, budget: Self.searchLimit)
        try blocks.forEachRun(of: record) { start, count, use in
            guard case .contents(let first) = use else { return }
            if limit == 1 && first.rawValue > 0 { return }
            let room = limit - result.count
            for index in 0..<min(count, UInt64(max(room, 0))) { result.append(start + index) }
        }
        return result
    }
}
