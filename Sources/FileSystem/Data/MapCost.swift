internal import Ext4Format

/// What changes of a map take of new blocks and of credits: upper bounds, worked out before a handle opens.
enum MapCost {
    /// With the tree as deep as it was then.
    case extents(depth: UInt16)
    case indirect(IndirectGeometry)

    /// A split leaf has room for this many extents at the least (1 KiB blocks). A write over many full leaves may split
    /// each of them, but then it also meets the extents in them: so old pieces count like new ones.
    private static let extentsPerNewLeaf: UInt64 = 40
    /// A further leaf of a tree may split: itself, a new node, and the bitmap and descriptor of that.
    private static let furtherLeaf = 4
    /// The same of an indirect block that is made or freed.
    private static let perIndirectBlock = 3

    /// Blocks of the map that a write to `range` may need, with the pieces that are there before it and those that it
    /// makes.
    func nodesToWrite(_ range: Range<UInt64>, pieces: Int) -> UInt64 {
        switch self {
        case .extents(let depth): ExtentTree.nodesNeeded(depth: depth) + UInt64(pieces) / Self.extentsPerNewLeaf
        case .indirect(let geometry): geometry.nodeCount(range)
        }
    }

    /// Credits to map `range` in the place of `pieces`, after the handle has mapped all up to the block `last` (nil:
    /// nothing yet).
    func creditsToWrite(_ range: Range<UInt64>, after last: UInt64?, pieces: Int) -> Int {
        switch self {
        case .extents(let depth):
            (last == nil ? ExtentTree.creditsNeeded(depth: depth + 1) : Self.furtherLeaf)
                + Self.furtherLeaf * max(0, pieces - 1)
        case .indirect(let geometry):
            (last == nil ? 1 : 0) + Self.perIndirectBlock * Int(geometry.nodeCount(range, after: last))
        }
    }

    /// How many blocks from `block` on may be one mapping, so that a handle takes one at the least.
    func longestMapping(at block: UInt64) -> UInt64 {
        switch self {
        // Whatever the blocks become, written or unwritten, one extent holds a run.
        case .extents: UInt64(Extent.maximumUnwritten)
        case .indirect(let geometry): geometry.endOfNeighbours(of: block) - block
        }
    }

    /// Blocks and credits for the map when `range` is appended.
    func toAppend(_ range: Range<UInt64>) -> (blocks: UInt64, credits: Int) {
        switch self {
        // The tree grows by one path at the most for so few.
        case .extents(let depth):
            (ExtentTree.nodesNeeded(depth: depth + 1), ExtentTree.creditsNeeded(depth: depth + 1))
        case .indirect(let geometry):
            (geometry.nodeCount(range), creditsToWrite(range, after: nil, pieces: 0))
        }
    }

    /// Blocks and credits for the map when a part of one piece is unmapped. A hole in the middle of an extent makes two
    /// of it.
    var toUnmap: (blocks: UInt64, credits: Int) {
        switch self {
        case .extents(let depth):
            (ExtentTree.nodesNeeded(depth: depth), ExtentTree.creditsNeeded(depth: depth + 1))
        case .indirect: (0, 1 + Self.perIndirectBlock * IndirectGeometry.levels.count)
        }
    }
}
