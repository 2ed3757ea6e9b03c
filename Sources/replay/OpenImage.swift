internal import BlockIO
internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Journal
internal import Offline

/// An image that this process has claimed, opened for reading.
struct OpenImage {
    let device: FileDevice
    let volume: OfflineVolume
    /// Nil when nobody wants to know.
    let progress: Progress?
    private let claim: ImageClaim
    /// Of a journal on a device of its own.
    private let journalClaim: ImageClaim?
    private let offset: UInt64

    /// A command that only reads takes a shared claim. One that writes opens the image for that only when all has been
    /// decided: `writableVolume`.
    init(_ options: ImageOptions, forWriting: Bool) throws(Ext4Error) {
        claim = try Self.claim(options.image, forWriting: forWriting)
        offset = options.offset
        progress = Progress.wanted(isForced: options.progress)
        device = try FileDevice(path: claim.path, readOnly: true, start: offset)
        journalClaim = try options.journal.map { name throws(Ext4Error) in
            try Self.claim(name, forWriting: forWriting)
        }
        let journal = try journalClaim.map { claim throws(Ext4Error) in
            try FileDevice(path: claim.path, readOnly: true)
        }
        volume = try OfflineVolume(on: device, journalDevice: journal)
    }

    /// The volume for writing: in the image, or in its copy. A journal on a device of its own is written only in the
    /// first case.
    func writableVolume(_ copy: String?) throws(Ext4Error) -> OfflineVolume {
        let target = try FileDevice(path: copy ?? claim.path, readOnly: false, start: offset)
        let journal = try journalClaim.map { claim throws(Ext4Error) -> any BlockDevice in
            let device = try FileDevice(path: claim.path, readOnly: copy != nil)
            return copy == nil ? device : OverlayDevice(over: device)
        }
        return try OfflineVolume(on: target, journalDevice: journal)
    }

    /// What the log holds; `last` is the last transaction that is wanted.
    func plan(
        _ journal: JournalLocation, detail: RecoveryPlan.Detail = .copies, upTo last: UInt32? = nil
    ) throws(Ext4Error) -> RecoveryPlan {
        var options = RecoveryOptions()
        options.memoryByteCount = max(options.memoryByteCount, Self.quarterOfMemory)
        options.last = last.map { TransactionID($0) }
        options.progress = progress?.handler
        defer { progress?.end() }
        return try volume.plan(journal, detail: detail, options: options)
    }

    /// No log that mke2fs makes is larger than a common machine can hold at once, and then it is read once only.
    private static var quarterOfMemory: Int {
        min(sysconf(CInt(_SC_PHYS_PAGES)) * sysconf(CInt(_SC_PAGESIZE)), containerLimit ?? .max) / 4
    }

    /// What a container may use, where it has a limit: `memory.max` of its control group.
    private static var containerLimit: Int? {
        guard let text = readText("/sys/fs/cgroup/memory.max") else { return nil }
        return Int(text.prefix { $0 != "\n" })
    }

    static func claim(_ image: String, forWriting: Bool) throws(Ext4Error) -> ImageClaim {
        guard let path = resolvedPath(image) else {
            throw .refused("cannot open \(image): \(systemText(errno))")
        }
        return try ImageClaim(path, readOnly: !forWriting, lockFile: nil, keepsMountsOff: forWriting)
    }

    /// The whole file, boot sectors and neighbours of the volume too.
    func copy(to path: String) throws(Ext4Error) { try ImageCopy.make(of: claim.path, at: path) }
}
