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

    package init(on device: any BlockDevice) throws(Ext4Error) {
        self.device = device
        file = try SuperBlockFile(device: device)
        superBlock = try file.decoded()
        let unnamed = Features.names(superBlock.features.incompatible).filter { $0.hasPrefix("FEATURE_") }
        guard unnamed.isEmpty else {
            throw .unsupported(features: unnamed, hint: "the volume was made by a newer system")
        }
        let hasJournal = superBlock.features.compatible.contains(.hasJournal)
        journal = hasJournal ? try JournalLocation(on: device, superBlock) : nil
    }

    package var needsRecovery: Bool { superBlock.features.incompatible.contains(.needsRecovery) }

    /// What the log holds and what replay would do. Writes nothing.
    package func plan(
        _ journal: JournalLocation, detail: RecoveryPlan.Detail = .copies
    ) throws(Ext4Error) -> RecoveryPlan {
        let target = ReplayTarget(blockCount: superBlock.blockCount, sharesDeviceWithLog: true)
        return try RecoveryPlan.scan(journal.log, for: target, detail: detail)
    }

    /// Replays, and clears needs_recovery once the log is empty: what e2fsck -E journal_only does. Orphans are left to
    /// the next mount. s_errno stays in the journal, for the next mount to hear of.
    package func apply(_ plan: RecoveryPlan, _ journal: JournalLocation) throws(Ext4Error) -> ReplayCounters {
        let counters = try plan.apply(from: journal.log, to: device)
        if !plan.isEmpty { try plan.markEmpty(journal.log) }
        // The replay may have written the super block.
        try file.reread()
        let now = try file.decoded()
        if now.features.incompatible.contains(.needsRecovery) {
            try file.setNeedsRecovery(false, hasChecksums: now.hasMetadataChecksums)
        }
        return counters
    }
}
