package import BlockIO
internal import CFuseShims
internal import CLinux
package import Ext4Format
internal import FileSystem
internal import Glibc
internal import Logging
internal import Threads

/// A device whose changes are written to a log, and what ends the log.
package struct Recording: Sendable {
    package let device: any BlockDevice
    package let finish: @Sendable () throws(Ext4Error) -> Void

    package init(device: any BlockDevice, finish: @escaping @Sendable () throws(Ext4Error) -> Void) {
        self.device = device
        self.finish = finish
    }
}

/// What `jext4 mount` was asked for.
package struct MountPlan: Sendable {
    package var image: String
    package var directory: String
    package var words: MountWords
    package var isForeground: Bool
    /// Puts a recording device before the image, for `-o record=FILE`.
    package var recorder: @Sendable (any BlockDevice, _ file: String) throws(Ext4Error) -> Recording

    package init(
        image: String, directory: String, words: MountWords, isForeground: Bool,
        recorder: @escaping @Sendable (any BlockDevice, _ file: String) throws(Ext4Error) -> Recording
    ) {
        self.image = image
        self.directory = directory
        self.words = words
        self.isForeground = isForeground
        self.recorder = recorder
    }
}

/// From a plan to a served mount, and to its end.
package enum Launcher {
    /// Mounts. In the background, returns when the mount answers; in the foreground, when it has ended. `.refused` or
    /// what the volume had to say when it failed. Before any thread is started.
    package static func mount(_ plan: MountPlan) throws(Ext4Error) {
        var plan = plan
        plan.image = try absolute(plan.image)
        if let path = plan.words.journalPath { plan.words.journalPath = try absolute(path) }
        // The server in the background works in another directory, and the file is yet to be made.
        if let path = plan.words.lockFile, !path.hasPrefix("/") {
            plan.words.lockFile = "\(try absolute("."))/\(path)"
        }
        plan.directory = try absoluteDirectory(plan.directory)
        if plan.isForeground { return try serve(plan, nil) }
        switch Daemon.start() {
        case .parent(let failure): if let failure { throw .refused(failure) }
        case .child(let announcer):
            do throws(Ext4Error) {
                try serve(plan, announcer)
                exit(0)
            } catch {
                announcer.fail(error.description)
                exit(1)
            }
        }
    }

    private static func absolute(_ image: String) throws(Ext4Error) -> String {
        guard let path = resolvedPath(image) else { throw .refused("\(image): \(systemText(errno))") }
        return path
    }

    private static func absoluteDirectory(_ directory: String) throws(Ext4Error) -> String {
        guard let path = resolvedPath(directory) else { throw .refused("\(directory): \(systemText(errno))") }
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { throw .refused("\(directory): \(systemText(errno))") }
        guard status.st_mode & S_IFMT == S_IFDIR else { throw .refused("\(directory) is not a directory") }
        return path
    }

    private static let arenaLimit: CInt = 2

    private static func serve(_ plan: MountPlan, _ announcer: Daemon.Announcer?) throws(Ext4Error) {
        jext4_prepare_signals()
        // What this process allocates must not wait for writeback to itself. It needs a privilege, and is a hint.
        _ = jext4_set_io_flusher()
        jext4_limit_arenas(arenaLimit)
        let log = Logger(label: "jext4") { _ in ServerLogHandler(usesSystemLog: announcer != nil) }
        let volume = try open(plan, log)
        let served: ServedMount
        do throws(Ext4Error) {
            served = try ServedMount(plan, volume, log)
        } catch {
            volume.close()
            throw error
        }
        announcer?.succeed()
        let failure = served.run()
        if let failure { log.error("\(plan.image): unmount failed: \(failure)") }
        if volume.fileSystem.hasPanicked { exit(EX_SOFTWARE) }
        if let failure, announcer == nil { throw failure }
    }

    private static func open(_ plan: MountPlan, _ log: Logger) throws(Ext4Error) -> MountedVolume {
        let words = plan.words
        var options = words.volumeOptions
        options.notify = { log.warning("\(plan.image): \($0)") }
        let claim = try ImageClaim(plan.image, readOnly: words.isReadOnly, lockFile: words.lockFile)
        var journal: ImageClaim?
        do throws(Ext4Error) {
            // A kernel that moves data on a block device does so past its page cache; an image file it reaches by way
            // of a loop device, which uses that of the file.
            let isShared = words.demandsIomap && claim.isBlockDevice
            let image = try FileDevice(
                path: plan.image, readOnly: words.isReadOnly, direct: isShared ? .always : .largeReads,
                start: words.offset)
            if let path = words.journalPath {
                journal = try ImageClaim(path, readOnly: words.isReadOnly, lockFile: nil)
                options.journalDevice = try FileDevice(path: path, readOnly: words.isReadOnly)
            }
            guard let file = words.recordFile else {
                let fileSystem = try FileSystem.mount(on: image, options: options)
                return MountedVolume(fileSystem, claim, journal: journal, nil)
            }
            guard FileIdentity(path: file) != claim.identity else {
                throw .refused("option 'record': \(file) is the image")
            }
            let recording = try plan.recorder(image, file)
            let fileSystem = try FileSystem.mount(on: recording.device, options: options)
            return MountedVolume(fileSystem, claim, journal: journal, recording)
        } catch {
            claim.release()
            journal?.release()
            throw error.named(plan.image)
        }
    }
}

/// A mount that answers: the session, its control socket, and what ends it.
final class ServedMount: Sendable {
    private let session: Session
    private let volume: MountedVolume
    private let record: MountRecord
    private let control: ControlServer?
    /// How long open files may keep the mount alive after a signal, in milliseconds.
    private static let grace = 3000

