import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Glibc
import Synchronization
import Testing

/// What a volume does about errors, what it records of them, and what the next mount makes of the record.
@Suite struct ErrorRecordTests {
    private static let caller = Caller(uid: 0, gid: 0, umask: 0)

    private func options(_ behaviour: MountOptions.ErrorBehaviour? = nil) -> MountOptions {
        var options = MountOptions.deterministic()
        options.errors = behaviour
        return options
    }

    private func create(_ name: String, in system: FileSystem) throws -> InodeNumber {
        try system.createFile(FileName(Array(name.utf8)), in: .root, mode: 0o600, caller: Self.caller).inode
    }

    private func exists(_ name: String, in system: FileSystem) throws -> Bool {
        guard let found = try system.lookup(FileName(Array(name.utf8)), in: .root) else { return false }
        system.forget(found.inode, count: 1)
        return true
    }

    private func superBlock(_ device: any BlockDevice) throws -> SuperBlock { try OfflineVolume(on: device).superBlock }

    /// A volume with a file "victim" whose inode fails its checksum, and the number of that inode.
    private func damagedVolume(_ arguments: [String] = []) throws -> (device: MemoryDevice, victim: InodeNumber) {
        let file = TemporaryFile("damaged", contents: try TestVolume.small.make())
        if !arguments.isEmpty {
            let tuned = Tools.run(["tune2fs"] + arguments + [file.path])
            try #require(tuned.status == 0, "\(tuned.output)")
        }
        let device = MemoryDevice(file.contents)
        let system = try FileSystem.mount(on: device, options: options())
        let victim = try create("victim", in: system)
        try system.unmount()
        file.write(device.bytes)
        let said = Tools.run("debugfs", "-R", "imap <\(victim.rawValue)>", file.path).output
        let place = try #require(said.firstMatch(of: /block ([0-9]+), offset 0x([0-9a-f]+)/), "\(said)")
        let block = try #require(Int(place.1)), offset = try #require(Int(place.2, radix: 16))
        var bytes = device.bytes
        // The owner.
        bytes[block * TestVolume.small.blockByteCount + offset + 2] ^= 1
        return (MemoryDevice(bytes), victim)
    }

    /// What a request does: it fails, and the server reports the failure.
    private func touch(_ victim: InodeNumber, _ system: FileSystem) {
        do throws(Ext4Error) {
            _ = try system.attributes(of: victim)
            Issue.record("the damaged inode was read")
        } catch {
            #expect(error == .corrupt("inode checksum", where: "inode \(victim.rawValue)"))
            system.report(error, about: victim)
        }
    }

    /// errors=continue: counted and recorded, and life goes on.
    @Test(arguments: [nil, MountOptions.ErrorBehaviour.continue])
    func continueCounts(_ chosen: MountOptions.ErrorBehaviour?) throws {
        // The image says continue, or the option overrules what it says.
        let (device, victim) = try damagedVolume(chosen == nil ? [] : ["-e", "panic"])
        let system = try FileSystem.mount(on: device, options: options(chosen))
        touch(victim, system)
        touch(victim, system)
        #expect(!system.isReadOnly && system.errors.count == 2)
        _ = try create("later", in: system)
        try system.unmount()
        let found = try superBlock(device)
        #expect(found.state.contains(.hasErrors) && found.errors.count == 2)
        #expect(found.errors.first?.inode == victim.rawValue && found.errors.last?.inode == victim.rawValue)
        #expect(found.errors.last?.function == "inode checksum" && found.errors.last?.code == .badChecksum)
        #expect(found.errors.first?.seconds == 1_700_000_000)
        // dumpe2fs reads the same.
        let file = TemporaryFile("recorded", contents: device.bytes)
        let said = Tools.run("dumpe2fs", "-h", file.path).output
        for line in [
            "clean with errors", "FS Error count:           2", "First error inode #:      \(victim.rawValue)",
            "Last error function:      inode checksum",
        ] {
            #expect(said.contains(line), "\(line) is not in \(said)")
        }
        // A check in full, and it forgets the record.
        #expect(Tools.run("e2fsck", "-fy", file.path).status == 1)
        #expect(try superBlock(MemoryDevice(file.contents)).errors.count == 0)
    }

