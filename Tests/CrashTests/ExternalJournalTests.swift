import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Glibc
import Journal
import Synchronization
import Testing

/// A volume of 8 MiB with its journal of 4 MiB on a device of its own, as mke2fs and tune2fs would pair them.
private struct Pair {
    let volume = TemporaryFile("volume")
    let journal = TemporaryFile("journal")
    let block: Int
    static let journalUUID = "6a657874-3400-4a4a-6e6c-680000000001"
    static let volumeUUID = "6a657874-3400-4372-6173-680000000001"

    /// mke2fs pairs block devices only, so debugfs names the journal in the volume, and the user is written by hand.
    init(block: Int, _ features: String = "metadata_csum") throws {
        self.block = block
        try Self.run(
            "mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "\(block)", "-U", Self.journalUUID, journal.path,
            "\(block * 4096 >> 10)k")
        try Self.run(
            "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal,\(features)", "-b", "\(block)", "-U",
            Self.volumeUUID, "-E", "lazy_itable_init=0", volume.path, "8M")
        let commands = TemporaryFile(
            "commands",
            contents: Array("feature has_journal\nssv journal_uuid \(Self.journalUUID)\nssv journal_inum 0\n".utf8))
        try Self.run("debugfs", "-w", "-f", commands.path, volume.path)
        var bytes = journal.contents
        let start = (block == 1024 ? 2 : 1) * block
        try #require(bytes[start..<start + 8] == [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 4])
        bytes.replaceSubrange(start + 0x40..<start + 0x44, with: [0, 0, 0, 1])
        let digits = Array(Self.volumeUUID.filter { $0 != "-" })
        for index in 0..<16 {
            bytes[start + 0x100 + index] = try #require(UInt8(String(digits[2 * index...2 * index + 1]), radix: 16))
        }
        journal.write(bytes)
    }

    static func run(_ words: String...) throws {
        let result = Tools.run(words)
        try #require(result.status == 0, "\(words.joined(separator: " ")): \(result.output)")
    }

    /// e2fsck's view: with `-fy` it replays, with `-fn` it looks.
    func fsck(_ word: String) -> ProgramResult { Tools.run("e2fsck", word, "-j", journal.path, volume.path) }
}

private func options(_ journal: (any BlockDevice)?, readOnly: Bool = false) -> MountOptions {
    var options = MountOptions.deterministic()
    options.journalDevice = journal
    options.readOnly = readOnly
    return options
}

/// Files made, synced, removed; enough for the log to go round. Not unmounted: what follows is a power cut.
private func work(_ system: FileSystem, rounds: Int) throws {
    let caller = Caller(uid: 0, gid: 0, umask: 0)
    for round in 0..<rounds {
        let file = try system.createFile(
            try FileName(Array("file \(round)".utf8)), in: .root, mode: 0o100644, caller: caller)
        let content = [UInt8](repeating: UInt8(truncatingIfNeeded: round), count: 3000)
        _ = try system.write(file.inode, at: 0, content.span.bytes)
        try system.sync(file.inode, dataOnly: false)
        system.forget(file.inode, count: 1)
        if round >= 20 { try system.unlink(try FileName(Array("file \(round - 20)".utf8)), in: .root) }
    }
    try system.syncAll()
}

/// What a journal on its own device holds after a power cut comes back, by us and by e2fsck alike.
@Test(arguments: [1024, 4096]) func anExternalJournalIsReplayed(block: Int) throws {
    // The super block lies elsewhere there, positions count from the start of the device, and the UUIDs must fit.
    let pair = try Pair(block: block)
    let volume = MemoryDevice(pair.volume.contents), journal = MemoryDevice(pair.journal.contents)
    let before = journal.bytes
    try work(try FileSystem.mount(on: volume, options: options(journal)), rounds: 400)
    #expect(journal.bytes[0..<2048] == before[0..<2048], "the super block of the device itself was written")

    pair.volume.write(volume.bytes)
    pair.journal.write(journal.bytes)
    let system = try FileSystem.mount(on: volume, options: options(journal))
    let ours = try CapturedTree(reading: system)
    #expect(ours.nodes.count >= 20)
    try system.unmount()

    let replay = pair.fsck("-fy")
    #expect(replay.status <= 1 && replay.output.contains("recovering journal"), "\(replay.output)")
    let theirs = try FileSystem.mount(
        on: MemoryDevice(pair.volume.contents), options: options(MemoryDevice(pair.journal.contents)))
    #expect(try CapturedTree(reading: theirs) == ours)
    pair.volume.write(volume.bytes)
    pair.journal.write(journal.bytes)
    let check = pair.fsck("-fn")
    #expect(check.status == 0, "\(check.output)")
}

