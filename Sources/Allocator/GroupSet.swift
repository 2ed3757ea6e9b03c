/// A set of group numbers that finds the next member from any number on in a few steps.
///
/// 4,096 groups share a chunk, which exists only while it has members: an empty set of a volume of any size is small.
struct GroupSet: Sendable {
    private struct Chunk {
        /// Bit n: word n is not zero.
        var summary: UInt64 = 0
        var words = [UInt64](repeating: 0, count: 64)
    }
    private var chunks: [UInt32: Chunk] = [:]
    /// A bit for each chunk that exists.
    private var top: [UInt64] = []

    mutating func insert(_ group: UInt32) {
        let key = group >> 12, word = Int(group >> 6 & 63)
        chunks[key, default: Chunk()].words[word] |= 1 << UInt64(group & 63)
        chunks[key, default: Chunk()].summary |= 1 << UInt64(word)
        let index = Int(key >> 6)
        while top.count <= index { top.append(0) }
        top[index] |= 1 << UInt64(key & 63)
    }

    mutating func remove(_ group: UInt32) {
        let key = group >> 12, word = Int(group >> 6 & 63)
        guard let old = chunks[key]?.words[word] else { return }
        let new = old & ~(1 << UInt64(group & 63))
        chunks[key]?.words[word] = new
        guard new == 0 else { return }
        chunks[key]?.summary &= ~(1 << UInt64(word))
        guard chunks[key]?.summary == 0 else { return }
        chunks[key] = nil
        top[Int(key >> 6)] &= ~(1 << UInt64(key & 63))
    }

    func contains(_ group: UInt32) -> Bool {
        guard let chunk = chunks[group >> 12] else { return false }
        return chunk.words[Int(group >> 6 & 63)] & 1 << UInt64(group & 63) != 0
    }

    /// The least member that is `group` or more.
    func next(from group: UInt32) -> UInt32? {
        let key = group >> 12
        if let chunk = chunks[key], let bit = Self.next(chunk, from: group & 4095) { return key << 12 | bit }
        var index = Int((key + 1) >> 6)
        guard index < top.count else { return nil }
        var word = top[index] & UInt64.max << UInt64((key + 1) & 63)
        while word == 0 {
            index += 1
            guard index < top.count else { return nil }
            word = top[index]
        }
        let found = UInt32(index * 64 + word.trailingZeroBitCount)
        guard let chunk = chunks[found], let bit = Self.next(chunk, from: 0) else { return nil }
        return found << 12 | bit
    }

    private static func next(_ chunk: Chunk, from bit: UInt32) -> UInt32? {
        let first = Int(bit >> 6)
        let word = chunk.words[first] & UInt64.max << UInt64(bit & 63)
        if word != 0 { return UInt32(first * 64 + word.trailingZeroBitCount) }
        let later = first == 63 ? 0 : chunk.summary & UInt64.max << UInt64(first + 1)
        guard later != 0 else { return nil }
        let index = later.trailingZeroBitCount
        return UInt32(index * 64 + chunk.words[index].trailingZeroBitCount)
    }
}