    /// errors=remount-ro: what has finished is kept, and nothing more is changed.
    @Test(arguments: [nil, MountOptions.ErrorBehaviour.remountReadOnly])
    func remountReadOnlyStops(_ chosen: MountOptions.ErrorBehaviour?) throws {
        let (device, victim) = try damagedVolume(chosen == nil ? ["-e", "remount-ro"] : [])
        let system = try FileSystem.mount(on: device, options: options(chosen))
        let number = try create("earlier", in: system)
        let open = try create("open", in: system)
        _ = try system.write(open, at: 0, [UInt8](repeating: 1, count: 50_000).span.bytes)
        try system.unlink(FileName(Array("open".utf8)), in: .root)
        let free = system.statistics().freeBlocks
        touch(victim, system)
        #expect(system.isReadOnly)
        // The last one who used it goes: it stays an orphan.
        system.forget(open, count: 1)
        #expect(system.statistics().freeBlocks == free)
        #expect(throws: Ext4Error.posix(30)) { _ = try create("later", in: system) }
        #expect(throws: Ext4Error.posix(30)) { _ = try system.write(number, at: 0, [1, 2].span.bytes) }
        #expect(try exists("earlier", in: system))
        try system.sync(number, dataOnly: false)
        try system.unmount()
        #expect(try superBlock(device).errors.count == 1)
        let again = try FileSystem.mount(on: device, options: options())
        #expect(again.statistics().freeBlocks > free)
        #expect(try exists("earlier", in: again) && !exists("later", in: again) && !again.isReadOnly)
        try again.unmount()
    }

    /// errors=panic: nothing but the record is written, and everything is EIO.
    @Test(arguments: [nil, MountOptions.ErrorBehaviour.panic])
    func panicEndsEverything(_ chosen: MountOptions.ErrorBehaviour?) throws {
        let (device, victim) = try damagedVolume(chosen == nil ? ["-e", "panic"] : [])
        let said = Lines()
        var options = options(chosen)
        options.notify = { said.add($0) }
        let system = try FileSystem.mount(on: device, options: options)
        let number = try create("synced", in: system)
        try system.sync(number, dataOnly: false)
        _ = try create("lost", in: system)
        touch(victim, system)
        #expect(system.hasPanicked && system.isShutDown)
        #expect(throws: Ext4Error.shutDown) { _ = try create("later", in: system) }
        #expect(throws: Ext4Error.shutDown) { _ = try exists("synced", in: system) }
        #expect(throws: Ext4Error.shutDown) { try system.sync(number, dataOnly: false) }
        #expect(throws: Ext4Error.aborted) { try system.unmount() }
        #expect(said.all.contains { $0.contains("panic") })
        let volume = try OfflineVolume(on: device)
        #expect(volume.journal?.superBlock.errorNumber == -117 && volume.superBlock.errors.count == 1)
        #expect(volume.superBlock.errors.last?.inode == victim.rawValue)
        let again = try FileSystem.mount(on: device, options: self.options(.continue))
        #expect(try exists("synced", in: again) && !exists("lost", in: again))
        try again.unmount()
    }

    /// A read-only mount has no journal to abort and records nothing, and panics all the same.
    @Test func aReadOnlyMountPanicsToo() throws {
        let (device, victim) = try damagedVolume(["-e", "panic"])
        let before = device.bytes
        var options = options()
        options.readOnly = true
        let system = try FileSystem.mount(on: device, options: options)
        touch(victim, system)
        #expect(system.hasPanicked)
        #expect(throws: Ext4Error.shutDown) { _ = try exists("victim", in: system) }
        try system.unmount()
        #expect(device.bytes == before)
    }

    /// A group whose bitmap is damaged is out of use, and the work goes on in another: that is no reason to keep quiet.
    @Test(arguments: [MountOptions.ErrorBehaviour.continue, .remountReadOnly], ["Block", "Inode"])
    func aDamagedBitmapIsRecorded(_ behaviour: MountOptions.ErrorBehaviour, _ which: String) throws {
        let file = TemporaryFile("bitmap", contents: try TestVolume.small.make())
        let said = Tools.run("dumpe2fs", file.path).output
        let found = try #require(said.firstMatch(of: try Regex("\(which) bitmap at ([0-9]+)")), "\(said)")
        let block = try #require(found.output[1].substring.flatMap { Int($0) })
        var bytes = file.contents
        bytes[block * TestVolume.small.blockByteCount + 40] ^= 1
        let device = MemoryDevice(bytes), lines = Lines()
        var options = options(behaviour)
        options.notify = { lines.add($0) }
        let system = try FileSystem.mount(on: device, options: options)
        let isStopped = behaviour == .remountReadOnly
        // The volume has one group: without it there is no room.
        let number = try? create("file", in: system)
        if let number { _ = try? system.write(number, at: 0, [UInt8](repeating: 5, count: 4096).span.bytes) }
        #expect(system.errors.count == 1 && system.isReadOnly == isStopped)
        #expect(lines.all.contains { $0.contains("bitmap") }, "\(lines.all)")
        try system.unmount()
        let volume = try superBlock(device)
        #expect(volume.errors.count == 1 && volume.state.contains(.hasErrors))
    }

