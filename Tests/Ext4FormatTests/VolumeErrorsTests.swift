import Ext4Format
import Testing

/// The error records of the super block, and the two writes that bring them there without the journal.
@Suite struct VolumeErrorsTests {
    static let byteCount = SuperBlock.byteCount

    /// A super block of any content with a right checksum.
    private func superBlock(_ seed: UInt8) -> [UInt8] {
        var bytes = (0..<Self.byteCount).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ Int(seed)) }
        for offset in 0x194..<0x200 { bytes[offset] = 0 }
        for offset in 0x278..<0x27C { bytes[offset] = 0 }
        change(&bytes) { SuperBlock.updateChecksum(&$0) }
        return bytes
    }

    private func change(_ bytes: inout [UInt8], _ body: (inout MutableRawSpan) -> Void) {
        bytes.withUnsafeMutableBytes { memory in
            var span = MutableRawSpan(_unsafeStart: memory.baseAddress!, byteCount: memory.count)
            body(&span)
        }
    }

    private func hasRightChecksum(_ bytes: [UInt8]) -> Bool {
        SuperBlock.checksum(of: bytes.span.bytes) == bytes.span.bytes[LE<UInt32>(SuperBlock.checksumOffset)]
    }

    private func event(_ number: UInt64, code: VolumeErrors.Code = .io) -> VolumeErrors.Event {
        VolumeErrors.Event(
            seconds: 1 << 33 + number, inode: 11 + UInt32(number), block: 1 << 40 + number,
            function: "a name that is longer than its field", line: 7, code: code)
    }

    /// What e2fsck and the kernel read must be what was meant, and a name must keep its NUL.
    @Test func recordsComeBack() {
        var errors = VolumeErrors()
        errors.add(event(1))
        errors.add(event(2, code: .corrupted))
        var bytes = superBlock(3)
        change(&bytes) { errors.encode(into: &$0) }
        let read = VolumeErrors(decoding: bytes.span.bytes)
        #expect(read.count == 2 && read.first?.seconds == 1 << 33 + 1 && read.last?.code == .corrupted)
        #expect(read.first?.inode == 12 && read.last?.block == 1 << 40 + 2 && read.last?.line == 7)
        #expect(read.first?.function == "a name that is longer than its ")
        #expect(read.last?.function == "a name that is longer than ")
        #expect(bytes[0x1C7] == 0 && bytes[0x1FB] == 0)
        #expect(bytes[0x3A] & 2 == 2)
    }

    /// P5 without a brick: e2fsck gives a volume of one group up when its super block's checksum is wrong, so whatever
    /// of the two writes reaches the medium must have a right one.
    @Test(arguments: 0..<64 as Range<UInt8>) func noTornRecordIsEverFound(seed: UInt8) {
        var errors = VolumeErrors()
        for number in 0...UInt64(seed % 3) { errors.add(event(number &* 77 &+ UInt64(seed))) }
        let old = superBlock(seed)
        var middle = old
        change(&middle) { errors.encodeFirstSector(into: &$0, hasChecksum: true) }
        #expect(middle[512...] == old[512...] && middle[..<512] != old[..<512] && hasRightChecksum(middle))
        var new = middle
        change(&new) { errors.encodeSecondSector(into: &$0, hasChecksum: true) }
        #expect(new[..<512] == middle[..<512] && new[512...] != middle[512...] && hasRightChecksum(new))
        #expect(VolumeErrors(decoding: new.span.bytes).count == errors.count)
        #expect(VolumeErrors(decoding: new.span.bytes).last?.code == .io)
        #expect(new[0x3A] & 2 == 2)
    }

    /// A count that wraps to 0 would say that all is well.
    @Test func theCountStops() {
        var errors = VolumeErrors()
        errors.count = .max
        errors.add(event(1))
        #expect(errors.count == .max)
    }

    /// The checksum backwards, against the checksum forwards.
    @Test func aChecksumCanBeRewoundAndSteered() {
        let bytes = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let after = CRC32C.of(bytes.span.bytes, seed: 0x1234_5678)
        #expect(CRC32C.rewind(after, over: bytes.span.bytes) == 0x1234_5678)
        var crc = CRC32C(seed: 0xCAFE_F00D)
        crc.update(littleEndian: CRC32C.word(from: 0xCAFE_F00D, to: 0x0BAD_5EED))
        #expect(crc.value == 0x0BAD_5EED)
    }
}