    /// Mounts and answers the first request. `plan` has absolute paths.
    init(_ plan: MountPlan, _ volume: MountedVolume, _ log: Logger) throws(Ext4Error) {
        self.volume = volume
        let isRoot = geteuid() == 0
        if plan.words.rings == .demanded { try Rings.allow() }
        let iomap = plan.words.demandsIomap ? SystemIomapKernel(isReadOnly: plan.words.isReadOnly) : nil
        if iomap != nil { try Self.checkIomap(isRoot: isRoot, volume, offset: plan.words.offset) }
        let arguments = isRoot ? [] : KernelMount.userArguments(plan.image, plan.words)
        session = try Session(
            volume, arguments: arguments, words: plan.words, crewLimit: Self.crewLimit, log: log, iomap: iomap)
        if isRoot {
            let mount = try KernelMount(
                plan.image, isBlockDevice: volume.isBlockDevice, on: plan.directory, words: plan.words,
                blockByteCount: session.blockByteCount)
            if let reason = mount.fallback {
                log.notice("\(plan.directory) is a plain fuse mount (\(reason)): sync it with jext4 sync")
            }
            try session.attach(mount.descriptor)
            if let iomap { try Self.useDevice(of: mount, iomap, at: plan.directory) }
        } else {
            guard unsafe access("/dev/fuse", R_OK | W_OK) == 0 else { throw KernelMount.noDevice(errno) }
            try session.mountAsUser(at: plan.directory)
        }
        do throws(Ext4Error) { try session.serveFirst() } catch {
            Self.takeOutOfSight(plan.directory)
            throw error
        }
        guard let record = MountTable.record(at: plan.directory) else {
            throw .refused("\(plan.directory) was unmounted at once")
        }
        self.record = record
        if isRoot { Self.tune(record, writebackCache: plan.words.usesWritebackCache) }
        control = ControlServer(device: record.device) { [session] command throws(Ext4Error) in
            try Self.answer(command, session, plan, record)
        }
        if control == nil { log.warning("no control socket: jext4 status and jext4 sync will not find this mount") }
    }

    /// More than the cores: threads wait for the device and for the log, and some of an fsync for a flush.
    private static let crewLimit = 32

    /// What fuse-iomap needs, before there is a mount to take down again.
    private static func checkIomap(isRoot: Bool, _ volume: MountedVolume, offset: UInt64) throws(Ext4Error) {
        guard isRoot else { throw .refused("option 'iomap' is for root") }
        guard !volume.isBlockDevice || offset == 0 else {
            throw .refused("option 'iomap' needs the volume at the start of the device: 'offset' is for image files")
        }
        guard volume.fileSystem.mayDelegate else {
            throw .refused("option 'iomap' does not go with clusters of several blocks (bigalloc)")
        }
        try SystemIomapKernel.demand()
    }

    private static func useDevice(
        of mount: KernelMount, _ iomap: SystemIomapKernel, at directory: String
    ) throws(Ext4Error) {
        guard let device = mount.device else {
            takeOutOfSight(directory)
            throw .refused("option 'iomap' needs a block device: \(mount.fallback ?? "")")
        }
        iomap.use(device)
    }

    /// The kernel reads ahead 128 KiB on a FUSE mount, which is less than one request may carry. Only root may change
    /// it, and only outside of most containers; what it is then only costs speed.
    /// So it is with the hundredth of memory that dirty pages may take: a limit against servers that are not trusted.
    private static func tune(_ record: MountRecord, writebackCache: Bool) {
        let name = record.isBlock ? "\(record.device)-fuseblk" : record.device
        var settings = [("read_ahead_kb", "2048")]
        if writebackCache { settings += [("max_ratio", "100"), ("strict_limit", "0")] }
        for (setting, value) in settings {
            let file = unsafe Glibc.open("/sys/class/bdi/\(name)/\(setting)", O_WRONLY | O_CLOEXEC)
            guard file >= 0 else { continue }
            _ = unsafe write(file, value, value.utf8.count)
            close(file)
        }
    }

    private static func answer(
        _ command: ControlSocket.Command, _ session: Session, _ plan: MountPlan, _ record: MountRecord
    ) throws(Ext4Error) -> String {
        switch command {
        case .wait: return ""
        case .mark(let label):
            try session.volume.mark(label)
            return ""
        case .sync:
            try session.volume.use { fileSystem throws(Ext4Error) in try fileSystem.syncAll() }
            return ""
        case .status, .statusJSON:
            let report = try session.volume.use { fileSystem in
                StatusReport(
                    fileSystem, image: plan.image, directory: plan.directory, type: record.type, process: getpid(),
                    usesRings: session.usesRings)
            }
            return command == .status ? report.text : report.json
        }
    }

    /// Serves to the end, and closes the volume: the error of that, if any.
    func run() -> Ext4Error? {
        control?.start()
        _ = Thread(name: "jext4-signals") { [self] in
            while true {
                _ = jext4_next_signal()
                leave()
            }
        }
        session.serveRest()
        let failure = volume.close()
        control?.finish(failure)
        return failure
    }

    private static func takeOutOfSight(_ directory: String) {
        if geteuid() == 0 {
            _ = unsafe jext4_umount(directory, true)
        } else {
            runHelper(["fusermount3", "-u", "-z", "-q", directory])
        }
    }

    /// When nobody has files open the kernel ends the mount at once. Else they get their time.
    private func leave() {
        if MountTable.record(at: record.directory) == record { Self.takeOutOfSight(record.directory) }
        if session.waitForEnd(milliseconds: Self.grace) { return }
        repeat { session.stop() } while !session.waitForEnd(milliseconds: 20)
    }
}
