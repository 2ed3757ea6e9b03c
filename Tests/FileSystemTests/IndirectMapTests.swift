import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Testing

/// Files and directories that are mapped by indirect blocks, as ext2 and ext3 have them. What is written is held
/// against an array, what it takes on disk against the rule of the format, and e2fsck judges each volume.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct IndirectMapTests {
    /// Some kinds of volumes without extents, and one that had none when its file was made.
    struct Kind: Sendable, CustomTestStringConvertible {
        var options: [String]
        var block: Int
        var isMixed = false
        var testDescription: String { options.joined(separator: " ") + (isMixed ? ", then extents" : "") }

        static let ext3 = Kind(options: ["-t", "ext3", "-b", "1024", "-J", "size=4"], block: 1024)
        static let checksums = Kind(
            options: ["-O", "^extent,^64bit,metadata_csum", "-b", "1024", "-J", "size=4"], block: 1024)
        static let twoKilobytes = Kind(options: ["-t", "ext3", "-b", "2048", "-J", "size=4"], block: 2048)
        static let fourKilobytes = Kind(options: ["-O", "^extent,^64bit", "-b", "4096", "-J", "size=4"], block: 4096)
        static let mixed = Kind(
            options: ["-O", "^extent,^64bit", "-b", "1024", "-J", "size=4"], block: 1024, isMixed: true)
        static let all = [ext3, checksums, twoKilobytes, fourKilobytes, mixed]
    }

    static func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    static func make(_ fileSystem: FileSystem, _ text: String) throws -> InodeNumber {
        try fileSystem.createFile(name(text), in: .root, mode: 0o644, caller: DirectoryVolume.caller).inode
    }

    static func write(
        _ fileSystem: FileSystem, _ file: InodeNumber, at offset: Int, _ count: Int, _ byte: UInt8 = 7
    ) throws {
        let bytes = [UInt8](repeating: byte, count: count)
        #expect(try fileSystem.write(file, at: UInt64(offset), bytes.span.bytes) == count)
    }

    private static let extentsFlag: UInt32 = 0x80000

    /// A volume of the kind, with an empty file "f" that has no extents.
    private func volume(_ kind: Kind) throws -> DirectoryVolume {
        let volume = try DirectoryVolume(kind.options)
        try volume.mounted { fileSystem in
            let file = try Self.make(fileSystem, "f")
            #expect(try fileSystem.attributes(of: file).flags & Self.extentsFlag == 0)
        }
        if kind.isMixed { try volume.debugfs("feature extent") }
        return volume
    }

    private func file(_ fileSystem: FileSystem, _ text: String = "f") throws -> InodeNumber {
        try #require(try fileSystem.lookup(Self.name(text), in: .root)).inode
    }

    // MARK: The map against a model

    /// Writes, cuts and holes at offsets that meet all three levels: the file reads as the model does, has exactly the
    /// blocks that the format demands, and says of each hole that it is one.
    @Test(arguments: Kind.all, [false, true]) func filesAreSparseArrays(kind: Kind, outOfPlace: Bool) throws {
        let volume = try volume(kind)
        let seed: UInt64 = 20_261_130
        var options = MountOptions()
        options.outOfPlace = outOfPlace
        var model = SparseModel(block: kind.block, seed: seed)
        try volume.mounted(options: options) { fileSystem in
            let file = try file(fileSystem)
            for step in 0..<800 {
                try model.step(fileSystem, file)
                guard step % 8 == 0 else { continue }
                let sectors = try fileSystem.attributes(of: file).sectorCount
                try #require(sectors == model.sectorCount, "seed \(seed), step \(step), \(model.lastCall)")
                if step % 200 == 0 { try model.compareAll(fileSystem, file) }
            }
        }
        try volume.mounted(options: options) { fileSystem in
            let file = try file(fileSystem)
            try model.compareAll(fileSystem, file)
            #expect(try fileSystem.attributes(of: file).flags & Self.extentsFlag == 0)
            #expect(model.levelsMet == [0, 1, 2, 3], "seed \(seed)")
        }
    }

    /// The end of the map is the end of a file: EFBIG, and nothing has changed.
    @Test(arguments: [Kind.ext3, .checksums]) func aFileEndsWhereItsMapDoes(kind: Kind) throws {
        let volume = try volume(kind)
        try volume.mounted { fileSystem in
            let file = try file(fileSystem)
            let perBlock: UInt64 = 256
            let blockCount = 12 + perBlock + perBlock * perBlock + perBlock * perBlock * perBlock
            let limit = blockCount * 1024
            try Self.write(fileSystem, file, at: Int(limit) - 700, 700)
            #expect(try fileSystem.attributes(of: file).sectorCount == 8)
            #expect(throws: Ext4Error.posix(Errno.fileTooBig)) { try Self.write(fileSystem, file, at: Int(limit), 1) }
            var changes = AttributeChanges()
            changes.size = limit + 1
            #expect(throws: Ext4Error.posix(Errno.fileTooBig)) { try fileSystem.setAttributes(of: file, changes) }
            #expect(try fileSystem.attributes(of: file).size == limit)
            #expect(try fileSystem.seek(file, from: 0, for: true) == limit - 1024)
        }
    }

    /// Without huge_file `i_blocks` counts 2^32 sectors, and the indirect blocks are among them: Linux refuses what is
    /// larger, so nobody could read it there.
    @Test func aFileWithoutHugeFileEndsWhereItsBlocksCanBeCounted() throws {
        let volume = try DirectoryVolume(["-t", "ext3", "-b", "4096", "-J", "size=4"])
        try volume.mounted { fileSystem in
            let file = try Self.make(fileSystem, "f")
            let countable = 1 << 32 / 8 - 1
            var changes = AttributeChanges()
            changes.size = UInt64(countable) * 4096
            #expect(throws: Ext4Error.posix(Errno.fileTooBig)) { try fileSystem.setAttributes(of: file, changes) }
            // One block of a thousand and 24 is an indirect one, and one of a million of two levels.
            changes.size = UInt64(countable - countable / 1024 - countable / 1_048_576 - 4) * 4096
            _ = try fileSystem.setAttributes(of: file, changes)
        }
    }

    /// Unwritten blocks have no form in such a map: Linux answers EOPNOTSUPP, and so do we. Holes can be made.
    @Test func whatNeedsUnwrittenBlocksIsRefused() throws {
        let volume = try volume(.ext3)
        try volume.mounted { fileSystem in
            let file = try file(fileSystem)
            try Self.write(fileSystem, file, at: 0, 400_000)
            for mode in [[], .keepSize, .zeroRange, [.zeroRange, .keepSize]] as [AllocationMode] {
                #expect(throws: Ext4Error.posix(Errno.notSupported)) {
                    try fileSystem.allocate(file, at: 0, count: 100_000, mode: mode)
                }
            }
            try fileSystem.allocate(file, at: 0, count: 400_000, mode: [.punchHole, .keepSize])
            #expect(try fileSystem.attributes(of: file).sectorCount == 2 * 3, "the last block stays")
            #expect(try fileSystem.deviceBlock(of: file, at: 100) == 0)
        }
    }

    // MARK: Much at once

    /// A file in thousands of pieces is cut and deleted in many transactions of a small journal.
    @Test func aFileInPiecesGoesInManyTransactions() throws {
        let volume = try DirectoryVolume(["-t", "ext3", "-b", "1024", "-J", "size=1"])
        try volume.mounted { fileSystem in
            let free = fileSystem.statistics().freeBlocks
            let files = try ["a", "b"].map { try Self.make(fileSystem, $0) }
            for index in 0..<3000 {
                // In turn, so that no block of a file lies behind its last one; and far apart, for many levels.
                for file in files { try Self.write(fileSystem, file, at: index * 5 << 10, 1024) }
            }
            for file in files { try Self.write(fileSystem, file, at: 1 << 33, 1024) }
            var changes = AttributeChanges()
            changes.size = 20 << 10
            _ = try fileSystem.setAttributes(of: files[0], changes)
            #expect(try fileSystem.attributes(of: files[0]).sectorCount == 2 * 5)
            for (file, text) in zip(files, ["a", "b"]) {
                try fileSystem.unlink(Self.name(text), in: .root)
                fileSystem.forget(file, count: 1)
            }
            try fileSystem.syncAll()
            #expect(fileSystem.statistics().freeBlocks == free && !fileSystem.isReadOnly)
        }
    }

    /// ENOSPC is decided before anything is written, the indirect blocks included, and what was refused costs nothing.
    @Test(arguments: [Kind.ext3, .fourKilobytes]) func aFullVolumeStaysSound(kind: Kind) throws {
        let volume = try volume(kind)
        try volume.mounted { fileSystem in
            let free = fileSystem.statistics().freeBlocks
            let file = try file(fileSystem)
            let piece = 37 * 1024 + 11
            var end = 0
            let isFull = { () throws -> Bool in
                do {
                    let bytes = [UInt8](repeating: 9, count: piece)
                    end += try fileSystem.write(file, at: UInt64(end), bytes.span.bytes)
                    return false
                } catch Ext4Error.posix(Errno.noSpace) { return true }
            }
            while try !isFull() {}
            #expect(try fileSystem.attributes(of: file).size == UInt64(end))
            let taken = try fileSystem.attributes(of: file).sectorCount / UInt64(kind.block / 512)
            #expect(fileSystem.statistics().freeBlocks == free - taken)
            #expect(fileSystem.statistics().freeBlocks < UInt64(piece / kind.block + 8), "it was not full yet")
            try fileSystem.unlink(Self.name("f"), in: .root)
            fileSystem.forget(file, count: 2)
            try fileSystem.syncAll()
            #expect(fileSystem.statistics().freeBlocks == free)
        }
    }

    /// A batch is one transaction on such files too.
    @Test func batchesAreCommittedAndDropped() throws {
        let volume = try volume(.ext3)
        let owner = BatchOwner(process: 1, handle: 1)
        try volume.mounted { fileSystem in
            let file = try file(fileSystem)
            try Self.write(fileSystem, file, at: 0, 50_000, 1)
            let sectors = try fileSystem.attributes(of: file).sectorCount
            for (isKept, byte) in [(false, UInt8(2)), (true, 3)] {
                try fileSystem.startBatch(file, owner: owner, by: .root)
                for offset in [0, 12_000, 30_000, 300_000] { try Self.write(fileSystem, file, at: offset, 3000, byte) }
                if isKept {
                    try fileSystem.commitBatch(file, by: .root)
                } else {
                    _ = try fileSystem.abortBatch(file, by: .root)
                    #expect(try fileSystem.attributes(of: file).sectorCount == sectors)
                }
            }
            #expect(try fileSystem.attributes(of: file).size == 303_000)
            var bytes = [UInt8](repeating: 0, count: 40_000)
            var span = bytes.mutableSpan
            var raw = span.mutableBytes
            _ = try fileSystem.read(file, at: 0, into: &raw)
            for start in [0, 12_000, 30_000] {
                #expect([start, start + 2999, start + 3000].map { bytes[$0] } == [3, 3, 1])
            }
        }
    }

    // MARK: Damage

    /// Numbers that lead out of the volume, into its tables or back to themselves are named, and cost no journal.
    @Test(arguments: ["99999999", "1", "itself"]) func wrongNumbersAreNamed(number: String) throws {
        let volume = try volume(.ext3)
        try volume.mounted { fileSystem in try Self.write(fileSystem, file(fileSystem), at: 0, 400_000) }
        if number == "itself" {
            let listing = try volume.debugfs("stat /f")
            let double = try #require(UInt32(listing.firstMatch(of: /\(DIND\):(\d+)/)?.output.1 ?? ""))
            let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: volume.path))
            try handle.seek(toOffset: UInt64(double) * 1024)
            try handle.write(contentsOf: withUnsafeBytes(of: double.littleEndian) { Data($0) })
            try handle.close()
        } else {
            try volume.debugfs("sif /f block[DIND] \(number)")
        }
        try volume.mounted(isSound: false) { fileSystem in
            let file = try file(fileSystem)
            #expect(throws: Ext4Error.self) { try Self.write(fileSystem, file, at: 300 << 10, 10) }
            var changes = AttributeChanges()
            changes.size = 10
            #expect(throws: Ext4Error.self) { try fileSystem.setAttributes(of: file, changes) }
            try Self.write(fileSystem, file, at: 20 << 10, 10)
        }
    }

    /// An indirect block without any number is no damage, and belongs to the file: it goes when the file is cut.
    @Test func indirectBlocksThatHoldNothingGoWithTheFile() throws {
        let volume = try volume(.ext3)
        try volume.mounted { fileSystem in try Self.write(fileSystem, file(fileSystem), at: 300 << 10, 1024) }
        let listing = try volume.debugfs("stat /f")
        let leaf = try #require(UInt64(listing.firstMatch(of: /\(IND\):(\d+)/)?.output.1 ?? ""))
        let data = try #require(listing.firstMatch(of: /\(300\):(\d+)/)?.output.1)
        try volume.debugfs("freeb \(data)")
        try volume.debugfs("sif /f blocks 4")
        let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: volume.path))
        try handle.seek(toOffset: leaf * 1024)
        try handle.write(contentsOf: Data(repeating: 0, count: 1024))
        try handle.close()
        // What is left to mend are the counts of the group.
        try DirectoryVolume.run("sh", ["-c", "e2fsck -fy \(volume.path) || true"])
        try volume.mounted { fileSystem in
            let file = try file(fileSystem)
            #expect(try fileSystem.attributes(of: file).sectorCount == 4)
            var changes = AttributeChanges()
            changes.size = 10
            _ = try fileSystem.setAttributes(of: file, changes)
            #expect(try fileSystem.attributes(of: file).sectorCount == 0)
        }
    }

    /// P6: whatever indirect blocks say, every call ends with an answer, and what is not the file's stays as it was.
    @Test func garbageInMapsIsSurvived() throws {
        let volume = try volume(.ext3)
        try volume.mounted { fileSystem in
            for (file, count) in [(try file(fileSystem), 3000), (try Self.make(fileSystem, "other"), 20_000)] {
                for offset in [0, 290_000, 69_000_000, 90_000_000] {
                    try Self.write(fileSystem, file, at: offset, count)
                }
            }
        }
        let listing = try volume.debugfs("stat /f")
        let nodes = listing.matches(of: /IND\):(\d+)/).compactMap { UInt64($0.output.1) }
        #expect(nodes.count == 6)
        let base = MemoryDevice([UInt8](try #require(FileManager.default.contents(atPath: volume.path))))
        for seed in 0..<60 as Range<UInt64> {
            let disk = OverlayDevice(over: base)
            try Self.damage(nodes, of: disk, seed)
            let fileSystem = try FileSystem.mount(on: disk, options: MountOptions())
            Self.abuse(fileSystem)
            try? fileSystem.unmount()
            var options = MountOptions()
            options.readOnly = true
            let again = try FileSystem.mount(on: disk, options: options)
            #expect(try again.lookup(Self.name("other"), in: .root)?.size == 90_020_000, "seed \(seed)")
        }
    }

    /// Numbers become those of other indirect blocks, of tables, of nothing, or of anything.
    private static func damage(_ nodes: [UInt64], of disk: OverlayDevice, _ seed: UInt64) throws {
        var state = seed
        func next(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        for _ in 0...next(4) {
            let buffer = AlignedBuffer(byteCount: 1024), place = nodes[next(nodes.count)] * 1024
            try disk.read(into: buffer, at: place)
            let slot = 4 * (next(2) == 0 ? next(4) : next(256)), count = next(5) == 0 ? 64 : 1
            let value = [UInt32(nodes[next(nodes.count)]), 0, UInt32(next(65_536)), .max, 1][next(5)]
            buffer.withMutableBytes { bytes in
                for index in 0..<count where slot + 4 * index < 1024 { bytes[LE<UInt32>(slot + 4 * index)] = value }
            }
            try disk.write(buffer, at: place)
        }
    }

    private static func abuse(_ fileSystem: FileSystem) {
        guard let file = try? fileSystem.lookup(name("f"), in: .root)?.inode else { return }
        var bytes = [UInt8](repeating: 1, count: 5000)
        for offset in [0, 289_000, 300_000, 69_000_000, 90_001_000] as [UInt64] {
            var span = bytes.mutableSpan
            var raw = span.mutableBytes
            _ = try? fileSystem.read(file, at: offset, into: &raw)
            _ = try? fileSystem.write(file, at: offset, bytes.span.bytes)
            _ = try? fileSystem.seek(file, from: offset, for: true)
        }
        try? fileSystem.allocate(file, at: 280_000, count: 69_000_000, mode: [.punchHole, .keepSize])
        var changes = AttributeChanges()
        for size in [69_000_500, 290_500, 100] as [UInt64] {
            changes.size = size
            _ = try? fileSystem.setAttributes(of: file, changes)
        }
        try? fileSystem.unlink(name("f"), in: .root)
        fileSystem.forget(file, count: 1)
    }

    // MARK: Directories and symlinks

    /// Directories without extents grow over the first indirect block, are indexed, read by the kernel and removed.
    @Test(arguments: [Kind.ext3, .checksums, .mixed]) func directoriesGrowAndGo(kind: Kind) throws {
        let volume = try DirectoryVolume(kind.options)
        try volume.mounted { fileSystem in
            _ = try fileSystem.directory("d")
            let target = [UInt8](repeating: 0x74, count: 300)
            _ = try fileSystem.makeSymlink(Self.name("long"), in: .root, target: target, caller: DirectoryVolume.caller)
        }
        if kind.isMixed { try volume.debugfs("feature extent") }
        let names = (0..<1500).map { [UInt8]("a-name-of-some-length-\($0)".utf8) }
        try volume.mounted { fileSystem in
            let directory = try fileSystem.directory("d")
            for name in names { try fileSystem.add(name, to: directory) }
            let made = try fileSystem.attributes(of: directory)
            #expect(made.flags & Self.extentsFlag == 0 && made.size > 13 * 1024)
            let new = try fileSystem.attributes(of: Self.make(fileSystem, "new"))
            #expect((new.flags & Self.extentsFlag != 0) == kind.isMixed)
            #expect(try fileSystem.readLink(file(fileSystem, "long")).count == 300)
        }
        if DirectoryVolume.hasKernelMounts {
            let count = try volume.mountedByKernel("ls -f $M/d | wc -l; readlink $M/long | wc -c")
            #expect(count.split(whereSeparator: \.isWhitespace) == ["1502", "301"])
        }
        try volume.mounted { fileSystem in
            let free = fileSystem.statistics().freeBlocks, directory = try fileSystem.directory("d")
            #expect(try Set(fileSystem.names(of: directory)) == Set(names))
            let taken = try fileSystem.attributes(of: directory).sectorCount / 2
            for name in names { try fileSystem.unlink(FileName(name), in: directory) }
            try fileSystem.unlink(Self.name("long"), in: .root)
            fileSystem.forget(directory, count: 1)
            try fileSystem.removeDirectory(Self.name("d"), in: .root)
            try fileSystem.syncAll()
            #expect(fileSystem.statistics().freeBlocks == free + taken + 1)
        }
    }
}

/// What a sparse file should hold, and random calls on it.
private struct SparseModel {
    private let block: Int
    private var blocks: [Int: [UInt8]] = [:]
    private var size = 0, state: UInt64
    private(set) var levelsMet: Set<Int> = []
    private(set) var lastCall = ""
    private var perBlock: Int { block / 4 }

    init(block: Int, seed: UInt64) { (self.block, state) = (block, seed) }

    private mutating func next(_ bound: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int(state >> 33) % bound
    }

    /// The levels above a block of the file, and which block of its part it is.
    private func place(_ block: Int) -> (level: Int, index: Int) {
        if block < 12 { return (0, block) }
        var (level, index, span) = (1, block - 12, perBlock)
        while index >= span { (level, index, span) = (level + 1, index - span, span * perBlock) }
        return (level, index)
    }

    /// What the file has on disk: its blocks, and each indirect block that leads to one.
    var sectorCount: UInt64 {
        var nodes: Set<[Int]> = []
        for number in blocks.keys {
            let (top, index) = place(number)
            var span = 1
            for level in 0..<top {
                span *= perBlock
                nodes.insert([top, level, index / span])
            }
        }
        return UInt64((blocks.count + nodes.count) * (block / 512))
    }

    /// Near the edges between levels and leaves, mostly.
    private mutating func offset() -> Int {
        let edges = [0, 12, 12 + perBlock, 12 + perBlock * 2, 12 + perBlock + perBlock * perBlock]
        var start = edges[next(edges.count)]
        if next(3) == 0 { start += perBlock * next(40) }
        if next(6) == 0 { start += perBlock * perBlock * next(3) }
        return max(0, (start + next(24) - 12) * block + (next(2) == 0 ? 0 : next(block)))
    }

    mutating func step(_ fileSystem: FileSystem, _ file: InodeNumber) throws {
        switch next(20) {
        case 0..<11: try write(fileSystem, file)
        case 11..<15: try punch(fileSystem, file)
        case 15: try truncate(fileSystem, file, to: offset())
        case 16 where next(6) == 0: try truncate(fileSystem, file, to: 0)
        case 17: try fileSystem.syncAll()
        default: try compare(fileSystem, file, from: offset(), 3 * block)
        }
    }

    private mutating func write(_ fileSystem: FileSystem, _ file: InodeNumber) throws {
        let start = offset(), count = 1 + next(next(8) == 0 ? 300_000 : 5 * block)
        lastCall = "write \(count) at \(start)"
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ Int(state >> 40) | 1) }
        let done = try fileSystem.write(file, at: UInt64(start), bytes.span.bytes)
        #expect(done == count)
        for number in start / block...(start + done - 1) / block {
            var content = blocks[number] ?? [UInt8](repeating: 0, count: block)
            let part = max(start, number * block)..<min(start + done, (number + 1) * block)
            content.replaceSubrange(
                part.lowerBound - number * block..<part.upperBound - number * block,
                with: bytes[part.lowerBound - start..<part.upperBound - start])
            blocks[number] = content
            levelsMet.insert(place(number).level)
        }
        size = max(size, start + done)
    }

    private mutating func punch(_ fileSystem: FileSystem, _ file: InodeNumber) throws {
        let start = offset(), end = start + 1 + next(next(6) == 0 ? 400 * block : 8 * block)
        lastCall = "punch \(start)..<\(end)"
        try fileSystem.allocate(file, at: UInt64(start), count: UInt64(end - start), mode: [.punchHole, .keepSize])
        for (number, content) in blocks {
            let part = max(start, number * block)..<max(max(start, number * block), min(end, (number + 1) * block))
            guard !part.isEmpty else { continue }
            var content = content
            let inside = part.lowerBound - number * block..<part.upperBound - number * block
            content.replaceSubrange(inside, with: repeatElement(0, count: inside.count))
            blocks[number] = part.count == block ? nil : content
        }
    }

    private mutating func truncate(_ fileSystem: FileSystem, _ file: InodeNumber, to size: Int) throws {
        lastCall = "truncate \(size)"
        var changes = AttributeChanges()
        changes.size = UInt64(size)
        _ = try fileSystem.setAttributes(of: file, changes)
        blocks = blocks.filter { $0.key * block < size }
        if size % block != 0, size < self.size, let content = blocks[size / block] {
            blocks[size / block] = content.prefix(size % block) + [UInt8](repeating: 0, count: block - size % block)
        }
        self.size = size
    }

    private func compare(_ fileSystem: FileSystem, _ file: InodeNumber, from start: Int, _ count: Int) throws {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        let done = try fileSystem.read(file, at: UInt64(start), into: &raw)
        try #require(done == max(0, min(count, size - start)))
        for index in 0..<done where bytes[index] != blocks[(start + index) / block]?[(start + index) % block] ?? 0 {
            Issue.record("byte \(start + index) after \(lastCall)")
            return
        }
    }

    /// Every block with its neighbours, the size, and where the data begins and ends.
    func compareAll(_ fileSystem: FileSystem, _ file: InodeNumber) throws {
        #expect(try fileSystem.attributes(of: file).size == UInt64(size))
        for number in blocks.keys {
            try compare(fileSystem, file, from: max(0, number - 1) * block, 3 * block)
            let isMapped = try fileSystem.deviceBlock(of: file, at: UInt64(number)) != 0
            #expect(isMapped)
        }
        guard let first = blocks.keys.filter({ $0 * block < size }).min() else { return }
        #expect(try fileSystem.seek(file, from: 0, for: true) == UInt64(first * block))
    }
}
