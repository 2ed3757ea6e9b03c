import Ext4Format
import FileSystem
import Testing

/// What must work where no block is left for data: Linux keeps a few blocks for it (`s_resv_clusters`).
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs e2fsprogs")) struct FullVolumeTests {
    private static let caller = Caller(uid: 1000, gid: 1000, umask: 0)

    private func create(_ name: String, _ system: FileSystem) throws -> InodeNumber {
        try system.createFile(FileName(Array(name.utf8)), in: .root, mode: 0o644, caller: Self.caller).inode
    }

    /// Appends until there is no more room; answers the size.
    private func fill(_ file: InodeNumber, _ system: FileSystem, by caller: Caller) -> UInt64 {
        var end: UInt64 = 0
        var pieces = [64 << 10, 4096, 1024].map { [UInt8](repeating: 7, count: $0) }
        while let piece = pieces.first {
            if let count = try? system.write(file, at: end, piece.span.bytes, by: caller) {
                end += UInt64(count)
            } else {
                pieces.removeFirst()
            }
        }
        return end
    }

    /// What fallocate has promised can be written, in any pieces; a file can be cut and punched anywhere.
    @Test(arguments: [[], ["-O", "inline_data"], ["-b", "1024"]], [Caller.root, Self.caller])
    func whatHasItsBlocksNeedsNoMore(_ options: [String], _ caller: Caller) throws {
        let volume = try DirectoryVolume(["-m", "0"] + options)
        try volume.mounted { system in
            let promised = try create("promised", system), filler = try create("filler", system)
            try system.allocate(promised, at: 0, count: 2 << 20, mode: [], by: caller)
            let small = try create("small", system)
            _ = try system.write(small, at: 0, Array("inline".utf8).span.bytes)
            let size = fill(filler, system, by: caller)
            // Who writes is promised a few blocks more for the map.
            #expect(system.statistics().availableBlocks < 8 && size > 10_000_000)
            let four: [UInt8] = [1, 2, 3, 4]
            for offset in stride(from: UInt64(0), to: 2 << 20, by: 8192) {
                #expect(try system.write(promised, at: offset, four.span.bytes, by: caller) == 4)
            }
            var cut = AttributeChanges()
            cut.size = 3
            _ = try system.setAttributes(of: small, cut)
            try system.allocate(filler, at: 40_000, count: 1, mode: [.punchHole, .keepSize], by: caller)
            try system.allocate(filler, at: 50_001, count: 30_000, mode: [.punchHole, .keepSize], by: caller)
            cut.size = size - 100_001
            _ = try system.setAttributes(of: filler, cut)
            #expect(system.statistics().freeBlocks > 0)
        }
    }
}
