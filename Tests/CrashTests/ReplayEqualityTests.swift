import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Glibc
import Journal
import Testing

/// Where our replay of a log and e2fsck's may differ, and why. Everything else must be the same byte for byte, but for
/// orphans: see `compare`.
private struct Explained {
    let reason: String
    let ranges: [Range<Int>]

    /// `journal` is the byte where the super block of the journal begins.
    static func all(journal: Int, _ plan: RecoveryPlan) -> [Self] {
        [
            Self(
                reason: "e2fsck notes when it wrote and how much: s_wtime, s_lastcheck, s_kbytes_written, s_checksum",
                ranges: [0x30..<0x34, 0x40..<0x44, 0x178..<0x180, 0x3FC..<0x400].map {
                    1024 + $0.lowerBound..<1024 + $0.upperBound
                }),
            Self(
                reason: "e2fsck takes a sequence number also when there is nothing to replay: s_sequence",
                ranges: plan.isEmpty ? [journal + 0x18..<journal + 0x1C] : []),
            Self(
                reason: "behind damage we go on past all that the log holds, e2fsck with the next number: s_sequence",
                ranges: plan.isDamaged ? [journal + 0x18..<journal + 0x1C] : []),
            Self(
                reason: "e2fsck wants a full check after damage; what we apply is whole, and needs none: s_state",
                ranges: plan.isDamaged ? [1024 + 0x3A..<1024 + 0x3C] : []),
            Self(
                reason: "we say where the ring goes on, as Linux does: s_head and the checksum over it",
                ranges: [0x58..<0x5C, 0xFC..<0x100].map { journal + $0.lowerBound..<journal + $0.upperBound }),
        ]
    }
}

/// The places where two images differ beyond what is explained: sectors, by number.
private func differences(_ ours: [UInt8], _ theirs: [UInt8], _ explained: [Explained]) -> [Int] {
    precondition(ours.count == theirs.count)
    var (a, b) = (ours, theirs)
    for range in explained.flatMap(\.ranges) {
        for index in range { (a[index], b[index]) = (0, 0) }
    }
    return a.withUnsafeBytes { a in
        b.withUnsafeBytes { b in
            guard let mine = a.baseAddress, let theirs = b.baseAddress, memcmp(mine, theirs, a.count) != 0 else {
                return []
            }
            return stride(from: 0, to: a.count, by: 512).filter { memcmp(mine + $0, theirs + $0, 512) != 0 }
                .map { $0 / 512 }
        }
    }
}

/// Replays a copy by ourselves and one by e2fsck. Nil when there is nothing to replay; else what differs.
private func compare(
    _ state: OverlayDevice, image: TemporaryFile, last: TransactionID? = nil
) throws -> (sectors: [Int], plan: RecoveryPlan)? {
    image.write(try contents(state))
    let ours = state.fork()
    let volume = try OfflineVolume(on: ours)
    let journal = try #require(volume.journal)
    var options = RecoveryOptions()
    options.last = last
    let plan = try volume.plan(journal, options: options)
    #expect(plan.isDamaged == (last != nil), "\(plan.end)")
    guard !plan.isEmpty || volume.needsRecovery else { return nil }
    _ = try volume.apply(plan, journal)
    let replay = Tools.run("e2fsck", "-y", "-E", "journal_only", image.path)
    #expect(replay.status <= 1, "\(replay.output)")
    let first = Int(journal.log.home(of: 0).rawValue) * volume.superBlock.blockByteCount
    let theirs = image.contents
    image.write(try contents(ours))
    if replay.output.contains("orphan") {
        // We leave orphans to the next mount, as e2fsck's own manual page says of journal_only. It finishes them.
        let rest = Tools.run("e2fsck", "-y", "-E", "journal_only", image.path)
        #expect(rest.status <= 1 && rest.output.contains("orphan"), "\(rest.output)")
    }
    let explained = Explained.all(journal: first, plan)
    return (differences(image.contents, theirs, explained), plan)
}

