import Ext4Format
import Testing

/// The check values of the CRC catalogue: a wrong table would make every image look corrupt.
@Test func checksumsMatchTheCatalogue() {
    let digits = [UInt8]("123456789".utf8)
    #expect(CRC32C.of(digits.span.bytes) == ~0xE306_9283)
    #expect(crc32BE(digits.span.bytes) == ~0xFC89_1918)
    #expect(crc16(digits.span.bytes, seed: 0) == 0xBB3D)
}

/// Every block is checked in parts, in a way that depends on its size: all must agree with one byte at a time, or a
/// sound volume is refused.
@Test func aChecksumDoesNotDependOnHowItIsCut() {
    let bytes = (0..<70_000).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 7 ^ $0) }
    var slow: [UInt32] = [0xDEAD_BEEF]
    for byte in bytes {
        var crc = CRC32C(seed: slow[slow.count - 1])
        crc.update([byte])
        slow.append(crc.value)
    }
    for count in [0, 1, 7, 8, 1007, 1008, 1009, 1020, 1024, 4079, 4080, 4092, 4096, 5087, 5088, 65_536, 70_000] {
        for start in [0, 3] where start + count <= bytes.count {
            var crc = CRC32C(seed: slow[start])
            crc.update(Array(bytes[start..<start + count]))
            #expect(crc.value == slow[start + count], "\(count) bytes")
        }
    }
}