/// A dirty volume without its journal is refused, and so is any other journal; a clean one can be looked at.
@Test func aVolumeTakesItsOwnJournalOnly() throws {
    // A foreign log replayed into a volume destroys it; a log left out loses what was synced.
    let pair = try Pair(block: 1024)
    let clean = MemoryDevice(pair.volume.contents)
    let journal = pair.journal.contents
    func message(_ volume: [UInt8], _ journal: [UInt8]?, readOnly: Bool = false) -> String? {
        do throws(Ext4Error) {
            let device = journal.map { MemoryDevice($0) }
            _ = try FileSystem.mount(on: MemoryDevice(volume), options: options(device, readOnly: readOnly))
            return nil
        } catch { return error.description }
    }
    #expect(message(clean.bytes, nil)?.contains("-o journal_dev=PATH") == true)
    #expect(message(clean.bytes, nil, readOnly: true) == nil)
    #expect(message(clean.bytes, clean.bytes)?.contains("not an ext4 journal device") == true)
    var foreign = journal
    foreign[1024 + 0x68] ^= 1
    #expect(message(clean.bytes, foreign)?.contains("UUID") == true)
    foreign = journal
    foreign[2048 + 0x100] ^= 1
    #expect(message(clean.bytes, foreign)?.contains("another volume") == true)
    foreign = journal
    foreign[2048 + 0x43] = 2
    #expect(message(clean.bytes, foreign)?.contains("another volume") == true)
    foreign = journal
    foreign[1024 + 0x18] = 2
    #expect(message(clean.bytes, foreign)?.contains("block size") == true)
    // A log that covers its own super block would write a transaction over it.
    foreign = journal
    #expect(foreign[2048 + 0x17] == 3)
    foreign[2048 + 0x17] = 2
    #expect(message(clean.bytes, foreign)?.contains("first block 2") == true)
    #expect(message(try TestVolume.small.make(), journal)?.contains("on the volume itself") == true)
    #expect(message(clean.bytes, journal) == nil)
    // Nobody has unmounted it.
    let dirty = MemoryDevice(clean.bytes), log = MemoryDevice(journal)
    try work(try FileSystem.mount(on: dirty, options: options(log)), rounds: 3)
    #expect(message(dirty.bytes, nil, readOnly: true)?.contains("-o journal_dev=PATH") == true)
    #expect(message(dirty.bytes, log.bytes, readOnly: true) == nil)
}

/// Blocks smaller than a sector cannot be written, on the volume or on its journal's device: both are refused.
@Test func blocksSmallerThanASectorAreRefused() throws {
    // 1 KiB blocks copied to a disk with 4 KiB sectors: whatever cannot be done must be said, not trapped on.
    func expectRefusal(_ body: () throws(Ext4Error) -> Void) {
        do throws(Ext4Error) {
            try body()
            Issue.record("not refused")
        } catch {
            guard case .refused(let why) = error, why.contains("1024"), why.contains("4096") else {
                Issue.record("\(error)")
                return
            }
        }
    }
    let bytes = try TestVolume.small.make()
    let volume = MemoryDevice(bytes, sectorByteCount: 4096)
    for readOnly in [false, true] {
        expectRefusal { () throws(Ext4Error) in
            _ = try FileSystem.mount(on: volume, options: options(nil, readOnly: readOnly))
        }
    }
    expectRefusal { () throws(Ext4Error) in _ = try OfflineVolume(on: volume) }
    #expect(volume.bytes == bytes)

    let pair = try Pair(block: 1024)
    let small = MemoryDevice(pair.volume.contents)
    let journal = MemoryDevice(pair.journal.contents, sectorByteCount: 4096)
    expectRefusal { () throws(Ext4Error) in _ = try FileSystem.mount(on: small, options: options(journal)) }
    expectRefusal { () throws(Ext4Error) in _ = try OfflineVolume(on: small, journalDevice: journal) }
    // Blocks of whole sectors are fine.
    let fitting = MemoryDevice(try TestVolume.large.make(), sectorByteCount: 4096)
    try FileSystem.mount(on: fitting, options: options(nil)).unmount()
}

/// A log may name every block of the volume's device: the volume may have grown while the log was written.
@Test func aJournalElsewhereReachesTheWholeDevice() throws {
    let pair = try Pair(block: 1024)
    let bytes = pair.volume.contents
    let volume = MemoryDevice(bytes + [UInt8](repeating: 0, count: 1 << 20))
    let offline = try OfflineVolume(on: volume, journalDevice: MemoryDevice(pair.journal.contents))
    #expect(offline.journal?.target.blockCount == UInt64(bytes.count >> 10) + 1024)
}

