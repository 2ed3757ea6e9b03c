import Ext4Format
import FileSystem
import Foundation
import Testing

/// Volumes that are sound, or nearly, and once made an operation fail too late: after its first change, which costs the
/// journal, or not at all.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct RobustnessTests {
    private func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    private func create(_ text: String, _ fileSystem: FileSystem) throws -> InodeNumber {
        try fileSystem.createFile(name(text), in: .root, mode: 0o644, caller: DirectoryVolume.caller).inode
    }

    private func write(_ fileSystem: FileSystem, _ file: InodeNumber, at offset: Int, _ count: Int) throws {
        let bytes = [UInt8](repeating: 7, count: count)
        #expect(try fileSystem.write(file, at: UInt64(offset), bytes.span.bytes) == count)
    }

    /// A write that splits many full leaves of the extent tree takes a node for each: they must be promised at begin,
    /// or ioend runs out of them after its first change.
    @Test func aWriteOverManyFullLeavesFindsItsNodes() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try volume.mounted { fileSystem in
            let caller = DirectoryVolume.caller
            let a = try fileSystem.createFile(name("a"), in: .root, mode: 0o644, caller: caller).inode
            let b = try fileSystem.createFile(name("b"), in: .root, mode: 0o644, caller: caller).inode
            // Blocks of two files in turn, so that none joins another; one hole to each leaf of 84.
            for block in 0..<2048 where block % 84 != 40 {
                try write(fileSystem, a, at: block * 1024, 1024)
                try write(fileSystem, b, at: block * 1024, 1024)
            }
            for start in stride(from: 0, to: 2 << 20, by: 1 << 20) { try write(fileSystem, a, at: start, 1 << 20) }
            #expect(!fileSystem.isReadOnly)
        }
    }

    /// Linux keeps the free counts of the super block only roughly: what a mount finds there must not be carried on.
    @Test func wrongFreeCountsAreCountedAnew() throws {
        let volume = try DirectoryVolume(["-O", "^metadata_csum"])
        try volume.debugfs("ssv free_blocks_count 7")
        try volume.debugfs("ssv free_inodes_count 9")
        try volume.mounted { fileSystem in
            #expect(fileSystem.statistics().freeBlocks > 1000)
            _ = try fileSystem.createFile(name("f"), in: .root, mode: 0o644, caller: DirectoryVolume.caller)
        }
    }

    /// Who is refused must not leave the mark of a mount: others would take a clean image for a dirty one.
    @Test(arguments: ["sif <2> mode 0100644", "sif <2> links_count 0", "sif <2> block[0] 0"])
    func aRefusedMountLeavesAnImageAsItWas(_ damage: String) throws {
        let volume = try DirectoryVolume(["-O", "^metadata_csum"])
        try volume.debugfs(damage)
        let before = try Data(contentsOf: URL(fileURLWithPath: volume.path))
        #expect(throws: Ext4Error.self) { try volume.mounted(isSound: false) { _ in } }
        let isSame = try Data(contentsOf: URL(fileURLWithPath: volume.path)) == before
        #expect(isSame)
    }

    /// An attribute block on a volume whose super block says that it has none: what stays of it has nowhere to go.
    @Test func anAttributeBlockWithoutTheFeatureIsDamage() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-I", "128", "-O", "^metadata_csum"])
        try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            for attribute in ["user.a", "user.b"] {
                try fileSystem.setExtendedAttribute(
                    [UInt8](attribute.utf8), of: file, to: [1], create: false, replace: false)
            }
        }
        try volume.debugfs("feature -ext_attr")
        try volume.mounted(isSound: false) { fileSystem in
            let file = try #require(try fileSystem.lookup(name("f"), in: .root)).inode
            #expect(throws: Ext4Error.self) {
                try fileSystem.removeExtendedAttribute([UInt8]("user.a".utf8), of: file)
            }
        }
    }

    /// The data of a file may lie in its slot and nowhere else: a block that says to hold them, too, is not touched.
    @Test func inlineDataInASharedAttributeBlockAreDamage() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-O", "inline_data,^metadata_csum"])
        let source = NSTemporaryDirectory() + "jext4-inline-\(UUID().uuidString)"
        try Data("short".utf8).write(to: URL(fileURLWithPath: source))
        defer { unlink(source) }
        try volume.debugfs("write \(source) f")
        try volume.debugfs("sif f file_acl 9000")
        var block = [UInt8](repeating: 0, count: 1024)
        func put(_ bytes: [UInt8], _ offset: Int) { block.replaceSubrange(offset..<offset + bytes.count, with: bytes) }
        put([0x00, 0x00, 0x02, 0xEA, 2, 0, 0, 0, 1], 0)
        // struct ext4_xattr_entry: "user.zz" and "system.data", four bytes each.
        put([2, 1, 0xFC, 0x03, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0] + Array("zz".utf8), 32)
        put([4, 7, 0xF8, 0x03, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0] + Array("data".utf8), 52)
        try volume.change(at: 9000 * 1024, block.count) { $0 = block }
        try volume.mounted(isSound: false) { fileSystem in
            let file = try #require(try fileSystem.lookup(name("f"), in: .root)).inode
            let bytes = [UInt8](repeating: 7, count: 500)
            #expect(throws: Ext4Error.self) { try fileSystem.write(file, at: 5, bytes.span.bytes) }
        }
    }

    /// All arithmetic on sizes counts on their bound, and a read past the last block must not answer old memory.
    @Test func aSizeThatNoFileHasIsDamage() throws {
        let volume = try DirectoryVolume(["-O", "^metadata_csum"])
        let file = try volume.mounted { fileSystem in
            try create("f", fileSystem)
        }
        try volume.debugfs("sif <\(file.rawValue)> size 0x1000000000000000")
        try volume.mounted(isSound: false) { fileSystem in
            _ = #expect(throws: Ext4Error.self) { try fileSystem.attributes(of: file) }
        }
    }

    /// chattr +i and +a bind whoever serves the volume: the kernel does not look at these flags for FUSE.
    @Test func immutableAndAppendOnlyFilesAreKept() throws {
        let volume = try DirectoryVolume(["-O", "^metadata_csum"]), capability = Array("security.capability".utf8)
        let (fixed, growing) = try volume.mounted { fileSystem in
            let files = try ["fixed", "growing"].map {
                try fileSystem.createFile(name($0), in: .root, mode: 0o644, caller: DirectoryVolume.caller).inode
            }
            for file in files {
                try fileSystem.setExtendedAttribute(capability, of: file, to: [1], create: false, replace: false)
            }
            return (files[0], files[1])
        }
        try volume.debugfs("sif <\(fixed.rawValue)> flags 0x80010")
        try volume.debugfs("sif <\(growing.rawValue)> flags 0x80020")
        try volume.mounted { fileSystem in
            let refused = Ext4Error.posix(Errno.notPermitted)
            #expect(throws: refused) { try write(fileSystem, fixed, at: 0, 1) }
            #expect(throws: refused) { try fileSystem.unlink(name("fixed"), in: .root) }
            #expect(throws: refused) {
                try fileSystem.rename(name("fixed"), in: .root, to: name("moved"), in: .root, flags: [])
            }
            try write(fileSystem, growing, at: 0, 10)
            #expect(throws: refused) { try write(fileSystem, growing, at: 5, 10) }
            var cut = AttributeChanges()
            cut.size = 0
            #expect(throws: refused) { try fileSystem.setAttributes(of: growing, cut) }
            // As in Linux, attributes stay as they are, and so do times, but for a touch and for preallocation where
            // something may be appended.
            var touch = AttributeChanges()
            touch.modification = .now
            touch.access = .now
            #expect(throws: refused) { try fileSystem.setAttributes(of: fixed, touch) }
            _ = try fileSystem.setAttributes(of: growing, touch)
            touch.modification = .to(Timestamp(seconds: 1, nanoseconds: 0))
            #expect(throws: refused) { try fileSystem.setAttributes(of: growing, touch) }
            #expect(throws: refused) { try fileSystem.allocate(fixed, at: 0, count: 4096, mode: .keepSize) }
            try fileSystem.allocate(growing, at: 0, count: 8192, mode: .keepSize)
            #expect(throws: refused) {
                try fileSystem.allocate(growing, at: 0, count: 4096, mode: [.punchHole, .keepSize])
            }
            // The kernel takes it away when something is appended.
            try fileSystem.removeExtendedAttribute(capability, of: growing)
            #expect(throws: refused) { try fileSystem.removeExtendedAttribute(capability, of: fixed) }
            for file in [fixed, growing] {
                #expect(throws: refused) {
                    try fileSystem.setExtendedAttribute(
                        Array("user.a".utf8), of: file, to: [1], create: false, replace: false)
                }
                #expect(throws: refused) { try fileSystem.removeExtendedAttribute(Array("user.a".utf8), of: file) }
            }
        }
    }

    /// P2: what one call changes is in one transaction. A handle is in one.
    @Test func onePunchAndOneSetattrAreOneHandle() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            for index in 0..<40 { try write(fileSystem, file, at: index * 4096, 2048) }
            func handles(_ work: () throws -> Void) throws -> Int {
                try fileSystem.syncAll()
                let before = fileSystem.journalCounters?.handles ?? 0
                try work()
                try fileSystem.syncAll()
                return (fileSystem.journalCounters?.handles ?? 0) - before
            }
            let none = try handles {}
            let punched = try handles {
                try fileSystem.allocate(file, at: 1000, count: 100_000, mode: [.punchHole, .keepSize])
            }
            #expect(punched == none + 1)
            var change = AttributeChanges()
            change.size = 150_000
            change.mode = 0o600
            change.uid = 7
            change.modification = .now
            #expect(try handles { _ = try fileSystem.setAttributes(of: file, change) } == none + 1)
            let found = try fileSystem.attributes(of: file)
            #expect(found.size == 150_000 && found.uid == 7 && found.mode & 0o7777 == 0o600)
        }
    }

    /// fallocate gives blocks without data, and takes data away without the size.
    @Test func preallocatedBlocksReadAsZerosAndGoWithTheFile() throws {
        // The three modes, against what POSIX says of their result; e2fsck judges the extents.
        let volume = try DirectoryVolume(["-b", "4096"])
        try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            try write(fileSystem, file, at: 0, 100_000)
            try fileSystem.allocate(file, at: 200_000, count: 1 << 20, mode: .keepSize)
            #expect(try fileSystem.attributes(of: file).size == 100_000)
            try fileSystem.allocate(file, at: 0, count: 300_000, mode: [])
            #expect(try fileSystem.attributes(of: file).size == 300_000)
            try fileSystem.allocate(file, at: 5_000, count: 20_000, mode: [.punchHole, .keepSize])
            try fileSystem.allocate(file, at: 40_001, count: 7_777, mode: .zeroRange)
            var bytes = [UInt8](repeating: 1, count: 300_000)
            var span = bytes.mutableSpan
            var raw = span.mutableBytes
            #expect(try fileSystem.read(file, at: 0, into: &raw) == 300_000)
            for (index, byte) in bytes.enumerated() {
                let isData = index < 100_000 && !(5_000..<25_000 ~= index) && !(40_001..<47_778 ~= index)
                guard byte == (isData ? 7 : 0) else {
                    Issue.record("byte \(index) is \(byte)")
                    return
                }
            }
        }
    }

    /// A file of single blocks with a hole of 50 to 59, where the first leaf of its tree ends and the second begins.
    private func fileWithTwoLeaves(_ volume: DirectoryVolume) throws -> InodeNumber {
        let file = try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            // From the back, so that no block joins another. A leaf of 84 extents splits with the 85th: the last of
            // the file is left alone, and what comes to the 84 before it halves them.
            for block in (0..<104).reversed() where !(50..<60 ~= block) {
                try write(fileSystem, file, at: block * 1024, 1024)
            }
            return file
        }
        let tree = try volume.debugfs("dump_extents -n <\(file.rawValue)>")
        try #require(tree.contains("    60 -   102"), "\(tree)")
        return file
    }

    private func block(_ number: Int, of file: InodeNumber, _ fileSystem: FileSystem) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 1, count: 1024)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        _ = try fileSystem.read(file, at: UInt64(number) * 1024, into: &raw)
        return bytes
    }

    /// What a damaged leaf says of blocks of another must not be believed by a write that begins between them.
    @Test func aWriteBetweenDamagedLeavesKeepsWhatLiesBefore() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-O", "^metadata_csum"])
        let file = try fileWithTwoLeaves(volume)
        // The key of the second entry of the root: the first leaf holds what lies before block 50.
        try volume.debugfs("sif <\(file.rawValue)> block[6] 50")
        try volume.mounted(isSound: false) { fileSystem throws in
            let bytes = [UInt8](repeating: 9, count: 1024)
            #expect(try fileSystem.write(file, at: 50 * 1024, bytes.span.bytes) == 1024)
            #expect(try block(49, of: file, fileSystem) == [UInt8](repeating: 7, count: 1024))
            #expect(try block(50, of: file, fileSystem) == bytes)
            #expect(try block(51, of: file, fileSystem) == [UInt8](repeating: 0, count: 1024))
        }
    }

    @Test func aLeafThatReachesIntoTheNextIsDamage() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-O", "^metadata_csum"])
        let file = try fileWithTwoLeaves(volume)
        let root = try volume.debugfs("dump_extents -n <\(file.rawValue)>").split(separator: "\n")
        let words = try #require(root.first { $0.contains("  0 -    59") }).split(whereSeparator: \.isWhitespace)
        let leaf = try #require(words.compactMap { Int($0) }.last { $0 > 100 })
        // The length of its last extent, block 49: now it reaches to block 60.
        try volume.change(at: leaf * 1024 + 12 + 49 * 12 + 4, 2) { length in
            #expect(length == [1, 0])
            length = [12, 0]
        }
        try volume.mounted(isSound: false) { fileSystem throws in
            #expect(try block(48, of: file, fileSystem) == [UInt8](repeating: 7, count: 1024))
            #expect(throws: Ext4Error.self) { try block(49, of: file, fileSystem) }
            let bytes = [UInt8](repeating: 9, count: 1024)
            #expect(throws: Ext4Error.self) { try fileSystem.write(file, at: 50 * 1024, bytes.span.bytes) }
        }
    }

    /// What cannot be given back is found before anything has changed: the volume stays writable, and the next mount
    /// too.
    @Test func aDirectoryThatCannotBeFreedStaysAnOrphan() throws {
        let volume = try DirectoryVolume(["-O", "^metadata_csum,^uninit_bg"])
        let gone = try volume.mounted { fileSystem in
            try fileSystem.makeDirectory(name("gone"), in: .root, mode: 0o755, caller: DirectoryVolume.caller).inode
        }
        for group in 0..<8 { try volume.debugfs("set_bg \(group) used_dirs_count 0") }
        for _ in 0..<2 {
            try volume.mounted(isSound: false) { fileSystem in
                if try fileSystem.lookup(name("gone"), in: .root) != nil {
                    try fileSystem.removeDirectory(name("gone"), in: .root)
                    fileSystem.forget(gone, count: 1)
                }
                try fileSystem.syncAll()
                #expect(!fileSystem.isReadOnly)
                _ = try fileSystem.createFile(name(UUID().uuidString), in: .root, mode: 0o644, caller: .root)
            }
        }
    }

    /// P6: extents may map the same blocks again and again, so a small image may claim a directory of any size.
    @Test func aDirectoryLargerThanTheVolumeIsDamage() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-O", "^metadata_csum,^dir_index"])
        let directory = try volume.mounted { fileSystem in
            try fileSystem.makeDirectory(name("d"), in: .root, mode: 0o755, caller: DirectoryVolume.caller).inode
        }
        try volume.debugfs("sif <\(directory.rawValue)> size 0x2000000000")
        try volume.mounted(isSound: false) { fileSystem in
            _ = #expect(throws: Ext4Error.self) { try fileSystem.lookup(name("x"), in: directory) }
        }
    }

    /// e2fsck wants the flag for a file past 2 GiB.
    @Test func aVolumeWithoutLargeFileGetsIt() throws {
        let twoTebibytes: UInt64 = 0x200_0000_0000
        let volume = try DirectoryVolume(["-O", "^large_file,^huge_file"])
        try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            var change = AttributeChanges()
            change.size = 0xC000_0000
            _ = try fileSystem.setAttributes(of: file, change)
            // And without huge_file a file has 2^32 sectors at the most.
            change.size = twoTebibytes
            #expect(throws: Ext4Error.posix(Errno.fileTooBig)) { try fileSystem.setAttributes(of: file, change) }
            #expect(fileSystem.limits.fileByteCount < twoTebibytes)
        }
    }

    /// As in Linux: programs give preallocated blocks back so.
    @Test func truncatingToTheSameSizeFreesWhatLiesBehind() throws {
        let volume = try DirectoryVolume(["-b", "4096"])
        try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            try write(fileSystem, file, at: 0, 5000)
            try fileSystem.allocate(file, at: 0, count: 1 << 20, mode: .keepSize)
            #expect(try fileSystem.attributes(of: file).sectorCount == 2048)
            var change = AttributeChanges()
            change.size = 5000
            _ = try fileSystem.setAttributes(of: file, change)
            #expect(try fileSystem.attributes(of: file).sectorCount == 16)
        }
    }
}
