internal import Allocator
internal import Ext4Format

/// What `MappingCore.begin` promised to one write. Staged runs that were not published go back when this is dropped.
/// Used by one thread at a time.
final class StagedWrite {
    typealias Mapping = MappingCore.Mapping

    /// Where the write goes, in the order of the file.
    var mappings: [Mapping] = []
    /// What the file was mapped to before.
    private var old: [Mapping]
    let space: BlockReservation
    let cost: MapCost
    private let allocator: BlockAllocator
    /// What of the mappings has been published: all before this block of the file.
    private var publishedEnd: UInt64 = 0

    init(_ allocator: BlockAllocator, space: BlockReservation, cost: MapCost, replacing old: [Mapping]) {
        self.allocator = allocator
        self.space = space
        self.cost = cost
        self.old = old
    }

    /// Where the data of a block lies that the write covers in part; nil where it reads as zeros.
    func source(of block: UInt64) -> FSBlock? {
        let index = old.partitioningIndex { $0.range.upperBound > block }
        guard index < old.count, let start = old[index].target.dataStart else { return nil }
        return start + (block - old[index].range.lowerBound)
    }

    /// Mappings are published in the order of the file.
    func markPublished(_ mapping: Mapping) {
        precondition(mapping.range.lowerBound >= publishedEnd)
        publishedEnd = mapping.range.upperBound
    }

    // MARK: One handle

    func fitsOneHandle(of volume: Volume) -> Bool {
        let changes = mappings.filter(\.target.isPublished)
        return credits(for: changes[...], of: volume) <= Self.mostCredits(of: volume)
    }

    /// Half of what a handle may have is left to what else the operation does.
    private static func mostCredits(of volume: Volume) -> Int { (volume.journal?.maximumCredits ?? 0) / 2 }

    /// How many of `mappings` can be published in one handle, and the credits for these; none when the first is too
    /// much.
    func partForOneHandle(
        _ mappings: ArraySlice<Mapping>, of volume: Volume
    ) -> (count: Int, credits: Int) {
        let most = Self.mostCredits(of: volume)
        var cost = Cost(self, volume.layout), credits = 0
        for (index, mapping) in mappings.enumerated() {
            cost.add(mapping)
            if cost.credits > most { return (index, credits) }
            credits = cost.credits
        }
        return (mappings.count, credits)
    }

    /// What publishing `mappings` takes.
    func credits(for mappings: ArraySlice<Mapping>, of volume: Volume) -> Int {
        var cost = Cost(self, volume.layout)
        for mapping in mappings { cost.add(mapping) }
        return cost.credits
    }

    /// Gives up what does not fit one handle, so that ioend is atomic. Answers the first block that is left out.
    func keepOneHandle(of volume: Volume) -> UInt64? {
        // One mapping in the place of one piece goes into a handle whatever it takes.
        if mappings.count == 1, old.count <= 1 { return nil }
        let changes = mappings.filter(\.target.isPublished)
        let count = partForOneHandle(changes[...], of: volume).count
        guard count < changes.count else { return nil }
        let end = count > 0 ? changes[count].range.lowerBound : endForOneHandle(changes[0], of: volume)
        for mapping in mappings where mapping.range.upperBound > end {
            giveBack(mapping.part(max(mapping.range.lowerBound, end)..<mapping.range.upperBound))
        }
        mappings = mappings.filter { $0.range.lowerBound < end }
            .map { $0.part($0.range.lowerBound..<min($0.range.upperBound, end)) }
        return end
    }

    /// As far as one mapping, which replaces many pieces, fits: to the end of one of them.
    private func endForOneHandle(_ mapping: Mapping, of volume: Volume) -> UInt64 {
        let pieces = pieces(in: mapping.range)
        let ends = pieces.map { min($0.range.upperBound, mapping.range.upperBound) }
        let isTooMuch = { (end: UInt64) in
            var cost = Cost(self, volume.layout)
            cost.add(mapping.part(mapping.range.lowerBound..<end))
            return cost.credits > Self.mostCredits(of: volume)
        }
        return ends[max(ends.partitioningIndex(where: isTooMuch) - 1, 0)]
    }

