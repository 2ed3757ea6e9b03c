internal import Ext4Format

/// One bit for each block or inode of each group: what the bitmaps of a volume say, or what should stand in them.
struct GroupBits {
    private let wordsPerGroup: Int
    private var words: [UInt64]

    init(groupCount: Int, bitsPerGroup: Int) {
        wordsPerGroup = (bitsPerGroup + 63) / 64
        words = [UInt64](repeating: 0, count: groupCount * wordsPerGroup)
    }

    func contains(_ group: Int, _ bit: Int) -> Bool {
        words[group * wordsPerGroup + bit / 64] >> UInt64(bit % 64) & 1 == 1
    }

    /// Sets the bits of a range of one group; gives the first that was set already.
    mutating func insert(_ group: Int, _ bits: Range<Int>) -> Int? {
        var conflict: Int?
        var bit = bits.lowerBound
        while bit < bits.upperBound {
            let count = min(64 - bit % 64, bits.upperBound - bit)
            let mask = (UInt64.max >> UInt64(64 - count)) << UInt64(bit % 64)
            let index = group * wordsPerGroup + bit / 64
            let twice = words[index] & mask
            if twice != 0, conflict == nil { conflict = bit / 64 * 64 + twice.trailingZeroBitCount }
            words[index] |= mask
            bit += count
        }
        return conflict
    }

    /// Takes over the first `bitCount` bits of a bitmap block; the others of the group stay clear.
    mutating func load(_ bitmap: RawSpan, _ group: Int, bitCount: Int) {
        for bit in stride(from: 0, to: bitCount, by: 8) {
            let index = group * wordsPerGroup + bit / 64
            let kept = UInt8.max >> UInt8(max(0, 8 - (bitCount - bit)))
            words[index] |= UInt64(bitmap[LE<UInt8>(bit / 8)] & kept) << UInt64(bit % 64)
        }
    }

    func count(_ group: Int) -> Int {
        words[group * wordsPerGroup..<(group + 1) * wordsPerGroup].reduce(0) { $0 + $1.nonzeroBitCount }
    }

    /// The first bit of the group that is set here and not in `other`.
    func first(_ group: Int, notIn other: GroupBits) -> Int? {
        for index in group * wordsPerGroup..<(group + 1) * wordsPerGroup {
            let alone = words[index] & ~other.words[index]
            if alone != 0 { return (index - group * wordsPerGroup) * 64 + alone.trailingZeroBitCount }
        }
        return nil
    }

    /// Makes the group what `other` has there.
    mutating func copy(_ group: Int, from other: GroupBits) {
        for index in group * wordsPerGroup..<(group + 1) * wordsPerGroup { words[index] = other.words[index] }
    }
}
