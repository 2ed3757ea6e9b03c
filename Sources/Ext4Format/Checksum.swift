internal import CChecksum

/// CRC-32C as ext4 and jbd2 use it: started from a seed, stored without the final inversion.
package struct CRC32C: Sendable {
    package private(set) var value: UInt32
    package init(seed: UInt32 = .max) { value = seed }

    package mutating func update(_ bytes: RawSpan) {
        value = unsafe bytes.withUnsafeBytes { unsafe jext4_crc32c(value, $0.baseAddress, $0.count) }
    }
    package mutating func update(_ bytes: [UInt8]) { update(unsafe bytes.span.bytes) }
    package mutating func update(littleEndian number: some FixedWidthInteger & BitwiseCopyable) {
        value = unsafe withUnsafeBytes(of: number.littleEndian) { unsafe jext4_crc32c(value, $0.baseAddress, $0.count) }
    }
    package mutating func update(bigEndian number: some FixedWidthInteger & BitwiseCopyable) {
        value = unsafe withUnsafeBytes(of: number.bigEndian) { unsafe jext4_crc32c(value, $0.baseAddress, $0.count) }
    }

    package static func of(_ bytes: RawSpan, seed: UInt32 = .max) -> UInt32 {
        var crc = Self(seed: seed)
        crc.update(bytes)
        return crc.value
    }
}

// The checksum backwards: what a field must hold for the checksum of the whole to stay what it is.
extension CRC32C {
    /// The value before `bytes`, when it is `after` behind them.
    package static func rewind(_ after: UInt32, over bytes: RawSpan) -> UInt32 {
        var value = after
        for offset in (0..<bytes.byteCount).reversed() {
            value = rewindZeros(value, 1) ^ UInt32(bytes[LE<UInt8>(offset)])
        }
        return value
    }

    /// The four bytes, as a little-endian number, that take the checksum from `before` to `after`.
    package static func word(from before: UInt32, to after: UInt32) -> UInt32 { rewindZeros(after, 4) ^ before }

    /// Takes back `count` bytes of zeros. A step forward shifts right, and adds the polynomial where a one fell out:
    /// as its highest bit is set, the highest bit of the value tells whether it did.
    private static func rewindZeros(_ after: UInt32, _ count: Int) -> UInt32 {
        let polynomial: UInt32 = 0x82F6_3B78
        var value = after
        for _ in 0..<8 * count {
            value = value >> 31 == 1 ? (value ^ polynomial) << 1 | 1 : value << 1
        }
        return value
    }
}

/// CRC-32, most significant bit first: jbd2's checksum v1 (`JBD2_CRC32_CHKSUM`).
package func crc32BE(_ bytes: RawSpan, seed: UInt32 = .max) -> UInt32 {
    unsafe bytes.withUnsafeBytes { unsafe jext4_crc32_be(seed, $0.baseAddress, $0.count) }
}

/// CRC-16: the group descriptor checksum of images with gdt_csum and without metadata_csum.
package func crc16(_ bytes: RawSpan, seed: UInt16 = .max) -> UInt16 {
    unsafe bytes.withUnsafeBytes { unsafe jext4_crc16(seed, $0.baseAddress, $0.count) }
}