/// P4 to the byte: what comes of a log is the same by our hand and by e2fsck's.
@Suite(.serialized, .enabled(if: Need.sharedFixtures, "needs the shared fixtures"))
struct ReplayEqualityTests {
    /// At the writes that Linux sent through to the medium: all of them in a soak, a sample otherwise.
    @Test(arguments: KernelWriteLogTests.fixtures)
    func linuxLogsEndAsWithE2fsck(fixture: KernelWriteLogTests.Fixture) throws {
        // A difference is a block that one of the two has lost, or has written without being asked.
        let disk = OverlayDevice(over: MemoryDevice(byteCount: fixture.byteCount))
        var reader = try WriteLogReader(on: try fixture.load())
        _ = try reader.apply(until: .mark("mounted"), onto: disk)
        let image = TemporaryFile("image")
        var seen = 0, compared = 0
        while let entry = try reader.apply(until: .flag(.throughToMedia), onto: disk) {
            seen += 1
            guard Need.isSoak || seen % 25 == 5 else { continue }
            guard let (sectors, _) = try compare(disk, image: image) else { continue }
            compared += 1
            #expect(sectors.isEmpty, "entry \(entry.index): sectors \(sectors.prefix(20)) differ")
        }
        #expect(compared > 1, "\(seen) writes through, \(compared) logs to replay")
    }

    /// What we write ourselves, as power cuts leave it: whole, torn, and with the super block among it.
    @Test(arguments: TestVolume.all) func ourLogsEndAsWithE2fsck(volume: TestVolume) throws {
        // A log that only we read to the end is a log that nobody else can rescue.
        let outcome = try CrashCampaign(seed: 707, volume: volume, profile: .mixed(120)).record()
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        var random = SeededRandom(seed: 707)
        let states = TraceSample(model).states(seed: 707, prefixes: 40, inFlight: 10, subsets: 40)
        let image = TemporaryFile("image")
        var compared = 0
        try model.forEach(random.sample(states, count: Need.isSoak ? states.count : 12)) { state, disk in
            image.write(try contents(disk))
            // A super block torn between its sectors is more than e2fsck can mend on a volume of one group.
            if Tools.run("dumpe2fs", "-h", image.path).status != 0 { return }
            guard let (sectors, plan) = try compare(disk, image: image) else { return }
            compared += 1
            #expect(sectors.isEmpty, "\(state), \(plan.end): sectors \(sectors.prefix(20)) differ")
        }
        #expect(compared > 4)
    }

    /// What e2fsprogs' own tests hold, and what becomes of it. Their one log with fast commits has tests of its own.
    enum Fate {
        /// Both replay, or drop, the same.
        case same
        /// We want the owner's word, which is the last good transaction. With it the bytes are e2fsck's, which asks
        /// nobody and exits with 0 or 1.
        case needsWord(TransactionID)
        /// e2fsck applies a transaction in part and one behind it: so these bytes are not to be had from us.
        case needsWordAndDiffers(TransactionID)
        /// Nothing of it can be believed, or it is no file system: the error says which.
        case refused(String)
    }

    static let journals: [(String, Fate)] = [
        ("j_recover_csum2_32bit.bz2", .same), ("j_recover_csum3_64bit.bz2", .same),
        // The bad block is the last of its log.
        ("j_corrupt_revoke_csum.gz", .same), ("j_corrupt_commit_csum.gz", .needsWord(TransactionID(2))),
        ("j_corrupt_descr_csum.gz", .needsWord(TransactionID(2))),
        ("j_corrupt_journal_block.gz", .needsWordAndDiffers(TransactionID(3))),
        // e2fsck makes a new journal and drops what the old one held.
        ("j_corrupt_sb_csum.gz", .refused("corrupt journal super block (checksum)")),
        ("j_ext_dumpe2fs.gz", .refused("journal device of another volume")),
    ]

