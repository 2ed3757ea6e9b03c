internal import Ext4Format

/// What was promised for blocks of a file and has not been reported as done, in the order of the file.
struct Promises {
    enum Kind: Equatable {
        /// A new block, once its data are written back.
        case delayed
        /// To become data where it lies: an unwritten extent.
        case converting
        /// Given out to be written; nothing on disk names it.
        case staged(FSBlock)
    }

    struct Promise: Equatable {
        var range: Range<UInt64>
        var kind: Kind
        /// Asked for once, by a write that may yet say that it did not come to it.
        var isFresh = false

        /// The part that covers `range`, which lies inside.
        func part(_ range: Range<UInt64>) -> Promise {
            var part = self
            part.range = range
            let skipped = range.lowerBound - self.range.lowerBound
            if case .staged(let start) = kind { part.kind = .staged(start + skipped) }
            return part
        }

        /// Both as one, when the other follows at once in the file and on the device.
        fileprivate func merged(with next: Promise) -> Promise? {
            let both = range.lowerBound..<next.range.upperBound
            guard range.upperBound == next.range.lowerBound, isFresh == next.isFresh,
                both.count <= Extent.maximumUnwritten, part(range.upperBound..<range.upperBound).kind == next.kind
            else { return nil }
            var merged = self
            merged.range = both
            return merged
        }
    }

    private var list: [Promise] = []
    /// Blocks, of all kinds and of those without a place.
    private(set) var blockCount: UInt64 = 0, delayedCount: UInt64 = 0

    private func firstIndex(endingBehind block: UInt64) -> Int {
        list.partitioningIndex { $0.range.upperBound > block }
    }

    /// The promise for a block, from that block on.
    func promise(at block: UInt64) -> Promise? {
        let index = firstIndex(endingBehind: block)
        guard index < list.count, list[index].range.contains(block) else { return nil }
        return list[index].part(block..<list[index].range.upperBound)
    }

    /// The first block from `block` on that something is promised for.
    func next(from block: UInt64) -> UInt64? {
        let index = firstIndex(endingBehind: block)
        return index < list.count ? max(block, list[index].range.lowerBound) : nil
    }

    /// What is promised in `range`, cut to it.
    func within(_ range: Range<UInt64>) -> [Promise] {
        list[firstIndex(endingBehind: range.lowerBound)...].prefix { $0.range.lowerBound < range.upperBound }
            .map { $0.part($0.range.clamped(to: range)) }
    }

    /// Takes what is promised in `range` out.
    mutating func remove(_ range: Range<UInt64>) -> [Promise] {
        let removed = within(range)
        guard !removed.isEmpty else { return [] }
        let first = firstIndex(endingBehind: range.lowerBound)
        let old = list[first...].prefix { $0.range.lowerBound < range.upperBound }
        var kept: [Promise] = []
        for promise in old {
            let (low, high) = (promise.range.lowerBound, promise.range.upperBound)
            if low < range.lowerBound { kept.append(promise.part(low..<range.lowerBound)) }
            if high > range.upperBound { kept.append(promise.part(range.upperBound..<high)) }
        }
        list.replaceSubrange(old.startIndex..<old.endIndex, with: kept)
        for promise in removed { count(promise, -1) }
        return removed
    }

    /// Nothing is promised for its blocks yet.
    mutating func insert(_ promise: Promise) {
        guard !promise.range.isEmpty else { return }
        precondition(within(promise.range).isEmpty, "a block was promised twice")
        var index = firstIndex(endingBehind: promise.range.lowerBound)
        list.insert(promise, at: index)
        count(promise, 1)
        if index > 0, let merged = list[index - 1].merged(with: list[index]) {
            index -= 1
            list.replaceSubrange(index...index + 1, with: [merged])
        }
        if index + 1 < list.count, let merged = list[index].merged(with: list[index + 1]) {
            list.replaceSubrange(index...index + 1, with: [merged])
        }
    }

    private mutating func count(_ promise: Promise, _ sign: Int64) {
        let change = UInt64(bitPattern: sign * Int64(promise.range.count))
        blockCount &+= change
        if promise.kind == .delayed { delayedCount &+= change }
    }
}
