/// Where transactions may lie in a log, checked against the log's real length: no number of the super block is used
/// before it has been through here. Positions are log blocks, from 0, the super block.
package struct LogGeometry: Equatable, Sendable {
    /// `JBD2_DEFAULT_FAST_COMMIT_BLOCKS`: what an `s_num_fc_blks` of 0 means.
    package static let defaultFastCommitBlockCount: UInt32 = 256
    /// The smallest log that a writer can work with: room for a few transactions of a few blocks.
    package static let minimumBlockCount: UInt32 = 16

    package let first: UInt32
    /// One past the last block that transactions may use.
    package let end: UInt32
    /// The blocks of the fast-commit area; empty when the feature is off. Its first block is `end + 1`, as in Linux.
    package let fastCommit: Range<UInt32>

    /// `blockCount` is the length of the mapped log area in blocks of `blockByteCount` bytes.
    package init(
        _ superBlock: JournalSuperBlock, blockByteCount: Int, blockCount: UInt32
    ) throws(Ext4Error) {
        func corrupt(_ place: String) -> Ext4Error { .corrupt("journal super block", where: place) }
        guard superBlock.blockByteCount == blockByteCount else {
            throw corrupt("block size \(superBlock.blockByteCount), the volume has \(blockByteCount)")
        }
        let length = superBlock.blockCount
        guard length >= Self.minimumBlockCount, length <= blockCount else {
            throw corrupt("length \(length), the journal has \(blockCount) blocks")
        }
        guard superBlock.first >= 1, superBlock.first < length else { throw corrupt("first block \(superBlock.first)") }
        var last = length
        var area = length..<length
        if superBlock.incompatible.contains(.fastCommit) {
            let named = superBlock.fastCommitBlockCount
            let count = named == 0 ? Self.defaultFastCommitBlockCount : named
            // Linux leaves the log whole when the area does not fit in it.
            if count < length, length - count >= superBlock.first {
                last = length - count
                area = min(last + 1, length)..<length
            }
        }
        guard last > superBlock.first, last - superBlock.first >= Self.minimumBlockCount - 1 else {
            throw corrupt("length \(length) leaves no room for transactions")
        }
        first = superBlock.first
        end = last
        fastCommit = area
        guard superBlock.start == 0 || (superBlock.start >= first && superBlock.start < end) else {
            throw corrupt("start \(superBlock.start) outside \(first)..<\(end)")
        }
    }

    /// The blocks that transactions may use, and how many there are.
    package var ring: Range<UInt32> { first..<end }
    package var count: UInt32 { end - first }

    /// The position `count` blocks after `position`, round the end of the log. `count` is at most `self.count`.
    package func advance(_ position: UInt32, by count: UInt32) -> UInt32 {
        let offset = UInt64(position - first) + UInt64(count)
        return first + UInt32(offset % UInt64(self.count))
    }

    /// The blocks from `from` up to `to`, going forward; 0 when they are the same.
    package func distance(from: UInt32, to: UInt32) -> UInt32 {
        to >= from ? to - from : count - (from - to)
    }
}
