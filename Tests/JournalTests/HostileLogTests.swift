import BlockIO
import CrashLab
import Ext4Format
import Foundation
import Testing

/// Logs and images that are made to end the process get an answer that names the fault.
@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct HostileLogTests {
    private static func log(_ writes: [(offset: UInt64, bytes: [UInt8])]) throws -> ImageFile {
        let file = ImageFile()
        let writer = try WriteLogWriter(path: file.path, sectorByteCount: 512)
        for (offset, bytes) in writes {
            let write = DeviceRequest.write(offset: offset, bytes: bytes, mode: .throughToMedia)
            writer.completed(writer.submitted(write), succeeded: true)
            writer.completed(writer.submitted(.flush), succeeded: true)
        }
        try writer.close()
        return file
    }

    /// A file with holes holds a payload of any length.
    @Test(arguments: [["log", "lint"], ["crash", "explore", "--size", "4096", "--check", "true {}"]])
    func anEntryOfATebibyteIsRefused(command: [String]) throws {
        let log = try Self.log([(0, [UInt8](repeating: 1, count: 512))])
        // nr_entries of the super block, nr_sectors of the first entry.
        try log.put([1, 0, 0, 0, 0, 0, 0, 0], at: 16)
        try log.put([0, 0, 0, 0x80, 0, 0, 0, 0], at: 512 + 8)
        try #require(truncate(log.path, 1024 + 1 << 40) == 0)
        let answer = try replay(command + [log.path])
        #expect(answer.status == 8 && answer.output.contains("too much to be read at once"), "\(answer.output)")
    }

    @Test func anEmptyDiskIsRefused() throws {
        let base = ImageFile()
        try Data().write(to: URL(fileURLWithPath: base.path))
        let log = try Self.log([(0, [UInt8](repeating: 1, count: 512))])
        let answer = try replay("crash", "explore", "--base", base.path, log.path)
        #expect(answer.status == 8 && answer.output.contains("too short for a disk"), "\(answer.output)")
    }

    /// The log says of itself, while it is in use, that its blocks are larger.
    @Test func aLogThatChangesItsBlockSizeIsDamage() throws {
        let image = try ImageFile.make(["-t", "ext4", "-b", "1024", "-J", "size=1"], size: "16M")
        _ = try image.debugfs(["feature needs_recovery"])
        let place = try #require(try image.debugfs(["bmap <8> 0"]).split(whereSeparator: \.isWhitespace).last)
        let home = try #require(UInt64(place)) * 1024
        var block = Array(try image.bytes()[Int(home)..<Int(home) + 1024])
        func put(_ value: UInt32, _ offset: Int) {
            for index in 0..<4 { block[offset + index] = UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * index)) }
        }
        // struct journal_superblock_s: s_blocksize, s_start, s_feature_incompat (csum v3), s_checksum_type, s_checksum.
        put(65536, 0x0C)
        put(1, 0x1C)
        put(0x10, 0x28)
        block[0x50] = 4
        put(0, 0xFC)
        put(CRC32C.of(block.span.bytes), 0xFC)
        let commit: [UInt8] = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 2, 0, 0, 0, 1] + [UInt8](repeating: 0, count: 1012)
        let log = try Self.log([(home, block), (home + 1024, commit)])
        let answer = try replay("log", "lint", "--base", image.path, log.path)
        #expect(answer.status == 4 && answer.output.contains("block size 65536"), "\(answer.output)")
    }

    /// Damage that the mount does not ask about, and our checker does.
    @Test(arguments: [
        ["sif <12> mode 0100644", "sif <12> links_count 1", "seti <12>", "sif <12> size 0xffffffffffffffff"],
        ["feature -sparse_super"],
        ["set_bg 1 inode_table 0xffffffffffffffff"],
    ])
    func damagedImagesAreExploredAndFollowed(damage: [String]) throws {
        let image = try ImageFile.make(
            ["-t", "ext4", "-b", "1024", "-g", "256", "-N", "5120", "-O", "64bit,^metadata_csum,^uninit_bg,^flex_bg"],
            size: "80M")
        _ = try image.debugfs(damage + ["feature needs_recovery"])
        let log = try Self.log([(70 << 20, [UInt8](repeating: 1, count: 512))])
        for command in [["crash", "explore", "--limit", "1"], ["log", "lint"]] {
            let answer = try replay(command + ["--base", image.path, log.path])
            #expect([0, 4, 8].contains(answer.status), "\(command): \(answer)")
        }
    }
}
