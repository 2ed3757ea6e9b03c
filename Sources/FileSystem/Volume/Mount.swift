package import BlockIO
package import Ext4Format
internal import Journal

extension FileSystem {
    /// Mounts the volume on `device`: checks it, recovers it, finishes its orphans. Throws what names the fault, and
    /// has then written nothing but perhaps the replay. A read-only mount writes nothing at all: it reads in the log
    /// what a replay would write.
    package static func mount(on device: any BlockDevice, options: MountOptions) throws(Ext4Error) -> FileSystem {
        let wantsReadOnly = options.readOnly || options.noRecovery || device.isReadOnly
        let candidate = try recovered(device, options, readOnly: wantsReadOnly)
        guard wantsReadOnly else { return try started(candidate, options) }
        return try FileSystem(checking: Volume(bare: candidate.device, candidate.superBlock, options))
    }

    /// A volume that is being mounted, after its recovery.
    private struct Candidate {
        var device: any BlockDevice
        var file: SuperBlockFile
        var superBlock: SuperBlock
        /// nil where the log is not asked.
        var location: JournalLocation?
        /// Whether the log was to be left alone, and whether the super block had errors, both before the recovery.
        let isClean: Bool
        let hadErrors: Bool
    }

    private static func recovered(
        _ given: any BlockDevice, _ options: MountOptions, readOnly wantsReadOnly: Bool
    ) throws(Ext4Error) -> Candidate {
        let device = wantsReadOnly ? OverlayDevice(over: given) : given
        var journalDevice = options.journalDevice
        if wantsReadOnly, let named = journalDevice { journalDevice = OverlayDevice(over: named) }
        let file = try SuperBlockFile(device: device)
        // A write of the super block at home may be torn between its two sectors. Then the log still holds it, and what
        // leads to the log does not change: replay first, believe afterwards.
        let isTorn = file.isTorn && !options.noRecovery
        var superBlock = isTorn ? try file.decodedUnchecked() : try file.decoded()
        try FeaturePolicy.check(superBlock, readOnly: wantsReadOnly)
        if options.outOfPlace, superBlock.hasClusters {
            throw .refused("option 'outofplace' does not go with clusters of several blocks (bigalloc)")
        }
        let hasJournal = superBlock.features.compatible.contains(.hasJournal)
        if isTorn && !hasJournal { superBlock = try file.decoded() }
        let needsReplay = superBlock.features.incompatible.contains(.needsRecovery) || isTorn
        // Replay writes the log's copy over the flag that the last mount may have raised in place.
        var candidate = Candidate(
            device: device, file: file, superBlock: superBlock, isClean: !needsReplay,
            hadErrors: !isTorn && superBlock.state.contains(.hasErrors))
        // To look at what needs no recovery, nobody has to have the device with the journal at hand.
        let isLogElsewhere = superBlock.journalInode == 0 && journalDevice == nil
        guard hasJournal && !options.noRecovery && !(wantsReadOnly && isLogElsewhere && !needsReplay) else {
            return candidate
        }
        let location = try JournalLocation(on: device, superBlock, journalDevice: journalDevice)
        candidate.location = location
        guard needsReplay else { return candidate }
        candidate.device = try recover(
            device, superBlock, location, options, readOnly: wantsReadOnly, mustHoldSuperBlock: isTorn)
        candidate.file = try SuperBlockFile(device: candidate.device)
        candidate.superBlock = try candidate.file.decoded()
        try FeaturePolicy.check(candidate.superBlock, readOnly: wantsReadOnly)
        candidate.location = try JournalLocation(
            on: candidate.device, candidate.superBlock, journalDevice: journalDevice)
        return candidate
    }

    /// Starts the journal, marks the volume, and takes up its orphans.
    private static func started(_ candidate: Candidate, _ options: MountOptions) throws(Ext4Error) -> FileSystem {
        guard var location = candidate.location else { preconditionFailure("a writable volume has a journal") }
        let superBlock = candidate.superBlock
        // What is refused is not marked. It is looked at through a cache of its own, since the one of the mount must
        // not hold the super block before the mark is in it.
        _ = try FileSystem(checking: Volume(bare: candidate.device, superBlock, options))
        if candidate.isClean && location.superBlock.start != 0 { try drop(&location, options) }
        let volume = try Volume(writing: candidate.device, superBlock, location, options)
        do throws(Ext4Error) {
            if !superBlock.features.incompatible.contains(.needsRecovery) {
                try candidate.file.setNeedsRecovery(true, hasChecksums: superBlock.hasMetadataChecksums)
            }
            let fileSystem = try FileSystem(checking: volume)
            try fileSystem.start(hadErrors: candidate.hadErrors, journalError: location.superBlock.errorNumber)
            return fileSystem
        } catch {
            // The threads of the journal must not outlive a mount that failed.
            try? volume.journal?.close()
            throw error
        }
    }

