import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Journal
import Offline
import Testing

/// A path for a file that a command makes; the file goes away with the value.
final class NewPath {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("jext4-\(UUID().uuidString)").path
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// What `apply --undo` does, on a device: the undo file first, then the replay.
func applyWithUndo(
    of image: any BlockDevice, to target: any BlockDevice, undo path: String
) throws(Ext4Error) {
    let volume = try OfflineVolume(on: image)
    guard let journal = volume.journal else { throw .refused("no journal") }
    let plan = try volume.plan(journal)
    let outcome = try volume.outcome(of: plan, journal)
    let writer = UndoWriter(of: outcome.blocks, on: image, blockByteCount: volume.superBlock.blockByteCount)
    try writer.save(to: path, superBlock: try outcome.after.superBlockBytes(), offset: 0)
    try replay(plan, on: target)
}

private func replay(_ plan: RecoveryPlan, on device: any BlockDevice) throws(Ext4Error) {
    let volume = try OfflineVolume(on: device)
    guard let journal = volume.journal else { throw .refused("no journal") }
    _ = try volume.apply(plan, journal)
}

private func replayAnew(_ device: any BlockDevice) throws(Ext4Error) {
    let volume = try OfflineVolume(on: device)
    guard let journal = volume.journal else { throw .refused("no journal") }
    try replay(try volume.plan(journal), on: device)
}

private func undo(_ path: String, on device: any BlockDevice) throws(Ext4Error) {
    let file = try UndoFile(path)
    try file.check(device)
    try file.restore(to: device)
}

/// The n-th write lands in part, and no later one at all.
func powerCut(at ordinal: Int, tornByteCount: Int) -> [FaultyDevice.Fault] {
    [
        FaultyDevice.Fault(.write, ordinal: ordinal, tornByteCount: tornByteCount),
        FaultyDevice.Fault(.write, ordinal: ordinal + 1, isPersistent: true),
    ]
}

/// Runs `body` with a power cut at every write. Answers at how many there was one.
private func cutAtEachWrite(
    of bytes: [UInt8], torn sizes: [Int] = [0, 512], _ body: (FaultyDevice, MemoryDevice) throws -> Void,
    then check: (MemoryDevice) throws -> Void
) throws -> Int {
    for torn in sizes {
        for ordinal in 1... {
            let disk = MemoryDevice(bytes)
            let device = FaultyDevice(disk, faults: powerCut(at: ordinal, tornByteCount: torn))
            do { try body(device, disk) } catch { #expect(error is Ext4Error) }
            try check(disk)
            if device.failureCount == 0 {
                if torn == sizes.last { return ordinal - 1 }
                break
            }
        }
    }
    return 0
}

@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct UndoTests {
    /// An undo file is a promise to be able to go back, by our command and by the one that every system has.
    @Test(arguments: ["1024", "4096"]) func bothUndoCommandsGiveTheImageBack(blockSize: String) throws {
        let (image, _, _) = try dirtyImage(blockSize: blockSize)
        let before = try image.bytes()
        let undo = NewPath()
        #expect(try replay("apply", "--undo", undo.path, image.path).status == 1)
        let applied = try image.copy()
        #expect(try applied.bytes() != before)
        let ours = try replay("undo", "--json", undo.path, image.path)
        #expect(ours.status == 1 && ours.output.contains("{\"type\":\"undone\",\"blocks\":"), "\(ours.output)")
        #expect(try image.bytes() == before)
        let theirs = try E2fsprogs.run(["e2undo", undo.path, applied.path])
        #expect(theirs.status == 0, "\(theirs.output)")
        #expect(try applied.bytes() == before)
    }

    /// A volume inside a disk image: the file says where, for both commands.
    @Test func theUndoFileKnowsTheOffset() throws {
        let volume = try dirtySuperBlockImage()
        let disk = ImageFile()
        let before = [UInt8](repeating: 0xA5, count: 1 << 20) + (try volume.bytes())
        for program in ["jext4", "e2undo"] {
            try Data(before).write(to: URL(fileURLWithPath: disk.path))
            let undo = NewPath()
            #expect(try replay("apply", "--offset", "1048576", "--undo", undo.path, disk.path).status == 1)
            #expect(try disk.bytes() != before)
            let result =
                program == "jext4"
                ? try replay("undo", undo.path, disk.path)
                : try E2fsprogs.run(["e2undo", undo.path, disk.path])
            #expect(result.status == (program == "jext4" ? 1 : 0), "\(result.output)")
            #expect(try disk.bytes() == before)
        }
    }

    /// What e2fsprogs saves can be taken back too: there is one format.
    @Test func anUndoFileOfE2fsckIsTakenBack() throws {
        let image = try dirtySuperBlockImage()
        let before = try image.bytes()
        let undo = NewPath()
        #expect(try image.fsck(["-y", "-E", "journal_only", "-z", undo.path]).status <= 1)
        #expect(try image.bytes() != before)
        let result = try replay("undo", undo.path, image.path)
        #expect(result.status == 1, "\(result.output)")
        #expect(try image.bytes() == before)
    }

    /// A power cut during apply is just when somebody wants to go back.
    @Test(arguments: [false, true]) func everyCrashOfApplyCanBeUndone(hasErrors: Bool) throws {
        let before = try (hasErrors ? erroneousImage() : dirtySuperBlockImage()).bytes()
        let cuts = try cutAtEachWrite(of: before) { device, disk in
            let path = NewPath()
            defer { #expect(throws: Never.self) { try undo(path.path, on: disk) } }
            try applyWithUndo(of: MemoryDevice(before), to: device, undo: path.path)
        } then: {
            #expect($0.bytes == before)
        }
        #expect(cuts >= 4)
    }

    /// And a power cut while going back is followed by going back again.
    @Test func everyCrashOfUndoCanBeRepeated() throws {
        let before = try dirtySuperBlockImage().bytes()
        let path = NewPath()
        let applied = MemoryDevice(before)
        try applyWithUndo(of: MemoryDevice(before), to: applied, undo: path.path)
        let cuts = try cutAtEachWrite(of: applied.bytes) { device, _ in
            try undo(path.path, on: device)
        } then: { disk in
            try undo(path.path, on: disk)
            #expect(disk.bytes == before)
        }
        #expect(cuts >= 4)
    }

    /// Nor must a power cut while going back leave old and new metadata on a volume that looks clean: whoever mounts it
    /// next, before a second try, replays the log first.
    @Test func everyCrashOfUndoIsRepairedByAReplay() throws {
        let before = try LivedImage(size: "4M").image.bytes()
        let path = NewPath()
        let applied = MemoryDevice(before)
        try applyWithUndo(of: MemoryDevice(before), to: applied, undo: path.path)
        let cuts = try cutAtEachWrite(of: applied.bytes) { device, _ in
            try undo(path.path, on: device)
        } then: { disk in
            try replayAnew(disk)
            #expect(disk.bytes == applied.bytes)
        }
        #expect(cuts >= 20)
        let result = ImageFile()
        try Data(applied.bytes).write(to: URL(fileURLWithPath: result.path))
        let check = try result.fsck(["-fn"])
        #expect(check.status == 0, "\(check.output)")
    }

    /// Fast commits too: they are carried out anew on what a cut leaves.
    @Test(
        .enabled(if: E2fsprogs.hasFixtures, E2fsprogs.fixturesNeed),
        arguments: ["fc-create-rename", "fc-unlink-truncate"])
    func crashesOfUndoneFastCommitsAreRepairedByAReplay(name: String) throws {
        let before = try ImageFile.fixture("linux-fast-commit/\(name).img.xz").bytes()
        let path = NewPath()
        let applied = MemoryDevice(before)
        try applyWithUndo(of: MemoryDevice(before), to: applied, undo: path.path)
        let cuts = try cutAtEachWrite(of: applied.bytes, torn: [0]) { device, _ in
            try undo(path.path, on: device)
        } then: { disk in
            let result = ImageFile()
            let again = MemoryDevice(disk.bytes)
            try undo(path.path, on: again)
            #expect(again.bytes == before)
            try replayAnew(disk)
            try Data(disk.bytes).write(to: URL(fileURLWithPath: result.path))
            let check = try result.fsck(["-fn"])
            #expect(check.status == 0, "\(check.output)")
        }
        #expect(cuts >= 4)
    }

    /// Replay is idempotent for the command as well, also when the cut tore the super block in two.
    @Test func everyCrashOfApplyIsFollowedByTheSameReplay() throws {
        let before = try dirtySuperBlockImage().bytes()
        let whole = MemoryDevice(before)
        try replayAnew(whole)
        let cuts = try cutAtEachWrite(of: before) { device, _ in
            try replayAnew(device)
        } then: { disk in
            try replayAnew(disk)
            #expect(disk.bytes == whole.bytes)
        }
        #expect(cuts >= 4)
    }

    /// Old blocks written over newer ones would destroy the volume.
    @Test func anImageThatHasChangedSinceIsLeftAlone() throws {
        let image = try dirtySuperBlockImage()
        let undo = NewPath()
        let old = try image.bytes()[1024..<2048]
        #expect(try replay("apply", "--undo", undo.path, image.path).status == 1)
        try E2fsprogs.run(["tune2fs", "-f", "-L", "later", image.path])
        let later = try image.bytes()
        let result = try replay("undo", undo.path, image.path)
        #expect(result.status == 8 && result.output.contains("does not fit"), "\(result.output)")
        #expect(try image.bytes() == later)
        let stranger = try ImageFile.make(["-t", "ext4", "-b", "1024"], size: "16M")
        #expect(try replay("undo", undo.path, stranger.path).status == 8)
        #expect(try replay("undo", "--force", undo.path, image.path).status == 1)
        #expect(try image.bytes()[1024..<2048] == old)
    }

    /// A mount that a power cut ended differs in needs_recovery alone, as an apply that one ended does; its log has
    /// what was fsynced since.
    @Test func aMountThatWasCutSinceIsLeftAlone() throws {
        let image = try dirtySuperBlockImage()
        let undo = NewPath()
        #expect(try replay("apply", "--undo", undo.path, image.path).status == 1)
        do {
            var options = MountOptions()
            options.manualJournal = true
            let system = try FileSystem.mount(
                on: try FileDevice(path: image.path, readOnly: false, direct: .never), options: options)
            let caller = Caller(uid: 0, gid: 0, umask: 0o022)
            _ = try system.makeDirectory(
                try FileName(Array("later".utf8)), in: .root, mode: 0o755, caller: caller)
            try system.syncAll()
        }
        let later = try image.bytes()
        let result = try replay("undo", undo.path, image.path)
        #expect(result.status == 8 && result.output.contains("does not fit"), "\(result.output)")
        #expect(try image.bytes() == later)
        #expect(try image.fsck(["-p"]).status <= 1)
        #expect(try E2fsprogs.run(["debugfs", "-R", "stat /later", image.path]).output.contains("directory"))
    }

    /// The errors that the last mount recorded past its log are what e2fsck will be asked about.
    @Test func recordedErrorsOutliveTheReplay() throws {
        let image = try erroneousImage()
        let before = try image.bytes()
        let undo = NewPath()
        #expect(try replay("apply", "--undo", undo.path, image.path).status == 1)
        let after = try E2fsprogs.run(["dumpe2fs", "-h", image.path]).output
        for (field, value) in [
            ("Filesystem volume name", "replayed"), ("FS Error count", "3"), ("First error function", "lookup"),
            ("Last error function", "unlink"), ("Filesystem state", "clean with errors"),
        ] {
            let line = after.split(separator: "\n").first { $0.hasPrefix(field + ":") }
            #expect(line?.hasSuffix(" " + value) ?? false, "\(line ?? "no \(field)")")
        }
        #expect(try replay("undo", undo.path, image.path).status == 1)
        #expect(try image.bytes() == before)
    }

    /// An undo file comes from anywhere: its numbers, under right checksums, must not bring the command down.
    @Test func numbersOfAnUndoFileAreNotTrusted() throws {
        let (image, _, _) = try dirtyImage()
        let path = NewPath()
        #expect(try replay("apply", "--undo", path.path, image.path).status == 1)
        let applied = try image.bytes()
        let good = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path.path)))
        func put(_ value: some FixedWidthInteger, at offset: Int, in bytes: inout [UInt8]) {
            for index in 0..<value.bitWidth / 8 {
                bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * index))
            }
        }
        let keyBlock = 2048, firstKey = keyBlock + 16
        for block in [UInt64.max, 1 << 62, 1 << 54, UInt64(applied.count / 1024)] {
            var bad = good
            put(block, at: firstKey, in: &bad)
            put(UInt32(0), at: keyBlock + 4, in: &bad)
            put(CRC32C.of(bad[keyBlock..<keyBlock + 1024].span.bytes), at: keyBlock + 4, in: &bad)
            try Data(bad).write(to: URL(fileURLWithPath: path.path))
            for force in [[], ["--force"]] {
                let result = try replay(["undo"] + force + [path.path, image.path])
                #expect([4, 8].contains(result.status), "block \(block): \(result.status) \(result.output)")
            }
        }
        // Unknown read-only compatible features forbid to use it, as they do e2undo.
        var bad = good
        put(UInt32(1), at: 0x38, in: &bad)
        put(CRC32C.of(bad[0..<0x1FC].span.bytes), at: 0x1FC, in: &bad)
        try Data(bad).write(to: URL(fileURLWithPath: path.path))
        #expect(try replay("undo", "--force", path.path, image.path).status == 4)
        try Data(good).write(to: URL(fileURLWithPath: path.path))
        let large = MemoryDevice(applied, sectorByteCount: 4096), file = try UndoFile(path.path)
        let refusal = Ext4Error.refused(
            "the undo file is in blocks of 1024 bytes, the device in sectors of 4096")
        #expect(throws: refusal) { try file.check(large) }
        #expect(throws: refusal) { try file.restore(to: large) }
        #expect(try image.bytes() == applied && large.bytes == applied)
    }

    /// A damaged undo file is worse than none: it must be noticed before it is used.
    @Test func aDamagedUndoFileWritesNothing() throws {
        let (image, _, _) = try dirtyImage()
        let path = NewPath()
        #expect(try replay("apply", "--undo", path.path, image.path).status == 1)
        let applied = try image.bytes()
        let good = try Data(contentsOf: URL(fileURLWithPath: path.path))
        for place in [0, 9, 0x2C, 0x1FD, 1024 + 56, 2048, 2052, 2048 + 16, 2048 + 26, 3 * 1024 + 100] {
            var bad = good
            bad[place] ^= 0x40
            try bad.write(to: URL(fileURLWithPath: path.path))
            let result = try replay("undo", path.path, image.path)
            #expect(result.status == 4 || result.status == 8, "byte \(place): \(result.output)")
            #expect(try image.bytes() == applied)
        }
        for count in [0, 100, 512, 1024, 2048, 3000, good.count - 1024] {
            try good.prefix(count).write(to: URL(fileURLWithPath: path.path))
            #expect([4, 8].contains(try replay("undo", path.path, image.path).status), "cut to \(count)")
            #expect(try image.bytes() == applied)
        }
    }

    /// Without its undo file the replay must not start.
    @Test func applyKeepsItsHandsOffWhenTheUndoFileCannotBeMade() throws {
        let (image, _, _) = try dirtyImage()
        let before = try image.bytes()
        #expect(try replay("apply", "--undo", "/nonexistent/undo", image.path).status == 8)
        let taken = ImageFile()
        try Data([1]).write(to: URL(fileURLWithPath: taken.path))
        #expect(try replay("apply", "--undo", taken.path, image.path).status == 8)
        #expect(try taken.bytes() == [1])
        #expect(try replay("apply", "--undo", taken.path, "--output", taken.path, image.path).status == 16)
        #expect(try image.bytes() == before)
    }
}

