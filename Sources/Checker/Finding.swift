package import Ext4Format

/// One rule of the format that a volume breaks, and where.
package struct Finding: Equatable, Sendable, CustomStringConvertible {
    package let rule: Rule
    package let inode: InodeNumber?
    package let block: FSBlock?
    package let group: GroupNumber?
    /// What was found, and what should have been.
    package let detail: String

    package var description: String {
        var places: [String] = []
        if let group { places.append("group \(group.rawValue)") }
        if let inode { places.append("inode \(inode.rawValue)") }
        if let block { places.append("block \(block.rawValue)") }
        return rule.rawValue + (places.isEmpty ? "" : " (\(places.joined(separator: ", ")))") + ": \(detail)"
    }

    package enum Rule: String, CaseIterable, Sendable {
        // The volume.
        case superBlock = "the super block is whole"
        case feature = "every feature is one that the checker knows"
        case readable = "every block can be read"
        case recovered = "the journal holds nothing to replay"
        case freeBlockCount = "s_free_blocks_count is the sum of the groups"
        case freeInodeCount = "s_free_inodes_count is the sum of the groups"
        case orphanList = "no inode is on the orphan list"
        case orphanFile = "the orphan file is whole and empty"

        // Groups.
        case descriptor = "a group descriptor has its checksum"
        case metadataPlace = "bitmaps and inode tables lie apart and where the descriptor may put them"
        case blockBitmap = "a block bitmap has its checksum"
        case inodeBitmap = "an inode bitmap has its checksum"
        case blockBitmapPadding = "the bits behind the last block of a group are set"
        case inodeBitmapPadding = "the bits behind the last inode of a group are set"
        case groupFreeBlocks = "bg_free_blocks_count is what the bitmap says"
        case groupFreeInodes = "bg_free_inodes_count is what the bitmap says"
        case groupDirectories = "bg_used_dirs_count is the number of directories"
        case unusedInodes = "no inode of bg_itable_unused is in use"

        // Blocks.
        case blockOutside = "a mapped block lies in the volume"
        case blockClaimedTwice = "a block belongs to one owner"
        case clusterPlace = "a block has the place in its cluster that it has in the file"
        case blockNotMarked = "a block that belongs to somebody is marked"
        case blockLeaked = "a marked block belongs to somebody"

        // Inodes.
        case inodeChecksum = "an inode has its checksum"
        case inodeNotMarked = "an inode with links is marked"
        case inodeLeaked = "a marked inode has links"
        case deletionTime = "an inode in use has no deletion time, and a deleted one has"
        case inodeMode = "an inode has one of the seven types"
        case inodeFlags = "flags fit the type and the features"
        case inodeSize = "the size fits the blocks"
        case blockCount = "i_blocks is the number of blocks"
        case extentTree = "an extent tree is whole"
        case symlink = "a symbolic link holds as many bytes as its size says"
        case device = "a device, FIFO or socket has neither blocks nor a size"
        case attributes = "extended attributes are whole"
        case attributeHash = "an extended attribute block has the hashes of its entries"
        case attributeReferences = "h_refcount is the number of inodes that use the block"

        // Directories.
        case directoryBlock = "a directory block is whole"
        case directoryIndex = "a directory index is whole"
        case indexCoverage = "each block of an indexed directory is in the index once"
        case indexOrder = "a name lies in the leaf that its hash says"
        case entryTarget = "a name leads to an inode in use"
        case entryType = "a name has the type of its inode"
        case uniqueName = "a directory has a name once"
        case directoryNames = "a directory has one name"
        case dots = "\".\" is the directory and \"..\" the one that names it"
        case reachable = "a directory can be reached from the root"
        case linkCount = "the link count is the number of names"

        // Inodes of the volume itself.
        case journal = "the journal inode holds a journal"
        case resizeInode = "the resize inode holds the reserved descriptor blocks"
    }
}
