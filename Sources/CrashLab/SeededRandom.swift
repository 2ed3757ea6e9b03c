/// SplitMix64: the same seed gives the same numbers on every machine and in every build.
package struct SeededRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// True once in `count` times.
    package mutating func once(in count: Int) -> Bool { Int.random(in: 0..<count, using: &self) == 0 }

    /// `count` different elements of `elements` in their order, or all of them if there are no more.
    package mutating func sample<T>(_ elements: [T], count: Int) -> [T] {
        guard count < elements.count else { return elements }
        return elements.indices.shuffled(using: &self).prefix(count).sorted().map { elements[$0] }
    }
}
