internal import CFuse3
internal import CFuseShims
package import Ext4Format
internal import FileSystem
internal import Glibc
internal import Journal
package import Logging
internal import Synchronization
internal import Threads

/// One connection to the kernel: its requests, and the threads that serve them.
///
/// `serveFirst` answers INIT on the calling thread; `serveRest` starts the crew and returns when the connection has
/// ended and every thread is done.
@safe package final class Session: @unchecked Sendable {
    let volume: MountedVolume
    let fileSystem: FileSystem
    let usesWritebackCache: Bool
    /// Whether a program may begin a batch: then the kernel has to tell what is opened and closed.
    let servesBatches: Bool
    private let lastHandle = Atomic<UInt64>(0)
    /// Without them the kernel need not ask for the list of a directory that changed.
    let usesAccessLists: Bool
    let iomap: IomapTransport
    /// What stat(2) says to transfer in.
    let blockByteCount: Int
    /// Set once, at the end of init, and never null after it.
    private var raw: OpaquePointer?
    private let log: OnceLog
    /// What the kernel offered in INIT, as libfuse says it and as the kernel did; 0 before.
    private let capable = Atomic<UInt32>(0), offered = Atomic<UInt64>(0)

    private let crew = Crew()
    private let crewLimit: Int
    private let ringChoice: MountWords.Rings
    private let ringsAreOn = Atomic(false)
    private let isIomapDemanded: Bool
    /// Threads wait for the device and for the log.
    private static let leastPerQueue = 3

    /// `arguments` are libfuse's, without a program name. `crewLimit` is the most threads, which are started as
    /// requests come that find none idle. `iomap`: the kernel that is to move file data itself, if any.
    package init(
        _ volume: MountedVolume, arguments: [String], words: MountWords, crewLimit: Int, log: Logger,
        iomap kernel: (any IomapKernel)? = nil
    ) throws(Ext4Error) {
        self.volume = volume
        fileSystem = volume.fileSystem
        usesWritebackCache = words.usesWritebackCache
        iomap = IomapTransport(kernel)
        servesBatches = words.writesOutOfPlace && !words.usesWritebackCache && kernel == nil
        usesAccessLists = words.usesAccessLists
        ringChoice = words.rings
        isIomapDemanded = words.demandsIomap
        blockByteCount = volume.fileSystem.statistics().blockByteCount
        self.log = OnceLog(log)
        self.crewLimit = max(1, crewLimit)
        jext4_keep_fuse_messages()
        var words = unsafe fuse_args()
        for argument in ["jext4"] + arguments { unsafe fuse_opt_add_arg(&words, argument) }
        defer { unsafe fuse_opt_free_args(&words) }
        var table = operationTable()
        let context = unsafe Unmanaged.passUnretained(self).toOpaque()
        unsafe raw = fuse_session_new(&words, &table, MemoryLayout<fuse_lowlevel_ops>.size, context)
        if unsafe raw == nil { throw .refused("libfuse: \(Self.message)") }
    }

    deinit { if let raw = unsafe raw { unsafe fuse_session_destroy(raw) } }

    /// libfuse's last word.
    static var message: String { unsafe String(cString: jext4_fuse_message()) }

    /// Serves the connection that `descriptor` is (an open /dev/fuse that has been mounted).
    package func attach(_ descriptor: CInt) throws(Ext4Error) {
        let result = unsafe jext4_use_worker_descriptors(raw, descriptor)
        guard result == 0 else { throw .refused("libfuse: \(Self.message)") }
    }

    /// Mounts through fusermount3, with the options that the session was made with.
    func mountAsUser(at directory: String) throws(Ext4Error) {
        guard unsafe fuse_session_mount(raw, directory) == 0 else {
            let reason = Self.message.isEmpty ? "fusermount3 refused it" : Self.message
            throw .refused("cannot mount on \(directory): \(reason)")
        }
        try attach(unsafe fuse_session_fd(raw))
    }

    /// Called while INIT is answered.
    func begin(capable: UInt32, _ offer: (minorVersion: UInt32, flags: UInt64)) {
        self.capable.store(capable, ordering: .relaxed)
        offered.store(offer.flags, ordering: .relaxed)
        let descriptor = unsafe fuse_session_fd(raw)
        let hasIomap = iomap.agree(descriptor, minorVersion: offer.minorVersion, offered: offer.flags)
        let areOffered = offer.flags & Connection.hasRings != 0
        // What goes around this server is not worth two ways in.
        let isWanted = areOffered && ringChoice != .never && !hasIomap
        ringsAreOn.store(isWanted && Rings.queueCount != nil && Rings.arePossible, ordering: .relaxed)
    }

    /// Whether requests come over io_uring; known once INIT is served.
    var usesRings: Bool { ringsAreOn.load(ordering: .relaxed) }

    var hasExtendedSetxattr: Bool { offered.load(ordering: .relaxed) & Connection.extendedSetxattr != 0 }

    var mayRefuseOpen: Bool { has(FUSE_CAP_NO_OPEN_SUPPORT) && !servesBatches }
    var mayRefuseOpendir: Bool { has(FUSE_CAP_NO_OPENDIR_SUPPORT) }
    private func has(_ flag: CInt) -> Bool { capable.load(ordering: .relaxed) & UInt32(flag) != 0 }

    /// Logs the error of a request, and has the volume do what `errors=` asks for.
    func report(_ error: Ext4Error) {
        guard error.isWorthLogging else { return }
        log.error(error.description)
        fileSystem.report(error, about: DirectRequest.currentNode.map(NodeID.inode))
    }

    /// What the kernel is to know of a file that it opens. Handles are never 0, and never the same twice.
    func open(_ file: UnsafeMutablePointer<fuse_file_info>?) {
        unsafe file?.pointee.keep_cache = 1
        unsafe file?.pointee.fh = lastHandle.wrappingAdd(1, ordering: .relaxed).newValue
    }

    // MARK: Shutdown

    /// FS_IOC_SHUTDOWN. When it returns, nothing that the kernel remembers of the volume hides that it is gone.
    func shutDown(_ mode: ShutdownMode) throws(Ext4Error) {
        let isFirst = !fileSystem.isShutDown
        // Other threads answer what the kernel asks meanwhile; so this is the work of one of them alone.
        defer { if isFirst { forgetCaches() } }
        try fileSystem.shutDown(mode)
    }

    /// Makes the kernel ask again for everything: names, attributes and pages. Pages that it has not sent are lost.
    private func forgetCaches() {
        DirectRequest.sendNewEpoch(to: unsafe fuse_session_fd(raw))
        for inode in fileSystem.referencedInodes { forgetContent(of: inode) }
    }

    /// Makes the kernel ask again for the data and the attributes of a file.
    func forgetContent(of inode: InodeNumber) {
        guard let node = NodeID.node(inode) else { return }
        unsafe fuse_lowlevel_notify_inval_inode(raw, node, 0, 0)
    }

    /// Makes the kernel ask again for the attributes of a file, and keep the data.
    func forgetAttributes(of inode: InodeNumber) {
        guard let node = NodeID.node(inode) else { return }
        unsafe fuse_lowlevel_notify_inval_inode(raw, node, -1, 0)
    }

    // MARK: Serving

    /// Answers the first request, INIT, so that the mount works when this returns.
    package func serveFirst() throws(Ext4Error) {
        guard let raw = unsafe raw else { preconditionFailure("a session without libfuse") }
        let worker = try Worker(.device(unsafe fuse_session_fd(raw)))
        defer { worker.leave() }
        while true {
            let count = unsafe worker.receive(raw)
            if count == -Int(EINTR) || count == -Int(EAGAIN) { continue }
            guard count > 0 else { throw .refused("the kernel ended the connection before it began") }
            unsafe worker.process(raw, self)
            if ringChoice == .demanded, !usesRings {
                throw .refused("option 'io_uring': the kernel does not offer it on this connection")
            }
            if isIomapDemanded, !iomap.isAgreed {
                throw .refused("option 'iomap': the kernel does not offer it on this connection")
            }
            return
        }
    }

    /// Serves until the connection ends or `stop` is called.
    package func serveRest() {
        let descriptor = unsafe fuse_session_fd(raw)
        if usesRings, let count = Rings.queueCount {
            let limit = max(Self.leastPerQueue, crewLimit / count)
            for queue in 0..<count { start(Crew.Post(.queue(queue, descriptor), limit: limit)) }
        }
        // With rings, only what the kernel forgets and interrupts is told over the device.
        start(Crew.Post(.device(descriptor), limit: usesRings ? 2 : crewLimit))
        crew.waitForAll()
    }

    private func start(_ post: Crew.Post) { crew.start(post) { [self] in work(at: post) } }

    /// With rings: returns when what the kernel has forgotten so far has been dealt with, or after a tenth of a second.
    func waitForForgets() {
        let pollMicroseconds: UInt32 = 500
        var quietCount = 0
        for _ in 0..<200 where quietCount < 3 {
            // A thread may have read something and not have said so yet: hence three looks.
            quietCount = crew.isAtRest(where: \.isDevice) && !hasInput ? quietCount + 1 : 0
            usleep(pollMicroseconds)
        }
    }

    private var hasInput: Bool {
        var state = unsafe pollfd(fd: fuse_session_fd(raw), events: Int16(POLLIN), revents: 0)
        return unsafe poll(&state, 1, 0) > 0
    }

    /// Makes every thread end after the request that it serves. Does not wait.
    func stop() { crew.stop() }

    /// Whether every thread has ended within the time. One may miss the signal of `stop`: it is given again.
    func waitForEnd(milliseconds: Int) -> Bool { crew.waitForEnd(milliseconds: milliseconds) }

    /// For DESTROY, after which no request comes: returns when those before it have been served, on the other threads.
    func waitForOthers() { crew.waitForOthers() }

    /// The life of one thread of the crew.
    private func work(at post: Crew.Post) -> Crew.End {
        guard let raw = unsafe raw else { preconditionFailure("a session without libfuse") }
        do throws(Ext4Error) {
            let worker = try Worker(post.source)
            defer { worker.leave() }
            while true {
                let (count, isLast) = crew.wait(at: post) { unsafe worker.receive(raw) }
                if count == -Int(EINTR) || count == -Int(EAGAIN) {
                    if crew.isStopping { return .all }
                    continue
                }
                if count == 0 { return .all }
                guard count > 0 else { throw .io(errno: CInt(-count), operation: "request", offset: 0, count: 0) }
                if isLast { start(post) }
                unsafe worker.process(raw, self)
            }
        } catch {
            log.error("a thread cannot serve: \(error)")
            return .alone
        }
    }
}