@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct OutputTests {
    /// Somebody who wants to look at what a log holds must not have to risk the only copy of it.
    @Test func applyCanWriteElsewhere() throws {
        let image = try dirtySuperBlockImage()
        let before = try image.bytes()
        let copy = NewPath()
        // Read-only in earnest: not even root's command opens it for writing.
        let reader = try E2fsprogs.run(["chmod", "0444", image.path])
        #expect(reader.status == 0)
        #expect(try replay("apply", "--output", copy.path, image.path).status == 1)
        #expect(try image.bytes() == before)
        let sizes = try [image.path, copy.path].map { path in
            var status = stat()
            try #require(stat(path, &status) == 0)
            return (status.st_size, status.st_blocks)
        }
        #expect(sizes[0].0 == sizes[1].0 && sizes[1].1 * 512 < sizes[1].0 / 2, "the copy is sparse: \(sizes)")
        #expect(try replay("apply", image.path).status == 1)
        let result = try Data(contentsOf: URL(fileURLWithPath: copy.path))
        #expect(try image.bytes() == [UInt8](result))
        #expect(try replay("apply", "--output", copy.path, image.path).status == 8)
    }

    /// A script gets its file whether there was something to replay or not, and none when replay is refused.
    @Test func theCopyIsMadeWheneverTheReplayIs() throws {
        let (image, _, log) = try dirtyImage()
        #expect(try replay("apply", image.path).status == 1)
        let clean = NewPath(), damaged = NewPath()
        #expect(try replay("apply", "--output", clean.path, image.path).status == 0)
        #expect([UInt8](try Data(contentsOf: URL(fileURLWithPath: clean.path))) == (try image.bytes()))
        let bad = try dirtyImage().image
        try bad.put([0], at: log[2] * 1024 + 100)
        #expect(try replay("apply", "--output", damaged.path, bad.path).status == 4)
        #expect(!FileManager.default.fileExists(atPath: damaged.path))
    }
}