    @Test(arguments: journals) func journalsOfE2fsprogsEndAsTheyShould(name: String, fate: Fate) throws {
        // They were found by others the hard way, and for some of them e2fsck is no model.
        let image = TemporaryFile("image")
        let source = "\(Need.sharedFolder)/fixtures/e2fsprogs-journal/\(name)"
        let tool = name.hasSuffix(".gz") ? "gzip" : "bzip2"
        try #require(Tools.run([tool, "-dc", source], outputFile: image.path).status == 0)
        let disk = OverlayDevice(over: MemoryDevice(image.contents))
        switch fate {
        case .same: #expect(try compare(disk, image: image)?.sectors == [])
        case .needsWord(let last):
            #expect(try compare(disk, image: image, last: last)?.sectors == [])
        case .needsWordAndDiffers(let last):
            let found = try #require(try compare(disk, image: image, last: last))
            #expect(!found.sectors.isEmpty && found.plan.transactions.map(\.id) == [last])
        case .refused(let reason):
            do throws(Ext4Error) {
                _ = try OfflineVolume(on: disk)
                Issue.record("\(name) was taken")
            } catch {
                #expect(error.description.contains(reason), "\(error)")
            }
        }
    }

    /// Linux mounts what Linux left behind, and sees the tree that we see.
    @Test(.enabled(if: Need.loopMounts, "needs root and loop devices"), arguments: KernelWriteLogTests.fixtures)
    func linuxSeesInItsLogsWhatWeSee(fixture: KernelWriteLogTests.Fixture) throws {
        // Where e2fsck and we agree, both might be wrong.
        let disk = OverlayDevice(over: MemoryDevice(byteCount: fixture.byteCount))
        var reader = try WriteLogReader(on: try fixture.load())
        _ = try reader.apply(until: .mark("mounted"), onto: disk)
        var seen = 0
        while let entry = try reader.apply(until: .flag(.throughToMedia), onto: disk) {
            seen += 1
            guard seen % (Need.isSoak ? 5 : 60) == 7 else { continue }
            let problems = try StateChecker.kernelReplay(disk.fork())
            #expect(problems.isEmpty, "entry \(entry.index): \(problems.joined(separator: "\n"))")
        }
    }

    /// A mount that finds damage names the command that rescues what is good, and that command does.
    @Test func damageIsRefusedWithTheWayOut() throws {
        // "Corrupt journal" alone makes people run e2fsck -y, which throws the good transactions away as well.
        let outcome = try CrashCampaign(seed: 708, volume: .small, profile: .mixed(60)).record()
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: outcome.events)
        let states = TraceSample(model).states(seed: 708, prefixes: 60, inFlight: 0, subsets: 0)
        var checked = 0
        try model.forEach(states) { _, disk in
            guard checked < 3 else { return }
            let volume = try OfflineVolume(on: disk)
            let journal = try #require(volume.journal)
            let all = try volume.plan(journal)
            guard all.transactions.count > 2, let hit = all.transactions.dropLast().last else { return }
            checked += 1
            // The first logged block of the last transaction but one.
            let block = AlignedBuffer(byteCount: 1024)
            try journal.log.read(hit.start + 1 == all.geometry.end ? 1 : hit.start + 1, count: 1, into: block)
            block.withMutableBytes { $0.fill(100..<200, with: 0xEE) }
            let home = journal.log.home(of: hit.start + 1 == all.geometry.end ? 1 : hit.start + 1)
            try disk.write(block, at: home.rawValue * 1024)

            let last = all.transactions.count - 2
            let wanted = "jext4-replay apply --up-to \(hit.id.rawValue &- 1) IMAGE"
            let before = try contents(disk)
            do throws(Ext4Error) {
                _ = try FileSystem.mount(on: disk, options: .deterministic())
                Issue.record("a damaged log was mounted for writing")
            } catch {
                #expect(error.description.contains(wanted), "\(error)")
            }
            #expect(try contents(disk) == before, "a refused mount has written")
            var looking = MountOptions.deterministic()
            looking.readOnly = true
            _ = try FileSystem.mount(on: disk, options: looking)

            var options = RecoveryOptions()
            options.last = TransactionID(hit.id.rawValue &- 1)
            let plan = try volume.plan(journal, options: options)
            #expect(plan.transactions.count == last && plan.isDamaged)
            _ = try volume.apply(plan, journal)
            let image = TemporaryFile("image", contents: try contents(disk))
            let check = Tools.run("e2fsck", "-fp", image.path)
            #expect(check.status <= 1, "\(check.output)")
            try FileSystem.mount(on: disk, options: .deterministic()).unmount()
        }
        #expect(checked > 0)
    }
}
