import BlockIO
import Ext4Format
import Foundation
import Journal
import Testing

/// Small images that say large things must not cost long times.
@Suite struct HostileSizeTests {
    private static let bound = Duration.seconds(5)

    /// A log in as many pieces as are taken, and a question for each block that it holds.
    @Test func aLogInManyPiecesIsSearchedByHalves() throws {
        let device = MemoryDevice(byteCount: 128 << 20)
        let runs = (0..<65536).map { (start: FSBlock(UInt64(2 * $0)), count: UInt32(1)) }
        let log = try LogArea(device: device, blockByteCount: 1024, runs: runs)
        let time = ContinuousClock().measure {
            for block in 0..<UInt64(131_072) where log.contains(FSBlock(block)) != (block % 2 == 0) {
                Issue.record("block \(block)")
            }
        }
        #expect(time < Self.bound)
    }

    /// A tree of indirect blocks that is one block, which names itself a thousand times.
    @Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func aMapThatLeadsInCirclesEndsSoon() throws {
        let image = try ImageFile.make(
            ["-t", "ext4", "-b", "4096", "-O", "^extent,^metadata_csum,^64bit,^flex_bg"], size: "16M")
        let file = ImageFile()
        try Data(repeating: 0x5A, count: 4096).write(to: URL(fileURLWithPath: file.path))
        let (loop, free) = (UInt32(3900), 3950)
        // Nobody owns the block in the log, so that all inodes are looked at.
        _ = try image.debugfs([
            "write \(file.path) evil", "sif evil block[TIND] \(loop)", "journal_open",
            "journal_write -b \(free) \(file.path)", "journal_close",
        ])
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: image.path))
        try handle.seek(toOffset: UInt64(loop) * 4096)
        try handle.write(contentsOf: [UInt32](repeating: loop.littleEndian, count: 1024).withUnsafeBytes { Data($0) })
        try handle.close()
        let start = ContinuousClock.now
        #expect(try replay("plan", image.path).status == 0)
        #expect(ContinuousClock.now - start < Self.bound)
    }
}
