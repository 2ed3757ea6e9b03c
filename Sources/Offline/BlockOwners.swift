internal import BlockIO
package import Ext4Format
internal import FileSystem

/// Who owns each of some blocks, as the volume will stand after a replay and, for what that leaves open, as it stands
/// before.
///
/// What the place does not tell, the inodes do. Those in table blocks among the wanted ones are looked at first, since
/// what changes a block mostly changes its inode; only what is still open then takes a walk over all inodes in use,
/// which ends when nothing is open any more. Memory: the blocks that were asked for.
package struct BlockOwners {
    private var owners: [UInt64: BlockOwner] = [:]

    /// Volumes that cannot be read are nil and name nothing. A read error in a walk is thrown.
    package init(
        of blocks: some Sequence<FSBlock>, after: VolumeReader?, before: VolumeReader?
    ) throws(Ext4Error) {
        let wanted = Array(Set(blocks.map(\.rawValue))).sorted()
        if let after { try find(wanted, in: after, isFormer: false) }
        if let before { try find(wanted.filter { owners[$0] == nil }, in: before, isFormer: true) }
    }

    /// Nil for a block that is free, or whose owner is too damaged to tell.
    package func owner(of block: FSBlock) -> BlockOwner? { owners[block.rawValue] }

    private mutating func find(_ wanted: [UInt64], in volume: VolumeReader, isFormer: Bool) throws(Ext4Error) {
        let places = try FixedPlaces(volume, of: wanted)
        var open: [UInt64] = []
        var near: [UInt32] = []
        for block in wanted {
            guard var owner = places.owner(of: block) else {
                open.append(block)
                continue
            }
            owner.isFormer = isFormer
            owners[block] = owner
        }
        for owner in owners.values { near += owner.inodes.map(Array.init) ?? [] }
        guard !open.isEmpty else { return }
        var search = InodeSearch(volume, open: open, isFormer: isFormer)
        for number in near.sorted() where !search.isDone {
            guard let record = try volume.inode(InodeNumber(number)) else { continue }
            try search.look(at: InodeNumber(number), record)
        }
        for group in 0..<volume.layout.groupCount where !search.isDone {
            _ = try volume.forEachInode(in: group) { number, record throws(Ext4Error) in
                try search.look(at: number, record)
                return !search.isDone
            }
        }
        owners.merge(search.found) { first, _ in first }
    }
}

/// Looks for the owners of blocks, inode by inode.
private struct InodeSearch {
    private let volume: VolumeReader
    private let isFormer: Bool
    private let open: [UInt64]
    private(set) var found: [UInt64: BlockOwner] = [:]
    private var blocks: InodeBlocks

    init(_ volume: VolumeReader, open: [UInt64], isFormer: Bool) {
        self.volume = volume
        self.open = open
        self.isFormer = isFormer
        blocks = InodeBlocks(volume)
    }

    var isDone: Bool { found.count == open.count }

    mutating func look(at number: InodeNumber, _ record: InodeRecord) throws(Ext4Error) {
        // One that is deleted keeps its map here and there, and it counts for nothing. Inodes of the system have links.
        guard record.linkCount > 0 || record.deletionTime == 0 else { return }
        let contents = Self.contents(of: number, record, volume.superBlock)
        let open = open, isFormer = isFormer
        var found: [UInt64: BlockOwner] = [:]
        try blocks.forEachRun(of: record) { start, count, use in
            var index = open.partitioningIndex { $0 >= start }
            while index < open.count, open[index] - start < count {
                let block = open[index]
                var owner = Self.owner(use, contents, offset: block - start)
                owner.inode = number
                owner.isFormer = isFormer
                found[block] = owner
                index += 1
            }
        }
        self.found.merge(found) { first, _ in first }
    }

    private static func owner(_ use: InodeBlocks.Use, _ contents: BlockOwner.Kind, offset: UInt64) -> BlockOwner {
        switch use {
        case .contents(let first):
            var owner = BlockOwner(contents)
            owner.fileBlock = FileBlock(UInt32(truncatingIfNeeded: UInt64(first.rawValue) + offset))
            return owner
        case .extentNode(let depth):
            var owner = BlockOwner(.extentNode)
            owner.level = Int(depth)
            return owner
        case .indirect(let level):
            var owner = BlockOwner(.indirectBlock)
            owner.level = level
            return owner
        case .attributes: return BlockOwner(.attributes)
        }
    }

    private static func contents(
        of number: InodeNumber, _ record: InodeRecord, _ superBlock: SuperBlock
    ) -> BlockOwner.Kind {
        switch number.rawValue {
        case superBlock.journalInode where superBlock.journalInode != 0: return .journal
        case superBlock.orphanFileInode where superBlock.orphanFileInode != 0: return .orphanFile
        // Inodes 3 and 4 are those of quotas, 7 is the one of the reserve.
        case 3, 4: return .quota
        case 7: return .reservedDescriptors
        default: break
        }
        if record.flags.contains(.attributeInode) { return .attributeValue }
        return switch FileType(mode: record.mode) {
        case .directory: .directory
        case .symlink: .symlink
        default: .file
        }
    }
}
