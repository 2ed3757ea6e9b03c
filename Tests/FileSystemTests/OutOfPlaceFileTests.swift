import BlockIO
import Ext4Format
import FileSystem
import Testing

/// Overwrites to new blocks, and batches, on a mounted volume; e2fsck looks at it afterwards.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct OutOfPlaceFileTests {
    private static let owner = BatchOwner(process: 4711, handle: 1)
    private static let other = BatchOwner(process: 4712, handle: 2)
    private static let user = Caller(uid: 1000, gid: 1000, umask: 0)

    private func makeFile(_ fileSystem: FileSystem, _ text: String = "f") throws -> InodeNumber {
        try fileSystem.createFile(
            FileName([UInt8](text.utf8)), in: .root, mode: 0o644, caller: DirectoryVolume.caller
        ).inode
    }

    private func write(
        _ fileSystem: FileSystem, _ file: InodeNumber, at offset: Int, _ byte: UInt8, _ count: Int
    ) throws {
        let bytes = [UInt8](repeating: byte, count: count)
        #expect(try fileSystem.write(file, at: UInt64(offset), bytes.span.bytes) == count)
    }

    private func content(_ fileSystem: FileSystem, _ file: InodeNumber) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: Int(try fileSystem.attributes(of: file).size))
        guard !bytes.isEmpty else { return [] }
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        #expect(try fileSystem.read(file, at: 0, into: &raw) == bytes.count)
        return bytes
    }

    private var options: MountOptions {
        var options = MountOptions()
        options.outOfPlace = true
        return options
    }

    /// P7: seeded overwrites of any length give what a byte array gives, and take no block more; past the page cache of
    /// the device as well.
    @Test(arguments: [("1024", .never), ("4096", .never), ("1024", .always)] as [(String, FileDevice.DirectIO)])
    func overwritesGiveWhatAnArrayGives(block: String, direct: FileDevice.DirectIO) throws {
        let volume = try DirectoryVolume(["-b", block])
        try volume.mounted(options: options, direct: direct) { fileSystem in
            let file = try makeFile(fileSystem)
            var model = [UInt8](repeating: 1, count: 300_001)
            try write(fileSystem, file, at: 0, 1, model.count)
            let sectors = try fileSystem.attributes(of: file).sectorCount
            let seed: UInt64 = 5150
            var state = seed
            func next(_ bound: Int) -> Int {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return Int(state >> 33) % bound
            }
            for round in 0..<400 {
                let offset = next(model.count)
                let count = 1 + next(min(model.count - offset, round % 3 == 0 ? 60_000 : 700))
                let byte = UInt8(truncatingIfNeeded: round | 1)
                try write(fileSystem, file, at: offset, byte, count)
                model.replaceSubrange(offset..<offset + count, with: repeatElement(byte, count: count))
            }
            #expect(try content(fileSystem, file) == model, "seed \(seed)")
            let overhead = UInt64(64 << 10) / 512
            #expect(try fileSystem.attributes(of: file).sectorCount <= sectors + overhead)
        }
    }

    /// The attribute of a file decides before the mount does.
    @Test func aFileMaySayWhereItsOverwritesGo() throws {
        let volume = try DirectoryVolume([])
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            #expect(try !fileSystem.writesOutOfPlace(file))
            func set(_ value: String) throws {
                try fileSystem.setExtendedAttribute(
                    FileSystem.outOfPlaceAttribute, of: file, to: [UInt8](value.utf8), create: false, replace: false)
            }
            try set("1")
            #expect(try fileSystem.writesOutOfPlace(file))
            try set("perhaps")
            #expect(try !fileSystem.writesOutOfPlace(file))
            try set("1")
            try fileSystem.removeExtendedAttribute(FileSystem.outOfPlaceAttribute, of: file)
            #expect(try !fileSystem.writesOutOfPlace(file))
        }
        try volume.mounted(options: options) { fileSystem in
            let file = try #require(try fileSystem.lookup(FileName([0x66]), in: .root)).inode
            #expect(try fileSystem.writesOutOfPlace(file))
            try fileSystem.setExtendedAttribute(
                FileSystem.outOfPlaceAttribute, of: file, to: [UInt8(ascii: "0")], create: true, replace: false)
            #expect(try !fileSystem.writesOutOfPlace(file))
        }
    }

    /// Whoever reads the file meets the batch; who drops it has the file of before.
    @Test func aBatchIsSeenAndMayBeDropped() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            try write(fileSystem, file, at: 0, 1, 10_000)
            try fileSystem.allocate(file, at: 20_000, count: 8_000, mode: .keepSize)
            let before = try content(fileSystem, file), free = fileSystem.statistics().freeBlocks
            var model = before
            try fileSystem.startBatch(file, owner: Self.owner, by: .root)
            for (offset, count) in [(500, 3_000), (2_000, 100), (9_900, 200), (21_000, 5_000), (900, 20)] {
                try write(fileSystem, file, at: offset, UInt8(count & 0x7F | 1), count)
                if model.count < offset + count { model += Array(repeating: 0, count: offset + count - model.count) }
                model.replaceSubrange(
                    offset..<offset + count, with: repeatElement(UInt8(count & 0x7F | 1), count: count))
                #expect(try content(fileSystem, file) == model)
            }
            #expect(try fileSystem.abortBatch(file))
            #expect(try content(fileSystem, file) == before)
            #expect(fileSystem.statistics().freeBlocks == free)
            #expect(try !fileSystem.abortBatch(file))
            #expect(throws: Ext4Error.posix(Errno.invalid)) { try fileSystem.commitBatch(file, by: .root) }
        }
    }

    @Test func aBatchIsCommittedOnce() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            try write(fileSystem, file, at: 0, 1, 50_000)
            try fileSystem.startBatch(file, owner: Self.owner, by: .root)
            for page in stride(from: 0, to: 60_000, by: 4_096) { try write(fileSystem, file, at: page, 2, 1_500) }
            let seen = try content(fileSystem, file)
            try fileSystem.commitBatch(file, by: .root)
            #expect(try content(fileSystem, file) == seen)
            #expect(!fileSystem.hasBatches)
        }
    }

    /// One process at a time, an owner of the file, and nobody cuts the file meanwhile. What is left open at the end of
    /// the mount, or with the last name, is dropped.
    @Test func aBatchKeepsOthersAway() throws {
        let volume = try DirectoryVolume([])
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            try write(fileSystem, file, at: 0, 1, 10_000)
            #expect(throws: Ext4Error.posix(Errno.accessDenied)) {
                try fileSystem.startBatch(file, owner: Self.owner, by: Self.user)
            }
            try fileSystem.startBatch(file, owner: Self.owner, by: .root)
            try fileSystem.startBatch(file, owner: Self.owner, by: .root)
            #expect(throws: Ext4Error.posix(Errno.busy)) {
                try fileSystem.startBatch(file, owner: Self.other, by: .root)
            }
            try write(fileSystem, file, at: 0, 2, 10_000)
            var cut = AttributeChanges()
            cut.size = 5
            #expect(throws: Ext4Error.posix(Errno.busy)) { try fileSystem.setAttributes(of: file, cut) }
            #expect(throws: Ext4Error.posix(Errno.busy)) {
                try fileSystem.allocate(file, at: 0, count: 4096, mode: [.punchHole, .keepSize])
            }
            #expect(try !fileSystem.abortBatch(file) { $0.handle == Self.other.handle })
            let gone = try makeFile(fileSystem, "gone")
            try fileSystem.startBatch(gone, owner: Self.owner, by: .root)
            try write(fileSystem, gone, at: 0, 2, 10_000)
            try fileSystem.unlink(FileName([UInt8]("gone".utf8)), in: .root)
            fileSystem.forget(gone, count: 1)
            #expect(fileSystem.hasBatches)
        }
        try volume.mounted { fileSystem in
            let file = try #require(try fileSystem.lookup(FileName([0x66]), in: .root)).inode
            #expect(try content(fileSystem, file) == Array(repeating: 1, count: 10_000))
        }
    }

    /// A mebibyte in more pieces than the journal of the volume can publish at once.
    private func makeScatteredFile() throws -> (DirectoryVolume, InodeNumber) {
        let volume = try DirectoryVolume(["-b", "1024", "-J", "size=1"])
        let file = try volume.mounted { fileSystem in
            let files = [try makeFile(fileSystem), try makeFile(fileSystem, "other")]
            // From the end, so that neither file is given blocks that follow each other.
            for block in (0..<1024).reversed() {
                for file in files { try write(fileSystem, file, at: block * 1024, 1, 1024) }
            }
            return files[0]
        }
        return (volume, file)
    }

    /// What one transaction cannot publish is not taken: a write over many pieces through a small journal is short, and
    /// what it did is there.
    @Test func aWriteThatOneTransactionCannotPublishIsShort() throws {
        let (volume, file) = try makeScatteredFile()
        try volume.mounted(options: options) { fileSystem in
            #expect(try fileSystem.lookup(FileName([0x66]), in: .root)?.inode == file)
            let bytes = [UInt8](repeating: 2, count: 1 << 20)
            var done = 0, callCount = 0
            while done < bytes.count {
                done += try fileSystem.write(file, at: UInt64(done), bytes.span.bytes.extracting(done..<bytes.count))
                callCount += 1
            }
            #expect(callCount > 1)
            #expect(try content(fileSystem, file) == bytes)
            #expect(!fileSystem.isReadOnly)
        }
    }

    /// Nobody sends the rest of a page again: what the kernel writes back is taken whole, in several transactions. When
    /// it keeps the times of files, they stay.
    @Test(arguments: [true, false]) func whatTheKernelWritesBackIsTakenWhole(kernelKeepsTimes: Bool) throws {
        let (volume, file) = try makeScatteredFile()
        var options = options
        options.kernelKeepsTimes = kernelKeepsTimes
        try volume.mounted(options: options) { fileSystem in
            let bytes = [UInt8](repeating: 2, count: 1 << 20)
            let before = try fileSystem.attributes(of: file).modification
            try fileSystem.writeBack(file, at: 0, bytes.span.bytes)
            #expect(try content(fileSystem, file) == bytes)
            #expect(try (fileSystem.attributes(of: file).modification == before) == kernelKeepsTimes)
        }
    }

    /// A batch that one transaction could not publish is refused as it grows, and what it had is kept for the caller to
    /// commit or drop.
    @Test func aBatchHasABound() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-J", "size=1"])
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            try write(fileSystem, file, at: 0, 1, 1 << 20)
            try fileSystem.startBatch(file, owner: Self.owner, by: .root)
            var written = 0, refusal: Ext4Error?
            for page in stride(from: 0, to: 1 << 20, by: 8_192) where refusal == nil {
                do {
                    try write(fileSystem, file, at: page, 2, 1_024)
                    written += 1
                } catch { refusal = error as? Ext4Error }
            }
            #expect(refusal == .posix(Errno.fileTooBig))
            #expect(written > 4)
            try fileSystem.commitBatch(file, by: .root)
            let bytes = try content(fileSystem, file)
            #expect(bytes.count { $0 == 2 } == written * 1_024)
            #expect(!fileSystem.isReadOnly)
        }
    }
}
