internal import Allocator
package import Ext4Format

extension FileSystem {
    /// FITRIM (ioctl_fitrim(2), `struct fstrim_range`): tells the device of the free blocks between byte `start` and
    /// byte `start + count` of the volume, of each run of `least` bytes or more; all are rounded to whole clusters.
    /// Answers how many bytes that were. EINVAL for a start behind the volume, a count below one block or a least that
    /// no group can have. A device that cannot do it has lost nothing and says nothing. May take long; other operations
    /// go on meanwhile.
    package func trim(from start: UInt64, count: UInt64, least: UInt64) throws(Ext4Error) -> UInt64 {
        try requireWritable()
        let unit = UInt64(volume.blockByteCount), superBlock = volume.superBlock, layout = volume.layout
        let leastBlocks = max(1, least / unit + (least % unit == 0 ? 0 : 1))
        guard count >= unit, start / unit < superBlock.blockCount, leastBlocks <= UInt64(superBlock.blocksPerGroup)
        else { throw .posix(Errno.invalid) }
        let first = start / unit + (start % unit == 0 ? 0 : 1)
        let (end, overflow) = first.addingReportingOverflow(count / unit)
        let range = first..<max(first, overflow ? superBlock.blockCount : min(end, superBlock.blockCount))
        var trimmed: UInt64 = 0
        for number in 0..<layout.groupCount {
            let group = GroupNumber(number), low = layout.firstBlock(of: group).rawValue
            let blocks = (low..<low + UInt64(layout.blockCount(of: group))).clamped(to: range)
            guard !blocks.isEmpty else { continue }
            // The clusters that lie in the range as a whole.
            let first = layout.clusterCount(for: blocks.lowerBound - low)
            let end = (blocks.upperBound - low) >> UInt64(layout.clusterShift)
            guard first < end else { continue }
            try requireWritable()
            trimmed += try volume.blocks.trim(
                group, Int(first)..<Int(end), least: Int(layout.clusterCount(for: leastBlocks))
            ) { run throws(Ext4Error) in
                try volume.device.discard(at: volume.offset(of: run.start), count: UInt64(run.count) * unit)
            }
        }
        return trimmed * volume.clusterByteCount
    }
}
