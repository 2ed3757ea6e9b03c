package import BlockIO
package import Ext4Format
package import Journal

/// An image whose journal is looked at, or replayed, without a mount.
///
/// Only the journal's own features matter here: replay moves whole blocks, whatever the file system keeps in them. A
/// feature that has no name is refused all the same, as its bit may mean another place for the journal.
package struct OfflineVolume {
    package let superBlock: SuperBlock
    /// Nil when the volume has no journal.
    package let journal: JournalLocation?
    private let device: any BlockDevice
    private let file: SuperBlockFile
    /// The super block at home is damaged; the log may hold it whole, as after a replay that was cut short.
    private let isTorn: Bool

    /// `journalDevice` is needed when the journal lies on a device of its own, and `.refused` when it does not.
    package init(on device: any BlockDevice, journalDevice: (any BlockDevice)? = nil) throws(Ext4Error) {
        self.device = device
        file = try SuperBlockFile(device: device)
        isTorn = file.isTorn
        superBlock = isTorn ? try file.decodedUnchecked() : try file.decoded()
        let unnamed = Features.names(superBlock.features.incompatible).filter { $0.hasPrefix("FEATURE_") }
        guard unnamed.isEmpty else {
            throw .unsupported(features: unnamed, hint: "the volume was made by a newer system")
        }
        let hasJournal = superBlock.features.compatible.contains(.hasJournal)
        if isTorn && !hasJournal { _ = try file.decoded() }
        journal = hasJournal ? try JournalLocation(on: device, superBlock, journalDevice: journalDevice) : nil
    }

    package var needsRecovery: Bool { superBlock.features.incompatible.contains(.needsRecovery) }

    /// The log holds something, and the volume says that it needs no recovery: a mount for writing drops such a log.
    package var isLogStale: Bool { !isTorn && !needsRecovery && journal.map { $0.superBlock.start != 0 } ?? false }

    /// What the log holds and what replay would do. Writes nothing.
    package func plan(
        _ journal: JournalLocation, detail: RecoveryPlan.Detail = .copies, options: RecoveryOptions = RecoveryOptions()
    ) throws(Ext4Error) -> RecoveryPlan {
        try RecoveryPlan.scan(journal.log, for: journal.target, detail: detail, options: options)
    }

    /// Replays, fast commits too, and clears needs_recovery once the log is empty: what e2fsck -E journal_only does.
    /// Orphans are left to the next mount. s_errno stays in the journal, for the next mount to hear of.
    package func apply(
        _ plan: RecoveryPlan, _ journal: JournalLocation, progress: RecoveryProgress.Handler? = nil
    ) throws(Ext4Error) -> ReplayCounters {
        guard !isTorn || plan.copies.contains(where: { $0.home == superBlock.superBlockPlace.block }) else {
            throw .corrupt("super block", where: "checksum, and the log holds no copy")
        }
        let counters = try FileSystem.carryOut(
            plan, log: journal.log, onto: device, MountOptions(), keeping: recordedErrors, progress: progress)
        // The replay may have written the super block.
        try file.reread()
        try Self.clearNeedsRecovery(file)
        return counters
    }

    /// What the last mount recorded in place, past the log. Nil when that cannot be believed.
    private var recordedErrors: VolumeErrors? { isTorn ? nil : superBlock.errors }

    private static func clearNeedsRecovery(_ file: SuperBlockFile) throws(Ext4Error) {
        let now = try file.decoded()
        if now.features.incompatible.contains(.needsRecovery) {
            try file.setNeedsRecovery(false, hasChecksums: now.hasMetadataChecksums)
        }
    }

    /// Sets needs_recovery, durably, so that no one takes the volume on `device` for clean. A super block that cannot
    /// be read, or has no journal, is left alone.
    package static func markForRecovery(_ device: any BlockDevice) throws(Ext4Error) {
        do throws(Ext4Error) {
            let file = try SuperBlockFile(device: device)
            let features = try file.decoded().features
            guard features.compatible.contains(.hasJournal), !features.incompatible.contains(.needsRecovery)
            else { return }
            try file.setNeedsRecovery(true, hasChecksums: features.readOnlyCompatible.contains(.metadataChecksums))
        } catch {
            if case .io = error { throw error }
        }
    }

    /// `.refused` when the volume on `device` has the feature mmp and its mark says that somebody has it mounted, on
    /// whatever machine. A super block that cannot be read says nothing.
    package static func requireUnused(_ device: any BlockDevice) throws(Ext4Error) {
        let bytes = try device.superBlockBytes()
        bytes.withMutableBytes { SuperBlock.updateChecksum(&$0) }
        let decoded = bytes.withBytes { try? SuperBlock(decoding: $0, deviceByteCount: device.byteCount) }
        guard let superBlock = decoded, superBlock.features.incompatible.contains(.multipleMountProtection) else {
            return
        }
        guard superBlock.mountProtectionBlock < superBlock.blockCount else {
            throw .corrupt("super block", where: "MMP block \(superBlock.mountProtectionBlock)")
        }
        let block = AlignedBuffer(byteCount: superBlock.blockByteCount)
        try device.read(into: block, at: superBlock.mountProtectionBlock * UInt64(superBlock.blockByteCount))
        let mark = try block.withBytes { bytes throws(Ext4Error) in
            try MountProtection(decoding: bytes, of: superBlock)
        }
        guard !mark.isClean else { return }
        let (node, name) = (PrintableText.of(mark.node), PrintableText.of(mark.device))
        throw .refused(
            "the volume is \(mark.isChecked ? "being checked" : "mounted") by node \(node) as \(name), or was when "
                + "that node stopped (mmp sequence \(mark.sequence)); --ignore-mmp is for when nobody has it")
    }

    /// The volume as `apply` leaves it, in memory, and its blocks that are written, in any order, those of a log on the
    /// same device too. Nothing is written. Nobody may write the device while this is used.
    package func outcome(
        of plan: RecoveryPlan, _ journal: JournalLocation
    ) throws(Ext4Error) -> (after: OverlayDevice, blocks: [FSBlock]) {
        let log = journal.log
        var blocks = Set(plan.copies.map(\.home))
        blocks.insert(superBlock.superBlockPlace.block)
        if !log.isJournalDevice { blocks.insert(log.home(of: log.superBlockPosition)) }
        guard plan.hasFastCommits else {
            let after = OverlayDevice(over: plan.replayed(over: device, from: log))
            let file = try SuperBlockFile(device: after)
            if let recordedErrors { try file.keep(recordedErrors) }
            try Self.clearNeedsRecovery(file)
            return (after, Array(blocks))
        }
        // What fast commits come to is known when they are carried out.
        let after = OverlayDevice(over: device)
        let volume = try OfflineVolume(
            on: after, journalDevice: log.isJournalDevice ? OverlayDevice(over: log.device) : nil)
        guard let journal = volume.journal else { preconditionFailure("a volume with a plan has a journal") }
        _ = try volume.apply(plan, journal)
        let size = UInt64(superBlock.blockByteCount)
        try after.forEachChange { offset, bytes throws(Ext4Error) in
            for block in offset / size...(offset + UInt64(bytes.byteCount) - 1) / size { blocks.insert(FSBlock(block)) }
        }
        return (after, Array(blocks))
    }
}

extension BlockDevice {
    /// The 1,024 bytes of the super block as they stand, whatever the size of a sector.
    package func superBlockBytes() throws(Ext4Error) -> AlignedBuffer {
        let sector = sectorByteCount
        let low = SuperBlock.byteOffset / sector * sector
        let high = (SuperBlock.byteOffset + SuperBlock.byteCount + sector - 1) / sector * sector
        let sectors = AlignedBuffer(byteCount: high - low), bytes = AlignedBuffer(byteCount: SuperBlock.byteCount)
        try read(into: sectors, at: UInt64(low))
        let start = SuperBlock.byteOffset - low
        sectors.withBytes { all in
            bytes.withMutableBytes { $0.copy(all.extracting(start..<start + SuperBlock.byteCount), at: 0) }
        }
        return bytes
    }
}
