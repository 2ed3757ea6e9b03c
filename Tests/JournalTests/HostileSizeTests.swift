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
        try image.put(
            [UInt32](repeating: loop.littleEndian, count: 1024).withUnsafeBytes { Array($0) }, at: UInt64(loop) * 4096)
        try expectShortPlan(of: image)
    }

    /// A super block that names a million groups, whose descriptors are holes.
    @Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func groupsThatAreHolesAreSoonDoneWith() throws {
        let features = "64bit,^metadata_csum,^uninit_bg,^resize_inode,^orphan_file,^flex_bg"
        let image = try ImageFile.make(
            ["-t", "ext4", "-b", "1024", "-g", "256", "-N", "256", "-O", features], size: "4M")
        let file = ImageFile()
        try Data(repeating: 0x5A, count: 1024).write(to: URL(fileURLWithPath: file.path))
        _ = try image.debugfs(["journal_open", "journal_write -b 4000 \(file.path)", "journal_close"])
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: image.path))
        func put(_ value: UInt32, at offset: UInt64) throws {
            try handle.seek(toOffset: 1024 + offset)
            try handle.write(contentsOf: withUnsafeBytes(of: value.littleEndian) { Data($0) })
        }
        // s_inodes_count, s_blocks_count_lo, s_free_inodes_count; 16 inodes and 256 blocks to a group.
        try put(16 << 20, at: 0x0)
        try put(256 << 20 + 1, at: 0x4)
        try put(0, at: 0x10)
        try handle.truncate(atOffset: (256 << 20 + 1) * 1024)
        try handle.close()
        try expectShortPlan(of: image)
    }

    private func expectShortPlan(of image: ImageFile) throws {
        let start = ContinuousClock.now
        let plan = try replay("plan", image.path)
        #expect(plan.status == 0 && ContinuousClock.now - start < Self.bound, "\(plan.output)")
    }
}