/// Who hears of the writes of two devices in one order.
private final class Witness: Sendable {
    struct State {
        /// Writes to the volume, and to the log, that no flush of that device has covered.
        var volume = 0
        var log = 0
        var commits = 0
        var tails = 0
        var faults: [String] = []
    }
    let state = Mutex(State())

    final class Side: DeviceRecorder {
        let witness: Witness
        let superBlock: UInt64?
        init(_ witness: Witness, logSuperBlock: UInt64?) {
            self.witness = witness
            superBlock = logSuperBlock
        }
        func submitted(_ request: DeviceRequest) -> UInt64 {
            witness.state.withLock { state in
                switch (request, superBlock) {
                case (.write, nil): state.volume += 1
                case (.flush, nil): state.volume = 0
                case (.flush, _): state.log = 0
                case (.write(let offset, _, .throughToMedia), let superBlock?) where offset == superBlock:
                    state.tails += 1
                    // Before the first commit there is nothing in the log that homes could wait for.
                    let isUsed = state.commits > 0
                    if isUsed && state.volume > 0 { state.faults.append("the tail moved over unflushed homes") }
                case (.write(_, _, .throughToMedia), _):
                    state.commits += 1
                    if state.volume > 0 { state.faults.append("a commit before the flush of its data") }
                    if state.log > 0 { state.faults.append("a commit before the flush of its log blocks") }
                case (.write, _): state.log += 1
                case (.discard, _): break
                }
            }
            return 0
        }
        func completed(_ ticket: UInt64, succeeded: Bool) {}
        func marked(_ label: String) {}
    }
}

/// Each of the two devices is flushed before a commit block and before the tail moves.
@Test func bothDevicesAreFlushedInOrder() throws {
    // Scenario J11: a flush of the journal's device says nothing about the data on the other one.
    let pair = try Pair(block: 1024)
    let witness = Witness()
    let volume = RecordingDevice(
        MemoryDevice(pair.volume.contents), recorder: Witness.Side(witness, logSuperBlock: nil))
    let journal = RecordingDevice(
        MemoryDevice(pair.journal.contents), recorder: Witness.Side(witness, logSuperBlock: 2048))
    let system = try FileSystem.mount(on: volume, options: options(journal))
    // The write that sets needs_recovery goes through to the medium by itself.
    witness.state.withLock { $0.volume = 0 }
    try work(system, rounds: 600)
    try system.unmount()
    let seen = witness.state.withLock { $0 }
    #expect(seen.faults == [])
    #expect(seen.commits > 500 && seen.tails > 2)
}

/// Linux mounts our dirty volume with its journal device, and we mount what Linux leaves when the power goes.
@Test(.enabled(if: Need.loopMounts, "needs root and loop devices")) func linuxSharesAnExternalJournal() throws {
    // P4 for volumes whose log lies elsewhere.
    let pair = try Pair(block: 4096)
    let volume = MemoryDevice(pair.volume.contents), journal = MemoryDevice(pair.journal.contents)
    try work(try FileSystem.mount(on: volume, options: options(journal)), rounds: 50)
    pair.volume.write(volume.bytes)
    pair.journal.write(journal.bytes)
    let expected = try CapturedTree(reading: try FileSystem.mount(on: volume, options: options(journal)))

    let loop = Tools.run("losetup", "-f", "--show", pair.journal.path).output.filter { !$0.isWhitespace }
    try #require(loop.hasPrefix("/dev/loop"), "\(loop)")
    defer { _ = Tools.run("losetup", "-d", loop) }
    let folder = TemporaryFile.newPath("mount")
    try #require(mkdir(folder, 0o700) == 0)
    defer { rmdir(folder) }
    try Pair.run("mount", "-t", "ext4", "-o", "loop,journal_path=\(loop)", pair.volume.path, folder)
    try Pair.run("mkdir", folder + "/from linux")
    try Pair.run("sync", "-f", folder)
    // The shutdown ioctl: nothing more is written, as by a power cut.
    let directory = open(folder, O_RDONLY)
    var flag: UInt32 = 2
    #expect(ioctl(directory, 0x8004_587D, &flag) == 0)
    close(directory)
    try Pair.run("umount", folder)
    try Pair.run("sync", pair.volume.path, pair.journal.path)
    let system = try FileSystem.mount(
        on: MemoryDevice(pair.volume.contents), options: options(MemoryDevice(pair.journal.contents)))
    #expect(try system.lookup(FileName(Array("from linux".utf8)), in: .root) != nil)
    for number in 40..<50 {
        #expect(try system.lookup(FileName(Array("file \(number)".utf8)), in: .root) != nil)
    }
    #expect(expected.nodes.count > 20)
    try system.unmount()
}