    /// An upper bound of the blocks that change: of the map, and of the groups that lose or get blocks.
    private struct Cost {
        private let write: StagedWrite
        private let layout: VolumeLayout
        /// In order.
        private var groups: [UInt32] = []
        private var map = 0
        private var last: UInt64?

        init(_ write: StagedWrite, _ layout: VolumeLayout) {
            self.write = write
            self.layout = layout
        }

        private static let perGroup = 2

        var credits: Int { map + Self.perGroup * groups.count }

        mutating func add(_ mapping: Mapping) {
            let pieces = mapping.target.isStaged ? write.pieces(in: mapping.range) : []
            map += write.cost.creditsToWrite(mapping.range, after: last, pieces: pieces.count)
            last = mapping.range.upperBound - 1
            guard mapping.target.isStaged else { return }
            touch(mapping)
            for piece in pieces { touch(piece) }
        }

        private mutating func touch(_ mapping: Mapping) {
            guard let start = mapping.target.start, let first = layout.place(of: start)?.group,
                let last = layout.place(of: start + UInt64(mapping.range.count - 1))?.group
            else { return }
            for group in first.rawValue...last.rawValue {
                let index = groups.partitioningIndex { $0 >= group }
                if index == groups.count || groups[index] != group { groups.insert(group, at: index) }
            }
        }
    }

    /// What was mapped in `range` before.
    private func pieces(in range: Range<UInt64>) -> ArraySlice<Mapping> {
        let first = old.partitioningIndex { $0.range.upperBound > range.lowerBound }
        let end = old.partitioningIndex { $0.range.lowerBound >= range.upperBound }
        return old[first..<max(first, end)]
    }

    // MARK: Batches

    /// `mappings` with what is staged here in their place.
    func covering(_ mappings: [Mapping]) -> [Mapping] {
        var result: [Mapping] = []
        for mapping in mappings {
            var next = mapping.range.lowerBound
            var index = self.mappings.partitioningIndex { $0.range.upperBound > next }
            while next < mapping.range.upperBound {
                let mine = index < self.mappings.count ? self.mappings[index] : nil
                index += 1
                let low = min(mine?.range.lowerBound ?? .max, mapping.range.upperBound)
                if next < low { result.append(mapping.part(next..<low)) }
                guard let mine, low < mapping.range.upperBound else { break }
                let part = mine.part(mine.range.clamped(to: next..<mapping.range.upperBound))
                result.append(Mapping(range: part.range, target: part.target.start.map { .batched($0) } ?? .hole))
                next = part.range.upperBound
            }
        }
        return result
    }

    /// Whether both together, which are about different blocks, fit one handle.
    func fitsOneHandle(with other: StagedWrite, of volume: Volume) -> Bool {
        let before = (mappings, old)
        defer { (mappings, old) = before }
        merge(other)
        return fitsOneHandle(of: volume)
    }

    /// Takes over what another write on other blocks has staged.
    func absorb(_ other: StagedWrite) {
        merge(other)
        other.mappings = []
        space.absorb(other.space)
    }

    private func merge(_ other: StagedWrite) {
        mappings = Self.merged(mappings, other.mappings.filter(\.target.isStaged))
        old = Self.merged(old, other.old.filter { if case .batched = $0.target { false } else { true } })
    }

    /// Both in the order of the file, with neighbours on the device as one.
    private static func merged(_ some: [Mapping], _ others: [Mapping]) -> [Mapping] {
        let sorted = (some + others).sorted { $0.range.lowerBound < $1.range.lowerBound }
        var result: [Mapping] = []
        result.reserveCapacity(sorted.count)
        for mapping in sorted {
            if let last = result.last, let both = last.merged(with: mapping) {
                result[result.count - 1] = both
            } else {
                result.append(mapping)
            }
        }
        return result
    }

    // MARK: Giving back

    private func giveBack(_ mapping: Mapping) {
        guard case .staged(let start) = mapping.target else { return }
        allocator.unstage(BlockRun(start: start, count: UInt32(mapping.range.count)))
    }

    deinit {
        for mapping in mappings where mapping.range.lowerBound >= publishedEnd { giveBack(mapping) }
    }
}