    convenience init(checking volume: Volume) throws(Ext4Error) {
        let inodes = InodeCache()
        self.init(volume: volume, inodes: inodes, orphans: OrphanTable(blockByteCount: volume.blockByteCount))
        let root = try inodes.inode(.root, volume)
        guard root.isDirectory, root.field({ $0.linkCount }) > 0 else {
            throw .corrupt("root directory", where: "inode 2 is not a directory")
        }
        _ = try Directory(volume: volume, inode: root).parent()
    }

    /// The first changes of a writable mount: exact counts, the flag of errors kept, the mount noted, the
    /// orphans finished. `hadErrors` is the flag as it was before the replay.
    private func start(hadErrors: Bool, journalError: Int32) throws(Ext4Error) {
        let hasErrors = journalError != 0 || hadErrors
        // Linux keeps the counts of the super block only roughly, and its log may hold any of them: the descriptors
        // know.
        try volume.blocks.recount()
        try volume.inodes.recount()
        let now = UInt32(truncatingIfNeeded: volume.now().seconds)
        let hasOrphanFile = volume.superBlock.orphanFileInode != 0
        try volume.withHandle(credits: 1) { handle throws(Ext4Error) in
            try volume.modifySuperBlock(in: handle) { bytes in
                bytes[SuperBlock.Layout.mountTime] = now
                bytes[SuperBlock.Layout.mountCount] &+= 1
                volume.errors.merge(into: &bytes)
                if hasErrors { VolumeErrors.raiseFlag(in: &bytes) }
                var words = Features.ReadOnlyCompatible(rawValue: bytes[SuperBlock.Layout.readOnlyCompatible])
                // Any file may pass 2 GiB from now on, and e2fsck then wants the flag.
                words.insert(.largeFile)
                if hasOrphanFile { words.insert(.orphanPresent) }
                bytes[SuperBlock.Layout.readOnlyCompatible] = words.rawValue
            }
        }
        try takeOver(journalError)
        for number in try orphans.load(volume, inodes, listHead: volume.superBlock.lastOrphan) {
            do throws(Ext4Error) { try finishOrphan(number) } catch {
                // One that cannot be finished stays an orphan, and keeps nobody from the rest of the volume.
                report(error, about: number)
                if isReadOnly { throw error }
            }
        }
    }

    /// An error that aborted the journal of the last mount is the file system's from now on, so that e2fsck checks it
    /// in full: the flag is durable before the journal forgets.
    private func takeOver(_ journalError: Int32) throws(Ext4Error) {
        if journalError != 0 {
            volume.options.notify("an earlier mount ended with error \(journalError) of the journal")
            try volume.journal?.sync()
            try volume.journal?.clearRecordedError()
        }
        if volume.superBlock.state.contains(.hasErrors) || journalError != 0 {
            volume.options.notify("the volume has recorded errors: e2fsck is recommended")
        }
    }

    /// An inode without a name is deleted; one with a name was being cut to its size.
    private func finishOrphan(_ number: InodeNumber) throws(Ext4Error) {
        let inode = try inodes.inode(number, volume)
        guard inode.field({ $0.linkCount }) > 0 else {
            _ = inodes.markUnlinked(number)
            return try delete(number)
        }
        guard inode.hasMap || inode.isInline else {
            throw .corrupt("orphan", where: "inode \(number.rawValue) has a name and nothing to cut")
        }
        try inode.lock.withWriteLock { () throws(Ext4Error) in
            try Truncation(volume: volume, inode: inode, orphans: orphans, inodes: inodes).finishCut()
        }
    }

