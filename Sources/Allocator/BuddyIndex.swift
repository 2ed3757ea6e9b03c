internal import Ext4Format

/// The free blocks of one group in memory, and at each power of two which aligned blocks of that size are wholly free.
/// A block is here what a bit of the bitmap stands for: with bigalloc a cluster.
///
/// Level 0 has a bit per block, set when it is free. Bit n of level k + 1 is the AND of bits 2n and 2n + 1 of level k.
/// So level k finds a free run of 2^k by scanning few words, and taking or giving a run recomputes only the words above
/// it: a dozen or so whatever its length. No I/O and no lock: the owner has one.
package struct BuddyIndex: Sendable {
    /// The blocks of the group, fewer in the last group of a volume.
    package let bitCount: Int
    package private(set) var freeCount: Int
    /// All levels one behind the other; level k starts at `offsets[k]`.
    private var words: [UInt64]
    private let offsets: [Int]
    /// Set bits per level.
    private var counts: [Int]

    /// `used` is a bitmap of the disk, a set bit is a block in use; what lies behind `bitCount` is not looked at.
    package init(bitCount: Int, used: RawSpan) {
        precondition(bitCount > 0 && used.byteCount * 8 >= bitCount)
        self.bitCount = bitCount
        var offsets = [0]
        var wordCount = (bitCount + 63) / 64
        for _ in 0..<(Int.bitWidth - 1 - bitCount.leadingZeroBitCount) {
            offsets.append(offsets[offsets.count - 1] + wordCount)
            wordCount = (wordCount + 1) / 2
        }
        offsets.append(offsets[offsets.count - 1] + wordCount)
        self.offsets = offsets
        words = [UInt64](repeating: 0, count: offsets[offsets.count - 1])
        counts = [Int](repeating: 0, count: offsets.count - 1)
        freeCount = 0
        let all = 0..<bitCount
        for index in wordRange(all) { words[index] = ~used[LE<UInt64>(index * 8)] & wordMask(index, all) }
        freeCount = words[0..<offsets[1]].reduce(0) { $0 + $1.nonzeroBitCount }
        counts[0] = freeCount
        recompute(above: wordRange(all), whole: true)
    }

    /// The largest k such that an aligned run of 2^k free blocks exists, nil in a full group.
    package var largestOrder: Int? { counts.lastIndex { $0 > 0 } }

    package func isFree(_ bit: Int) -> Bool { words[bit / 64] & 1 << UInt64(bit % 64) != 0 }

    package func isAnyFree(in range: Range<Int>) -> Bool {
        !range.isEmpty && wordRange(range).contains { words[$0] & wordMask($0, range) != 0 }
    }

    /// The first free block from `bit` on.
    package func firstFree(from bit: Int) -> Int? {
        precondition(bit >= 0)
        return firstSet(level: 0, from: bit)
    }

    /// Free blocks from `start` on, at most `limit`; empty when `start` is in use.
    package func run(at start: Int, limit: Int) -> Range<Int> {
        precondition(start < bitCount)
        let end = limit < bitCount - start ? start + limit : bitCount
        for index in wordRange(start..<bitCount) {
            let used = ~words[index] & wordMask(index, start..<(index + 1) * 64)
            if used != 0 { return start..<min(end, index * 64 + used.trailingZeroBitCount) }
            if (index + 1) * 64 >= end { break }
        }
        return start..<end
    }

    /// The free run of up to `count` blocks that is best near `goal`: the one at the goal if that is free, else the
    /// first behind it (then from the start of the group) of the size asked, or of the largest there is. Nil when
    /// nothing of 2^`minimumOrder` blocks is free, but what is free at the goal itself is always good.
    package func find(_ count: Int, near goal: Int, minimumOrder: Int) -> Range<Int>? {
        precondition(count > 0 && goal >= 0 && goal < bitCount)
        if isFree(goal) { return run(at: goal, limit: count) }
        guard let largest = largestOrder, largest >= minimumOrder else { return nil }
        let order = min(Self.order(for: count), largest)
        let size = 1 << order
        guard let chunk = firstSet(level: order, from: (goal + size - 1) >> order) ?? firstSet(level: order, from: 0)
        else {
            preconditionFailure("the counts of a buddy index are wrong")
        }
        // The run may begin before the aligned chunk: start there, so that no crumbs are left.
        let start = chunk << order
        return run(at: firstFree(before: start, floor: max(start - size + 1, 0)), limit: count)
    }

    /// Where the free run that holds `end` begins, not looking below `floor`.
    private func firstFree(before end: Int, floor: Int) -> Int {
        guard floor < end else { return end }
        for index in wordRange(floor..<end).reversed() {
            let used = ~words[index] & wordMask(index, floor..<end)
            if used != 0 { return index * 64 + 64 - used.leadingZeroBitCount }
        }
        return floor
    }

    /// The least k with 2^k >= count.
    package static func order(for count: Int) -> Int { count <= 1 ? 0 : Int.bitWidth - (count - 1).leadingZeroBitCount }

    /// Marks free blocks as in use. All must be free.
    package mutating func take(_ range: Range<Int>) { change(range, toFree: false) }

    /// Marks blocks in use as free. All must be in use.
    package mutating func give(_ range: Range<Int>) { change(range, toFree: true) }

    private mutating func change(_ range: Range<Int>, toFree: Bool) {
        precondition(!range.isEmpty && range.lowerBound >= 0 && range.upperBound <= bitCount)
        let touched = wordRange(range)
        for index in touched {
            let mask = wordMask(index, range)
            precondition(words[index] & mask == (toFree ? 0 : mask), "a block was taken or given back twice")
            words[index] ^= mask
        }
        freeCount += toFree ? range.count : -range.count
        counts[0] = freeCount
        recompute(above: touched, whole: false)
    }

    /// Brings all levels up to date after words of level 0 have changed. Stops where nothing changes any more.
    private mutating func recompute(above touched: ClosedRange<Int>, whole: Bool) {
        var low = touched.lowerBound, high = touched.upperBound
        for level in 1..<max(counts.count, 1) {
            let below = offsets[level - 1], base = offsets[level]
            low /= 2
            high /= 2
            var difference = 0
            var hasChanged = false
            for index in low...high {
                let first = below + 2 * index
                let upper = first + 1 < base ? Self.pairs(words[first + 1]) : 0
                let value = Self.pairs(words[first]) | upper << 32
                let old = words[base + index]
                guard value != old else { continue }
                words[base + index] = value
                difference += value.nonzeroBitCount - old.nonzeroBitCount
                hasChanged = true
            }
            counts[level] += difference
            if !hasChanged && !whole { return }
        }
    }

    /// Bit n of the result is the AND of bits 2n and 2n + 1.
    private static func pairs(_ word: UInt64) -> UInt64 {
        var bits = word & (word >> 1) & 0x5555_5555_5555_5555
        guard bits != 0 else { return 0 }
        bits = (bits | bits >> 1) & 0x3333_3333_3333_3333
        bits = (bits | bits >> 2) & 0x0F0F_0F0F_0F0F_0F0F
        bits = (bits | bits >> 4) & 0x00FF_00FF_00FF_00FF
        bits = (bits | bits >> 8) & 0x0000_FFFF_0000_FFFF
        return (bits | bits >> 16) & 0x0000_0000_FFFF_FFFF
    }

    private func firstSet(level: Int, from bit: Int) -> Int? {
        let base = offsets[level], wordCount = offsets[level + 1] - base
        var index = bit / 64
        guard index < wordCount else { return nil }
        var word = words[base + index] & UInt64.max << UInt64(bit % 64)
        while word == 0 {
            index += 1
            guard index < wordCount else { return nil }
            word = words[base + index]
        }
        return index * 64 + word.trailingZeroBitCount
    }
}
