internal import Ext4Format

/// A change of an inode's attributes, decided and not yet made. Good as long as the inode's write lock is held.
struct AttributePlan: Sendable {
    enum BlockChange: Equatable, Sendable {
        case none
        /// The new content of the block that the inode owns alone.
        case rewrite([UInt8])
        /// The content of a new block; the inode lets go of the one it has, if any.
        case replace([UInt8])
        /// The inode lets go of its block.
        case drop
    }

    /// The whole new area in the slot; nil: unchanged.
    var area: [UInt8]?
    var block: BlockChange = .none
    /// The twelve permission bits that the inode gets, because its access list or chmod says so; nil: unchanged.
    var permissions: UInt16?

    /// What to reserve before the handle is opened: 0 or 1.
    var blockCount: UInt64 {
        if case .replace = block { 1 } else { 0 }
    }
}
