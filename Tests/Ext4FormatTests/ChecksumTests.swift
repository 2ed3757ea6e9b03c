import Ext4Format
import Testing

/// The check values of the CRC catalogue: a wrong table would make every image look corrupt.
@Test func checksumsMatchTheCatalogue() {
    let digits = [UInt8]("123456789".utf8)
    #expect(CRC32C.of(digits.span.bytes) == ~0xE306_9283)
    #expect(crc32BE(digits.span.bytes) == ~0xFC89_1918)
    #expect(crc16(digits.span.bytes, seed: 0) == 0xBB3D)
}
