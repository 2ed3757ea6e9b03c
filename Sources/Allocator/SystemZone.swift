internal import Ext4Format
internal import Threads

/// Where the blocks lie that belong to the file system itself: super block and descriptor copies with their reserve,
/// bitmaps, inode tables, and what `protect` adds (the journal). No file may map or free one.
///
/// The table of a flex group is built from its descriptors when first asked for, merged: three ranges as a rule.
final class SystemZone: Sendable {
    private let groups: GroupTable
    private let tables = Monitor<[UInt32: [Range<UInt64>]]>([:])
    private let protected = Monitor<[Range<UInt64>]>([])

    init(groups: GroupTable) { self.groups = groups }

    func protect(_ run: Range<UInt64>) {
        protected.withLock { $0 = Self.merged($0 + [run]) }
    }

    /// Whether any block of a run shares a cluster with a system block, or lies outside of the volume. Takes group
    /// locks.
    func contains(_ run: BlockRun) -> Bool {
        guard run.count > 0, let end = run.end?.rawValue, let first = groups.layout.place(of: run.start),
            let last = groups.layout.place(of: FSBlock(end - 1))
        else { return true }
        let wanted = groups.layout.wholeClusters(run.start.rawValue..<end)
        if protected.withLock({ Self.overlaps($0, wanted) }) { return true }
        for number in first.group.rawValue...last.group.rawValue {
            if header(of: GroupNumber(number)).overlaps(wanted) { return true }
        }
        let shift = flexShift
        for flex in first.group.rawValue >> shift...last.group.rawValue >> shift {
            if Self.overlaps(table(flex), wanted) { return true }
        }
        return false
    }

    /// The clusters of the system blocks of one group as bits of its bitmap. Takes group locks.
    func bits(in group: GroupNumber) -> [Range<Int>] {
        let layout = groups.layout, shift = UInt64(layout.clusterShift)
        let start = layout.firstBlock(of: group).rawValue
        let blocks = start..<start + UInt64(layout.blockCount(of: group))
        return ([header(of: group)] + table(group.rawValue >> flexShift)).compactMap {
            let part = $0.clamped(to: blocks)
            guard !part.isEmpty else { return nil }
            let own = layout.wholeClusters(part.lowerBound - start..<part.upperBound - start)
            return Int(own.lowerBound >> shift)..<Int(own.upperBound >> shift)
        }
    }

    private var flexShift: UInt32 {
        let superBlock = groups.layout.superBlock
        return superBlock.features.incompatible.contains(.flexibleGroups) ? UInt32(superBlock.logGroupsPerFlex) : 0
    }

    private func header(of group: GroupNumber) -> Range<UInt64> {
        let start = groups.layout.firstBlock(of: group).rawValue
        let count = min(groups.layout.headerBlockCount(of: group), groups.layout.blockCount(of: group))
        return start..<start + UInt64(count)
    }

    private func table(_ flex: UInt32) -> [Range<UInt64>] {
        if let table = tables.withLock({ $0[flex] }) { return table }
        let layout = groups.layout
        let first = UInt64(flex) << UInt64(flexShift)
        let end = min(first + 1 << UInt64(flexShift), UInt64(layout.groupCount))
        var ranges: [Range<UInt64>] = []
        var isComplete = true
        for number in first..<end {
            do throws(Ext4Error) {
                let one = try groups.descriptor(GroupNumber(UInt32(number)))
                ranges.append(one.blockBitmap.rawValue..<one.blockBitmap.rawValue + 1)
                ranges.append(one.inodeBitmap.rawValue..<one.inodeBitmap.rawValue + 1)
                ranges.append(one.inodeTable.rawValue..<one.inodeTable.rawValue + UInt64(layout.inodeTableBlockCount))
            } catch {
                // What a damaged descriptor says is nowhere. After a failed read the table is built anew next time.
                if case .corrupt = error { continue }
                isComplete = false
            }
        }
        let table = Self.merged(ranges)
        if isComplete { tables.withLock { $0[flex] = table } }
        return table
    }

    /// Sorted, and neighbours joined.
    private static func merged(_ ranges: [Range<UInt64>]) -> [Range<UInt64>] {
        var result: [Range<UInt64>] = []
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = result.last, range.lowerBound <= last.upperBound {
                result[result.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
            } else {
                result.append(range)
            }
        }
        return result
    }

    /// `ranges` is sorted and disjoint.
    private static func overlaps(_ ranges: [Range<UInt64>], _ wanted: Range<UInt64>) -> Bool {
        var low = 0, high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound <= wanted.lowerBound { low = middle + 1 } else { high = middle }
        }
        return low < ranges.count && ranges[low].lowerBound < wanted.upperBound
    }
}
