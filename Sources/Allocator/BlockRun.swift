package import Ext4Format

/// Adjacent blocks of the volume. `count` is in blocks and at least 1 wherever a run is given out.
package struct BlockRun: Equatable, Sendable {
    package var start: FSBlock
    package var count: UInt32

    package init(start: FSBlock, count: UInt32) {
        self.start = start
        self.count = count
    }

    /// The block behind the run, nil when the numbers of a damaged image overflow.
    package var end: FSBlock? {
        let (value, overflow) = start.rawValue.addingReportingOverflow(UInt64(count))
        return overflow ? nil : FSBlock(value)
    }
}
