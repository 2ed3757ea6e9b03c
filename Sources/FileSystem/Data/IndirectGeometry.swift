internal import Ext4Format

/// Which indirect blocks lead to which blocks of a file: twelve numbers in the inode name data, and three more name
/// indirect blocks of one, two and three levels (kernel doc: ext4, "Direct/Indirect Block Addressing"). All in blocks.
struct IndirectGeometry {
    static let directCount: UInt64 = 12
    static let levels = 1...3
    /// Numbers are 32 bits wide: of a larger volume these files get the first blocks only.
    static let reachableBlocks: UInt64 = 1 << 32

    /// Numbers in one indirect block.
    let perBlock: UInt64

    init(blockByteCount: Int) { perBlock = UInt64(blockByteCount / 4) }

    /// What a number stands for that is `level` levels above the data.
    func span(_ level: Int) -> UInt64 { (0..<level).reduce(1) { span, _ in span * perBlock } }

    /// The file block where the part begins that the number of this level in the inode leads to.
    func base(_ level: Int) -> UInt64 { (1..<level).reduce(Self.directCount) { $0 + span($1) } }

    /// The file block behind what the map can hold.
    var end: UInt64 { min(base(3) + span(3), 1 << 32 - 1) }

    /// How many indirect blocks lead to `block`; nil past the end.
    func level(of block: UInt64) -> Int? {
        if block < Self.directCount { return 0 }
        guard block < end else { return nil }
        return Self.levels.first { block < base($0) + span($0) }
    }

    /// The file block behind the numbers that lie beside the one of `block`.
    func endOfNeighbours(of block: UInt64) -> UInt64 {
        if block < Self.directCount { return Self.directCount }
        return block - (block - Self.directCount) % perBlock + perBlock
    }

    /// How many indirect blocks lead to `range`, without those that also lead to `last`, a block before it.
    func nodeCount(_ range: Range<UInt64>, after last: UInt64? = nil) -> UInt64 {
        var count: UInt64 = 0
        for top in Self.levels {
            let covered = base(top)..<base(top) + span(top)
            let part = range.clamped(to: covered)
            guard !part.isEmpty else { continue }
            for level in 1...top {
                let index = { (block: UInt64) in (block - covered.lowerBound) / span(level) }
                count += index(part.upperBound - 1) - index(part.lowerBound) + 1
                if let last, covered.contains(last), index(last) == index(part.lowerBound) { count -= 1 }
            }
        }
        return count
    }

    /// The largest file, in blocks: what the map holds, and without huge_file no more than `i_blocks` can count in
    /// 512-byte units, the indirect blocks among them. Linux has the same bound.
    func blockLimit(hasHugeFiles: Bool) -> UInt64 {
        let countable = (1 << 32 - 1) / (perBlock * 4 / 512)
        if hasHugeFiles || end + nodeCount(0..<end) <= countable { return end }
        return countable - nodeCount(0..<min(countable, end))
    }
}
