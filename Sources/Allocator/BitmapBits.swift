internal import Ext4Format

// Block and inode bitmaps are little-endian: bit n is bit n % 8 of byte n / 8, and so bit n % 64 of 64-bit word n / 64.
// A set bit means in use. Every bitmap is a whole block, so it is a multiple of 8 bytes long.

/// The bits of word `index` that lie in `range` (bit numbers of the whole bitmap).
func wordMask(_ index: Int, _ range: Range<Int>) -> UInt64 {
    let low = max(range.lowerBound - index * 64, 0), high = min(range.upperBound - index * 64, 64)
    guard low < high else { return 0 }
    return (UInt64.max >> UInt64(64 - (high - low))) << UInt64(low)
}

/// The words that a non-empty range of bits touches.
func wordRange(_ bits: Range<Int>) -> ClosedRange<Int> { bits.lowerBound / 64...(bits.upperBound - 1) / 64 }

extension RawSpan {
    /// Whether every bit of the non-empty `range` is `value`. Traps when the range does not lie within the span.
    func areBits(_ range: Range<Int>, _ value: Bool) -> Bool {
        for index in wordRange(range) {
            let mask = wordMask(index, range)
            guard self[LE<UInt64>(index * 8)] & mask == (value ? mask : 0) else { return false }
        }
        return true
    }

    func bit(_ index: Int) -> Bool { self[LE<UInt8>(index / 8)] & 1 << UInt8(index % 8) != 0 }

    /// The first clear bit of `range`, nil when there is none.
    func firstClearBit(in range: Range<Int>) -> Int? {
        guard !range.isEmpty else { return nil }
        for index in wordRange(range) {
            let clear = ~self[LE<UInt64>(index * 8)] & wordMask(index, range)
            if clear != 0 { return index * 64 + clear.trailingZeroBitCount }
        }
        return nil
    }
}

extension MutableRawSpan {
    /// Sets or clears every bit of `range`. Traps when the range does not lie within the span.
    mutating func setBits(_ range: Range<Int>, _ value: Bool) {
        guard !range.isEmpty else { return }
        for index in wordRange(range) {
            let mask = wordMask(index, range), field = LE<UInt64>(index * 8)
            self[field] = value ? self[field] | mask : self[field] & ~mask
        }
    }
}