    /// Deletes what has no name any more, commits, writes everything home, empties the log and clears needs_recovery.
    /// Called once, when no other call is under way. After an abort it writes nothing, and says so.
    package func unmount() throws(Ext4Error) {
        guard let journal = volume.journal else { return }
        guard !journal.isAborted else {
            try? journal.close()
            // What was shut down on purpose is as it should be.
            if journal.abortCause == .shutDown { return }
            throw .aborted
        }
        abortAllBatches()
        dropAllDelegations()
        for number in inodes.unlinked { deleteOrLeave(number) }
        do throws(Ext4Error) {
            try stampUnmount()
        } catch {
            // What has finished before is committed all the same.
            try journal.close()
            throw error
        }
        try journal.close()
        try SuperBlockFile(device: volume.device).setNeedsRecovery(false, hasChecksums: volume.hasChecksums)
    }

    private func stampUnmount() throws(Ext4Error) {
        let hasOrphans = orphans.hasSlotsInUse
        let now = UInt32(truncatingIfNeeded: volume.now().seconds)
        try volume.withHandle(credits: 1) { handle throws(Ext4Error) in
            try volume.modifySuperBlock(in: handle) { bytes in
                bytes[SuperBlock.Layout.writeTime] = now
                volume.errors.merge(into: &bytes)
                var words = Features.ReadOnlyCompatible(rawValue: bytes[SuperBlock.Layout.readOnlyCompatible])
                if !hasOrphans { words.remove(.orphanPresent) }
                bytes[SuperBlock.Layout.readOnlyCompatible] = words.rawValue
            }
        }
    }
}

extension Volume {
    /// A volume for writing: the log is empty, needs_recovery is set.
    fileprivate convenience init(
        writing device: any BlockDevice, _ superBlock: SuperBlock, _ location: JournalLocation, _ options: MountOptions
    ) throws(Ext4Error) {
        var journalOptions = JournalOptions()
        journalOptions.commitSeconds = options.commitSeconds
        journalOptions.isManual = options.manualJournal
        try self.init(device, superBlock, location, options, journalOptions)
    }

    /// For one transaction in the place of what a log ends with, as large as the log allows.
    convenience init(
        continuing device: any BlockDevice, _ superBlock: SuperBlock, _ location: JournalLocation,
        _ options: MountOptions
    ) throws(Ext4Error) {
        var journalOptions = JournalOptions()
        journalOptions.isManual = true
        journalOptions.continuesLog = true
        journalOptions.transactionShare = 1
        try self.init(device, superBlock, location, options, journalOptions)
    }

    private convenience init(
        _ device: any BlockDevice, _ superBlock: SuperBlock, _ location: JournalLocation, _ options: MountOptions,
        _ journalOptions: JournalOptions
    ) throws(Ext4Error) {
        let cache = MetadataCache(
            device: device, blockByteCount: superBlock.blockByteCount, blockCount: superBlock.blockCount,
            capacityBytes: options.cacheByteCount)
        var journalOptions = journalOptions
        journalOptions.isWide = superBlock.features.incompatible.contains(.is64Bit)
        journalOptions.wantsChecksums = superBlock.hasMetadataChecksums
        let clock = options.clock
        let journal = try Journal(
            device: device, log: location.log, cache: cache, superBlock: location.superBlock, options: journalOptions,
            clock: {
                let now = clock()
                return CommitTime(seconds: UInt64(max(now.seconds, 0)), nanoseconds: now.nanoseconds)
            })
        self.init(device: device, superBlock: superBlock, cache: cache, journal: journal, options: options)
        blocks.protect(location.runs)
        // Weak: the journal belongs to the volume.
        journal.setBeforeCommit { [weak self] handle throws(Ext4Error) in try self?.writeCounts(in: handle) }
    }

    /// Every transaction carries the counts as its bitmaps have them, so that no replay leaves them wrong.
    private func writeCounts(in handle: borrowing Handle) throws(Ext4Error) {
        let freeBlocks = blocks.durableFreeBlockCount, freeInodes = inodes.freeInodeCount
        let isWide = superBlock.features.incompatible.contains(.is64Bit)
        try modifySuperBlock(in: handle) { bytes in
            bytes[SuperBlock.Layout.freeBlocksLow] = UInt32(truncatingIfNeeded: freeBlocks)
            if isWide { bytes[SuperBlock.Layout.freeBlocksHigh] = UInt32(truncatingIfNeeded: freeBlocks >> 32) }
            bytes[SuperBlock.Layout.freeInodes] = freeInodes
            errors.merge(into: &bytes)
        }
    }
}
