internal import Ext4Format
internal import Threads

/// Where the blocks lie that belong to the file system itself: super block and descriptor copies with their reserve,
/// bitmaps, inode tables, and what `protect` adds (the journal). No file may map or free one.
///
/// The table of a flex group is built from its descriptors when first asked for, merged: three ranges as a rule.
final class SystemZone: Sendable {
    private let groups: GroupTable
    private let layout: VolumeLayout
    /// A flex group has 2^`flexShift` groups.
    private let flexShift: UInt32

    private struct State {
        /// By flex group.
        var tables: [UInt32: [Range<UInt64>]] = [:]
        var protected: [Range<UInt64>] = []
    }
    private let state = Monitor(State())

    init(groups: GroupTable) {
        self.groups = groups
        layout = groups.layout
        let superBlock = layout.superBlock
        let hasFlexGroups = superBlock.features.incompatible.contains(.flexibleGroups)
        flexShift = hasFlexGroups ? UInt32(superBlock.logGroupsPerFlex) : 0
    }

    func protect(_ runs: [Range<UInt64>]) {
        state.withLock { $0.protected = Self.merged($0.protected + runs) }
    }

    /// Whether any block of a run shares a cluster with a system block, or lies outside of the volume. Takes group
    /// locks.
    func contains(_ run: BlockRun) -> Bool {
        guard run.count > 0, let end = run.end?.rawValue, let first = layout.place(of: run.start),
            let last = layout.place(of: FSBlock(end - 1))
        else { return true }
        let wanted = layout.wholeClusters(run.start.rawValue..<end)
        let flexes = first.group.rawValue >> flexShift...last.group.rawValue >> flexShift
        let known = state.withLock { state -> Bool? in
            if Self.overlaps(state.protected, wanted) { return true }
            for flex in flexes {
                guard let table = state.tables[flex] else { return nil }
                if Self.overlaps(table, wanted) { return true }
            }
            return false
        }
        return known ?? flexes.contains { Self.overlaps(table($0), wanted) }
    }

    /// The clusters of the system blocks of one group as bits of its bitmap. Takes group locks.
    func bits(in group: GroupNumber) -> [Range<Int>] {
        let shift = UInt64(layout.clusterShift)
        let start = layout.firstBlock(of: group).rawValue
        let blocks = start..<start + UInt64(layout.blockCount(of: group))
        return table(group.rawValue >> flexShift).compactMap {
            let part = $0.clamped(to: blocks)
            guard !part.isEmpty else { return nil }
            let own = layout.wholeClusters(part.lowerBound - start..<part.upperBound - start)
            return Int(own.lowerBound >> shift)..<Int(own.upperBound >> shift)
        }
    }

    /// The copies of super block and descriptors at the start of a group, if it has any.
    private func header(of group: GroupNumber) -> [Range<UInt64>] {
        let start = layout.firstBlock(of: group).rawValue
        let count = min(layout.headerBlockCount(of: group), layout.blockCount(of: group))
        return count > 0 ? [start..<start + UInt64(count)] : []
    }

    private func table(_ flex: UInt32) -> [Range<UInt64>] {
        if let table = state.withLock({ $0.tables[flex] }) { return table }
        let first = UInt64(flex) << UInt64(flexShift)
        let end = min(first + 1 << UInt64(flexShift), UInt64(layout.groupCount))
        var ranges: [Range<UInt64>] = []
        var isComplete = true
        for number in first..<end {
            ranges += header(of: GroupNumber(UInt32(number)))
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
        if isComplete { state.withLock { $0.tables[flex] = table } }
        return table
    }

    /// Sorted, and neighbours joined. None of the ranges is empty.
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
        let first = ranges.partitioningIndex { $0.upperBound > wanted.lowerBound }
        return first < ranges.count && ranges[first].lowerBound < wanted.upperBound
    }
}