    /// Metadata that cannot be read is an error of the volume: the block is recorded. File data that cannot is not.
    @Test func aReadErrorOfMetadataIsRecorded() throws {
        let memory = MemoryDevice(try TestVolume.small.make())
        var system = try FileSystem.mount(on: memory, options: options())
        let number = try create("file", in: system)
        _ = try system.write(number, at: 0, [UInt8](repeating: 5, count: 4096).span.bytes)
        let folder = try system.makeDirectory(
            FileName(Array("folder".utf8)), in: .root, mode: 0o700, caller: Self.caller
        ).inode
        try system.unmount()

        let faulty = FaultyDevice(memory)
        system = try FileSystem.mount(on: faulty, options: options(.remountReadOnly))
        let buffer = AlignedBuffer(byteCount: 4096)
        _ = try system.attributes(of: folder)
        _ = try buffer.withMutableBytes { try system.read(number, at: 0, into: &$0) }
        faulty.arm(.init(.read, ordinal: 1))
        #expect(throws: Ext4Error.self) { try buffer.withMutableBytes { try system.read(number, at: 0, into: &$0) } }
        #expect(faulty.failureCount == 1 && system.errors.count == 0 && !system.isReadOnly)
        faulty.arm(.init(.read, ordinal: 1))
        #expect(throws: Ext4Error.self) { _ = try system.lookup(FileName(Array("name".utf8)), in: folder) }
        faulty.disarm()
        #expect(system.errors.count == 1 && system.errors.last?.code == .io && system.isReadOnly)
        #expect(system.errors.last?.function == "metadata read" && system.errors.last?.block != 0)
        try system.unmount()
        #expect(try superBlock(memory).errors == system.errors)
    }

    // MARK: The next mount

    /// A volume whose journal was aborted by a failed write of the log, with a file that was synced before.
    private func abortedVolume(_ volume: TestVolume) throws -> (base: [UInt8], events: [Trace.Event], start: Int) {
        let base = try volume.make()
        let trace = Trace()
        let faulty = FaultyDevice(OverlayDevice(over: MemoryDevice(base)))
        let system = try FileSystem.mount(on: RecordingDevice(faulty, recorder: trace), options: options())
        let number = try create("synced", in: system)
        try system.sync(number, dataOnly: false)
        _ = try create("lost", in: system)
        faulty.arm(.init(.write, ordinal: 1))
        let start = trace.events.count
        #expect(throws: Ext4Error.self) { try system.syncAll() }
        #expect(throws: Ext4Error.aborted) { try system.unmount() }
        return (base, trace.events, start)
    }

    /// Whatever reaches the medium of the record's writes, the super block is whole for everybody.
    @Test(arguments: [TestVolume.small, .large, .noChecksums])
    func noPowerCutTearsTheRecord(_ volume: TestVolume) throws {
        let (base, events, start) = try abortedVolume(volume)
        let model = try CrashModel(base: MemoryDevice(base), events: events)
        let states = model.epochs.filter { $0.event >= start }.flatMap { epoch in
            let choices = EpochChoices(model, epoch)
            return SampledStates(choices).states(limit: 40, seed: 1).map { CrashState(choices, $0) }
        }
        let image = TemporaryFile("cut")
        var seen: Set<UInt32> = []
        try model.forEach(states) { state, disk in
            let found = try superBlock(disk)
            seen.insert(found.errors.count)
            image.write(try contents(disk))
            let said = Tools.run("dumpe2fs", "-h", image.path)
            #expect(said.status == 0, "\(state): \(said.output)")
        }
        #expect(seen == [0, 1])
    }

