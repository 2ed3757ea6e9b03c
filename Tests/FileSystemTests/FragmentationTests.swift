import Ext4Format
import FileSystem
import Testing

/// Where the blocks of growing files go; debugfs counts.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct FragmentationTests {
    /// Eight files that grow by turns, a few KiB at a time: without windows each turn would begin an extent.
    @Test func filesThatGrowSideBySideHaveFewExtents() throws {
        let volume = try DirectoryVolume(["-b", "4096"])
        let piece = [UInt8](repeating: 7, count: 12 << 10), turns = 64
        try volume.mounted { fileSystem in
            let files = try (0..<8).map { number in
                try fileSystem.createFile(
                    FileName([UInt8]("f\(number)".utf8)), in: .root, mode: 0o644, caller: DirectoryVolume.caller
                ).inode
            }
            for turn in 0..<turns {
                for file in files {
                    #expect(try fileSystem.write(file, at: UInt64(turn * piece.count), piece.span.bytes) == piece.count)
                }
            }
        }
        for number in 0..<8 {
            let extents = try volume.debugfs("ex /f\(number)").split(separator: "\n").filter { $0.contains(" - ") }
            // One for the first write, and one each time the file has doubled.
            #expect(extents.count <= 8, "f\(number): \(extents.count)")
        }
    }
}
