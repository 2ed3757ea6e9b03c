internal import BlockIO
internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Journal

/// An image that this process has claimed and opened.
struct OpenImage {
    let device: FileDevice
    let volume: OfflineVolume
    private let claim: ImageClaim

    /// A command that only reads takes a shared claim and cannot write.
    init(_ options: ImageOptions, forWriting: Bool) throws(Ext4Error) {
        guard let resolved = unsafe realpath(options.image, nil) else {
            throw .refused("cannot open \(options.image): \(systemText(errno))")
        }
        defer { unsafe free(resolved) }
        let path = unsafe String(cString: resolved)
        claim = try ImageClaim(path, readOnly: !forWriting, lockFile: nil)
        // Through the page cache: the log is read once to verify it and once to apply it.
        device = try FileDevice(path: path, readOnly: !forWriting, direct: false, start: options.offset)
        volume = try OfflineVolume(on: device)
    }

    /// For each copy of the plan, in order, whether its home holds other bytes now.
    func changes(by plan: RecoveryPlan, _ journal: JournalLocation) throws(Ext4Error) -> [Bool] {
        let after = OverlayDevice(over: device)
        try plan.apply(from: journal.log, to: after)
        let size = volume.superBlock.blockByteCount
        let old = AlignedBuffer(byteCount: size), new = AlignedBuffer(byteCount: size)
        var changes: [Bool] = []
        changes.reserveCapacity(plan.copies.count)
        for copy in plan.copies {
            try device.read(into: old, at: copy.home.rawValue * UInt64(size))
            try after.read(into: new, at: copy.home.rawValue * UInt64(size))
            let differs = old.withBytes { old in
                new.withBytes { new in
                    stride(from: 0, to: size, by: 8).contains { old[LE<UInt64>($0)] != new[LE<UInt64>($0)] }
                }
            }
            changes.append(differs)
        }
        return changes
    }
}
