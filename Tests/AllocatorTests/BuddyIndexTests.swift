import Allocator
import Ext4Format
import Testing

/// A small generator, so that a seed decides a test.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// The same map, one Bool per block: slow and plain.
private struct NaiveMap {
    var isFree: [Bool]

    func largestOrder() -> Int? {
        (0..<20).last { order in
            stride(from: 0, through: isFree.count - 1, by: 1 << order).contains { start in
                start + 1 << order <= isFree.count && !isFree[start..<start + 1 << order].contains(false)
            }
        }
    }

    func run(at start: Int, limit: Int) -> Range<Int> {
        var end = start
        while end < isFree.count && end - start < limit && isFree[end] { end += 1 }
        return start..<end
    }
}

@Suite struct BuddyIndexTests {
    /// Two files on one block is the worst that an allocator can do: what is given out is free, whole and known.
    @Test(arguments: [64, 72, 1000, 1024, 4096, 32768], [UInt64](1...3))
    func theIndexAgreesWithAPlainMap(bitCount: Int, seed: UInt64) {
        var random = SeededGenerator(state: seed)
        let bytes = (0..<(bitCount + 63) / 64 * 8).map { _ in UInt8.random(in: 0...255, using: &random) }
        var map = NaiveMap(isFree: (0..<bitCount).map { bytes[$0 / 8] & 1 << UInt8($0 % 8) == 0 })
        var index = BuddyIndex(bitCount: bitCount, used: bytes.span.bytes)
        #expect(index.freeCount == map.isFree.count { $0 })
        var taken: [Range<Int>] = []
        for step in 0..<(bitCount > 4096 ? 60 : 200) {
            if Bool.random(using: &random) || taken.isEmpty {
                let goal = Int.random(in: 0..<bitCount, using: &random)
                let count = Int.random(in: 1...bitCount / 4, using: &random)
                let minimum = Int.random(in: 0...3, using: &random)
                guard let run = index.find(count, near: goal, minimumOrder: minimum) else {
                    #expect(!map.isFree[goal] && map.largestOrder() ?? -1 < minimum, "seed \(seed), step \(step)")
                    continue
                }
                #expect(!run.isEmpty && run.count <= count && !map.isFree[run].contains(false), "seed \(seed)")
                if map.isFree[goal] {
                    #expect(run == map.run(at: goal, limit: count), "seed \(seed), step \(step)")
                } else {
                    let order = min(BuddyIndex.order(for: count), map.largestOrder() ?? 0)
                    #expect(run.count >= min(count, 1 << order), "seed \(seed), step \(step)")
                }
                index.take(run)
                for bit in run { map.isFree[bit] = false }
                taken.append(run)
            } else {
                let run = taken.remove(at: Int.random(in: 0..<taken.count, using: &random))
                index.give(run)
                for bit in run { map.isFree[bit] = true }
            }
            #expect(index.freeCount == map.isFree.count { $0 }, "seed \(seed), step \(step)")
            #expect(index.largestOrder == map.largestOrder(), "seed \(seed), step \(step)")
        }
        for bit in 0..<bitCount { #expect(index.isFree(bit) == map.isFree[bit]) }
    }

    /// A file that grows in steps stays in one extent when what follows it is free.
    @Test func aRunContinuesAtItsGoal() {
        var index = BuddyIndex(bitCount: 32768, used: [UInt8](repeating: 0, count: 4096).span.bytes)
        var goal = 1001
        for _ in 0..<40 {
            guard let run = index.find(256, near: goal, minimumOrder: 8) else { break }
            #expect(run == goal..<goal + 256)
            index.take(run)
            goal = run.upperBound
        }
        #expect(goal == 1001 + 40 * 256)
    }

    /// Crumbs before an aligned chunk would never be used by large files: a run begins where the free space begins.
    @Test func aRunStartsWhereItsFreeSpaceStarts() {
        var index = BuddyIndex(bitCount: 4096, used: [UInt8](repeating: 0, count: 512).span.bytes)
        index.take(0..<4096)
        index.give(101..<900)
        #expect(index.find(256, near: 0, minimumOrder: 8) == 101..<357)
        #expect(index.largestOrder == 8)
        #expect(index.find(2000, near: 50, minimumOrder: 0) == 101..<900)
        #expect(index.find(16, near: 3000, minimumOrder: 10) == nil)
    }
}
