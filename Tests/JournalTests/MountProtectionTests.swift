import BlockIO
import Ext4Format
import Foundation
import Testing

/// A volume on a disk that several machines reach (mmp).
@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct MountProtectionTests {
    /// Writes a sequence into the MMP block, with its checksum.
    private func set(_ sequence: UInt32, in image: ImageFile, isChecksumRight: Bool = true) throws {
        let device = try FileDevice(path: image.path, readOnly: false)
        let superBlock = try device.superBlockBytes().withBytes {
            try SuperBlock(decoding: $0, deviceByteCount: device.byteCount)
        }
        let offset = superBlock.mountProtectionBlock * UInt64(superBlock.blockByteCount)
        let block = AlignedBuffer(byteCount: superBlock.blockByteCount)
        try device.read(into: block, at: offset)
        block.withMutableBytes { bytes in
            bytes[LE<UInt32>(4)] = sequence
            bytes.copy(Array("other-node".utf8), at: 0x10)
            bytes.copy(Array("sdz9".utf8), at: 0x50)
            let crc = CRC32C.of(bytes.bytes.extracting(0..<0x3FC), seed: superBlock.checksumSeed)
            bytes[LE<UInt32>(0x3FC)] = isChecksumRight ? crc : ~crc
        }
        try device.write(block, at: offset)
    }

    /// Who replays what another machine has mounted tears its volume down.
    @Test func whatAnotherNodeHasIsNotWritten() throws {
        let (image, _, _) = try dirtyImage(options: ["-O", "mmp"])
        let undoFile = NewPath()
        for sequence: UInt32 in [7, 0xE24D_4D50] {
            try set(sequence, in: image)
            let before = try image.bytes()
            #expect(try replay("show", image.path).status == 0)
            #expect(try replay("plan", image.path).status == 0)
            for words in [["apply"], ["apply", "--undo", undoFile.path]] {
                let refused = try replay(words + [image.path])
                #expect(refused.status == 8 && refused.output.contains("other-node as sdz9"), "\(refused.output)")
            }
            #expect(try image.bytes() == before)
            let copy = NewPath()
            #expect(try replay("apply", "--output", copy.path, image.path).status == 1)
        }
        try set(0xFF4D_4D50, in: image, isChecksumRight: false)
        #expect(try replay("apply", image.path).status == 4)
        try set(0xFF4D_4D50, in: image)
        #expect(try replay("apply", "--undo", undoFile.path, image.path).status == 1)
        try set(7, in: image)
        let before = try image.bytes()
        #expect(try replay("undo", "--force", undoFile.path, image.path).status == 8)
        #expect(try image.bytes() == before)
        try set(0xFF4D_4D50, in: image)
        #expect(try replay("undo", undoFile.path, image.path).status == 1)
    }

    /// The mark of a node that crashed stays where it is: a mount of Linux waits and sees that nobody changes it.
    @Test func theOwnerMayKnowBetter() throws {
        let (image, _, _) = try dirtyImage(options: ["-O", "mmp"])
        try set(7, in: image)
        #expect(try replay("apply", "--ignore-mmp", image.path).status == 1)
        #expect(try replay("apply", image.path).status == 0)
    }
}