    /// Behind the last event, with all that completed.
    private static func end(_ model: CrashModel) throws -> CrashState {
        let choices = EpochChoices(model, try #require(model.epochs.last))
        return CrashState(choices, choices.landed(at: choices.epoch.event))
    }

    /// The kernel and we make the same of an aborted volume: the record stays, the flag is set, the journal forgets.
    @Test(.enabled(if: Need.loopMounts, "needs root and loop devices"), arguments: [TestVolume.small, .noChecksums])
    func theNextMountIsAsTheKernels(_ volume: TestVolume) throws {
        let (base, events, _) = try abortedVolume(volume)
        let model = try CrashModel(base: MemoryDevice(base), events: events)
        try model.forEach([try Self.end(model)]) { _, disk in
            let before = try OfflineVolume(on: disk)
            #expect(before.journal?.superBlock.errorNumber == -5 && before.superBlock.errors.count == 1)
            let image = TemporaryFile("aborted", contents: try contents(disk))

            let system = try FileSystem.mount(on: disk, options: options())
            #expect(try !system.isReadOnly && exists("synced", in: system))
            try system.unmount()
            let folder = TemporaryFile.newPath("mount")
            try #require(mkdir(folder, 0o700) == 0)
            defer { rmdir(folder) }
            let mount = Tools.run("mount", "-t", "ext4", "-o", "loop", image.path, folder)
            try #require(mount.status == 0, "\(mount.output)")
            #expect(access("\(folder)/synced", F_OK) == 0)
            try #require(Tools.run("umount", folder).status == 0)

            let ours = try OfflineVolume(on: disk), theirs = try OfflineVolume(on: MemoryDevice(image.contents))
            #expect(ours.superBlock.errors == before.superBlock.errors)
            #expect(theirs.superBlock.errors.count == ours.superBlock.errors.count)
            #expect(theirs.superBlock.errors.last?.function == ours.superBlock.errors.last?.function)
            #expect(ours.superBlock.state == theirs.superBlock.state && ours.superBlock.state.contains(.hasErrors))
            #expect(ours.journal?.superBlock.errorNumber == 0 && theirs.journal?.superBlock.errorNumber == 0)
            // e2fsck wants to see all of it, and finds nothing.
            image.write(try contents(disk))
            let check = Tools.run("e2fsck", "-p", image.path)
            #expect(check.status <= 1 && check.output.contains("with errors, check forced"), "\(check.output)")
            #expect(try superBlock(MemoryDevice(image.contents)).errors.count == 0)
        }
    }

    /// A power cut between the flag and the journal's forgetting loses neither. The journal alone knows of the error
    /// here: the abort has not come to the super block.
    @Test func theErrorOfAJournalIsTakenOverInOrder() throws {
        let (base, events, start) = try abortedVolume(.small)
        var image = try Self.landed(base, after: events)
        image.replaceSubrange(1024..<2048, with: try Self.landed(base, after: Array(events[..<start]))[1024..<2048])
        let disk = MemoryDevice(image)
        let aborted = try OfflineVolume(on: disk)
        #expect(!aborted.superBlock.state.contains(.hasErrors) && aborted.journal?.superBlock.errorNumber != 0)
        let trace = Trace()
        try FileSystem.mount(
            on: RecordingDevice(OverlayDevice(over: disk), recorder: trace), options: options()
        ).unmount()
        let model = try CrashModel(base: disk, events: trace.events)
        let states = TraceSample(model).states(seed: 1, prefixes: 40, inFlight: 10, subsets: 40)
        try model.forEach(states) { state, cut in
            try FileSystem.mount(on: cut, options: options()).unmount()
            let volume = try OfflineVolume(on: cut)
            #expect(volume.superBlock.state.contains(.hasErrors), "\(state)")
            #expect(volume.journal?.superBlock.errorNumber == 0, "\(state)")
        }
    }

    /// The whole disk when all of these have completed.
    private static func landed(_ base: [UInt8], after events: [Trace.Event]) throws -> [UInt8] {
        let model = try CrashModel(base: MemoryDevice(base), events: events)
        var bytes: [UInt8] = []
        try model.forEach([try end(model)]) { _, disk in bytes = try contents(disk) }
        return bytes
    }
}

/// Lines that many threads may add to.
private final class Lines: Sendable {
    private let lines = Mutex<[String]>([])
    func add(_ line: String) { lines.withLock { $0.append(line) } }
    var all: [String] { lines.withLock { $0 } }
}
