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
    private let claim: ImageClaim
    private let offset: UInt64

    /// A command that only reads takes a shared claim. One that writes opens the image for that only when all has been
    /// decided: `target`.
    init(_ options: ImageOptions, forWriting: Bool) throws(Ext4Error) {
        claim = try Self.claim(options.image, forWriting: forWriting)
        offset = options.offset
        device = try FileDevice(path: claim.path, readOnly: true, start: offset)
        volume = try OfflineVolume(on: device)
    }

    static func claim(_ image: String, forWriting: Bool) throws(Ext4Error) -> ImageClaim {
        guard let path = resolvedPath(image) else {
            throw .refused("cannot open \(image): \(systemText(errno))")
        }
        return try ImageClaim(path, readOnly: !forWriting, lockFile: nil)
    }

    /// The whole file, boot sectors and neighbours of the volume too.
    func copy(to path: String) throws(Ext4Error) { try ImageCopy.make(of: claim.path, at: path) }

    /// The image, or its copy, for writing.
    func target(_ copy: String?) throws(Ext4Error) -> FileDevice {
        try FileDevice(path: copy ?? claim.path, readOnly: false, start: offset)
    }

    /// For each copy of the plan, in order, whether its home holds other bytes now.
    func changes(by plan: RecoveryPlan, _ journal: JournalLocation) throws(Ext4Error) -> [Bool] {
        let after = plan.replayed(over: device, from: journal.log)
        let size = volume.superBlock.blockByteCount
        let old = AlignedBuffer(byteCount: size), new = AlignedBuffer(byteCount: size)
        var changes: [Bool] = []
        changes.reserveCapacity(plan.copies.count)
        for copy in plan.copies {
            try device.read(into: old, at: copy.home.rawValue * UInt64(size))
            try after.read(into: new, at: copy.home.rawValue * UInt64(size))
            changes.append(!old.isEqual(to: new))
        }
        return changes
    }
}
