/// The hash of a name in a directory index (kernel doc: ext4, "Hash Tree Directories").
///
/// Each algorithm exists twice, since the first machines disagreed on whether a `char` has a sign: names with bytes
/// from 0x80 hash differently. The super block says which one a volume uses.
package struct DirectoryHash: Sendable {
    /// `dx_root_info.hash_version` and `s_def_hash_version`. SipHash (6) comes with casefold and encryption only.
    package enum Version: UInt8, Sendable {
        case legacy = 0
        case halfMD4 = 1
        case tea = 2
    }

    /// What orders names: `major` first, then `minor`.
    package struct Value: Equatable, Sendable {
        /// Even: the lowest bit marks, in an index entry, names that continue from the leaf before.
        package let major: UInt32
        /// 0 always with the legacy hash.
        package let minor: UInt32

        package init(major: UInt32, minor: UInt32) {
            self.major = major
            self.minor = minor
        }
    }

    package let version: Version
    private let isUnsigned: Bool
    private let start: InlineArray<4, UInt32>

    /// `seed` are the four words of `s_hash_seed`; all zero means the constants that MD4 starts from.
    package init(version: Version, isUnsigned: Bool, seed: [UInt32]) {
        self.version = version
        self.isUnsigned = isUnsigned
        start =
            seed.count == 4 && seed.contains { $0 != 0 }
            ? [seed[0], seed[1], seed[2], seed[3]] : [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476]
    }

    /// As `superBlock` sets it up. `s_flags`: 1 signed, 2 unsigned; neither counts as signed, as on the x86 Linux
    /// machines that wrote such volumes.
    package init(version: Version, of superBlock: SuperBlock) {
        self.init(version: version, isUnsigned: superBlock.flags & 2 != 0, seed: superBlock.hashSeed)
    }

    package func value(of name: RawSpan) -> Value {
        var state = start
        let major: UInt32
        var minor: UInt32 = 0
        switch version {
        case .legacy:
            major = legacy(name)
        case .halfMD4:
            for offset in stride(from: 0, to: name.byteCount, by: 32) {
                Self.mixHalfMD4(&state, words(name, from: offset))
            }
            (major, minor) = (state[1], state[2])
        case .tea:
            for offset in stride(from: 0, to: name.byteCount, by: 16) { Self.mixTEA(&state, words(name, from: offset)) }
            (major, minor) = (state[0], state[1])
        }
        // The two highest values say "end of directory" in the kernel's readdir positions.
        let even = major & ~1
        return Value(major: even == 0xFFFF_FFFE ? 0xFFFF_FFFC : even, minor: minor)
    }

    private func character(_ name: RawSpan, _ offset: Int) -> UInt32 {
        let byte = name[LE<UInt8>(offset)]
        return isUnsigned ? UInt32(byte) : UInt32(bitPattern: Int32(Int8(bitPattern: byte)))
    }

    private func legacy(_ name: RawSpan) -> UInt32 {
        var current: UInt32 = 0x12A3_FE2D
        var previous: UInt32 = 0x37AB_E8F9
        for offset in 0..<name.byteCount {
            var next = previous &+ (current ^ (character(name, offset) &* 7_152_373))
            if next & 0x8000_0000 != 0 { next &-= 0x7FFF_FFFF }
            (previous, current) = (current, next)
        }
        return current << 1
    }

    /// Up to 32 bytes of the name from `offset`, four to a word, most significant first. What the name does not fill is
    /// its remaining length, in each byte. TEA takes the first four words, which are the same either way.
    private func words(_ name: RawSpan, from offset: Int) -> InlineArray<8, UInt32> {
        let rest = name.byteCount - offset
        let pad = UInt32(truncatingIfNeeded: rest & 0xFF) &* 0x0101_0101
        var words = InlineArray<8, UInt32>(repeating: pad)
        let count = min(rest, 32)
        for index in 0..<(count + 3) / 4 {
            var word = pad
            for at in 4 * index..<min(4 * index + 4, count) { word = word << 8 &+ character(name, offset + at) }
            words[index] = word
        }
        return words
    }

    /// Three rounds of MD4, eight steps each. A round takes the words in the order of its nibbles, lowest first.
    private static func mixHalfMD4(_ state: inout InlineArray<4, UInt32>, _ words: InlineArray<8, UInt32>) {
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        @inline(__always) func step(
            _ mixed: UInt32, _ order: UInt32, _ index: Int, _ shifts: UInt32, _ constant: UInt32
        ) {
            let word = words[Int(order >> UInt32(4 * index)) & 7]
            let shift = shifts >> UInt32(8 * (index & 3)) & 31
            let sum = a &+ mixed &+ word &+ constant
            (a, b, c, d) = (d, sum << shift | sum >> (32 - shift), b, c)
        }
        for index in 0..<8 { step(d ^ (b & (c ^ d)), 0x7654_3210, index, 0x130B_0703, 0) }
        for index in 0..<8 { step((b & c) &+ ((b ^ c) & d), 0x6420_7531, index, 0x0D09_0503, 0x5A82_7999) }
        for index in 0..<8 { step(b ^ c ^ d, 0x4051_6273, index, 0x0F0B_0903, 0x6ED9_EBA1) }
        state[0] &+= a
        state[1] &+= b
        state[2] &+= c
        state[3] &+= d
    }

    /// Sixteen rounds of TEA with the words as its key.
    private static func mixTEA(_ state: inout InlineArray<4, UInt32>, _ key: InlineArray<8, UInt32>) {
        var (low, high, sum) = (state[0], state[1], UInt32(0))
        for _ in 0..<16 {
            sum &+= 0x9E37_79B9
            low &+= ((high << 4) &+ key[0]) ^ (high &+ sum) ^ ((high >> 5) &+ key[1])
            high &+= ((low << 4) &+ key[2]) ^ (low &+ sum) ^ ((low >> 5) &+ key[3])
        }
        state[0] &+= low
        state[1] &+= high
    }
}
