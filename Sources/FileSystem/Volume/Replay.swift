internal import BlockIO
internal import Ext4Format
internal import Journal

extension FileSystem {
    /// The volume at its last committed transaction, for writing the device itself: the log is verified as a whole
    /// before anything is written home, and marked empty only when all is on the medium.
    ///
    /// A log with damage in its middle is refused for writing: what lies behind it was acknowledged once, and dropping
    /// it is the owner's decision. A read-only mount shows the good part.
    static func recover(
        _ device: any BlockDevice, _ superBlock: SuperBlock, _ location: JournalLocation, _ options: MountOptions,
        readOnly: Bool, mustHoldSuperBlock: Bool
    ) throws(Ext4Error) -> any BlockDevice {
        var recovery = RecoveryOptions()
        // What a read-only mount needs of the log its cache keeps.
        recovery.memoryByteCount = readOnly ? 0 : options.cacheByteCount
        let plan = try RecoveryPlan.scan(location.log, for: location.target, options: recovery)
        guard !plan.isDamaged || readOnly else { throw .refused(plan.refusal) }
        let home = FSBlock(UInt64(SuperBlock.byteOffset / superBlock.blockByteCount))
        guard !mustHoldSuperBlock || plan.copies.contains(where: { $0.home == home }) else {
            throw .corrupt("super block", where: "checksum, and the log holds no copy")
        }
        let errors = mustHoldSuperBlock ? nil : superBlock.errors
        if readOnly { return try outcome(of: plan, log: location.log, over: device, options, keeping: errors) }
        _ = try carryOut(plan, log: location.log, onto: device, options, keeping: errors)
        return device
    }

    /// Marks a log empty that a volume without needs_recovery has, as Linux does when it mounts one for writing.
    /// Whoever cleared the flag may have written since, without the journal, what a replay would write over.
    static func drop(_ location: inout JournalLocation, _ options: MountOptions) throws(Ext4Error) {
        var recovery = RecoveryOptions()
        // Only where it ends is asked.
        recovery.memoryByteCount = 0
        let plan = try RecoveryPlan.scan(location.log, for: location.target, options: recovery)
        try plan.markEmpty(location.log)
        location.superBlock = try location.log.readSuperBlock()
        options.notify("the log was not empty, and was dropped: the volume says that it needs no recovery")
    }

    /// The volume as `carryOut` would leave it. What the log holds is read from there when it is asked for, so that
    /// memory is taken by fast commits alone.
    private static func outcome(
        of plan: RecoveryPlan, log: LogArea, over device: any BlockDevice, _ options: MountOptions,
        keeping errors: VolumeErrors?
    ) throws(Ext4Error) -> OverlayDevice {
        do throws(Ext4Error) {
            return try tryOut(plan, log: log, over: device, options, keeping: errors)
        } catch {
            guard case .refused = error else { throw error }
            // What the full commits hold is better than no look.
            options.notify("the fast commits at the end of the log are not shown: \(error)")
            return OverlayDevice(over: plan.replayed(over: device, from: log))
        }
    }

    /// Carries the plan out in memory. `.refused` when its fast commits contradict the volume.
    private static func tryOut(
        _ plan: RecoveryPlan, log: LogArea, over device: any BlockDevice, _ options: MountOptions,
        keeping errors: VolumeErrors?
    ) throws(Ext4Error) -> OverlayDevice {
        let result = OverlayDevice(over: plan.replayed(over: device, from: log))
        if let errors { try SuperBlockFile(device: result).keep(errors) }
        let journalDevice = log.isJournalDevice ? OverlayDevice(over: log.device) : nil
        do throws(Ext4Error) {
            try replayFastCommits(of: plan, onto: result, journalDevice: journalDevice, options)
        } catch {
            if case .io = error { throw error }
            throw .refused(
                "the fast commits at the end of the log cannot be replayed (\(error)); 'jext4-replay apply --up-to "
                    + "\(plan.endID.rawValue &- 1) IMAGE' applies all but them, Linux may replay them")
        }
        return result
    }

    /// Writes home what the plan has found, then replays the fast commits behind it, then marks the log empty.
    ///
    /// Fast commits become one transaction in the place of the one that they are a part of, with its sequence: until
    /// its commit block is on the medium they are valid, and from then on they are not. That they can be carried out
    /// is tried in memory first: a log which contradicts its volume changes nothing.
    ///
    /// `errors` are what the super block at home had recorded past the log; they are in it again before the log goes.
    static func carryOut(
        _ plan: RecoveryPlan, log: LogArea, onto device: any BlockDevice, _ options: MountOptions,
        keeping errors: VolumeErrors?, progress: RecoveryProgress.Handler? = nil
    ) throws(Ext4Error) -> ReplayCounters {
        if plan.hasFastCommits { _ = try tryOut(plan, log: log, over: device, options, keeping: nil) }
        let counters = try plan.apply(from: log, to: device, progress: progress)
        if let errors { try SuperBlockFile(device: device).keep(errors) }
        if plan.hasFastCommits {
            let journalDevice = log.isJournalDevice ? log.device : nil
            try replayFastCommits(of: plan, onto: device, journalDevice: journalDevice, options)
        } else if !plan.isEmpty {
            try plan.markEmpty(log)
        }
        return counters
    }

    /// `device` holds what the full commits of the plan give.
    private static func replayFastCommits(
        of plan: RecoveryPlan, onto device: any BlockDevice, journalDevice: (any BlockDevice)?, _ options: MountOptions
    ) throws(Ext4Error) {
        guard let log = plan.fastCommits, plan.hasFastCommits else { return }
        let superBlock = try SuperBlockFile(device: device).decoded()
        try FeaturePolicy.check(superBlock, readOnly: false)
        var location = try JournalLocation(on: device, superBlock, journalDevice: journalDevice)
        location.superBlock = try plan.markContinued(location.log)
        let volume = try Volume(continuing: device, superBlock, location, options)
        let fileSystem = try FileSystem(checking: volume)
        try volume.blocks.recount()
        try volume.inodes.recount()
        _ = try fileSystem.orphans.load(volume, fileSystem.inodes, listHead: superBlock.lastOrphan)
        try FastCommitReplay(log, on: fileSystem).run()
        try volume.journal?.close()
    }
}

extension RecoveryPlan {
    /// What a mount says of a damaged log: where it is good, and what can be done.
    fileprivate var refusal: String {
        let what =
            if case .damaged(let problem, let later) = end {
                "\(problem.kind.rawValue) at log block \(problem.position), and transactions up to "
                    + "\(later.rawValue) had been committed"
            } else if case .damaged(let problem) = fastCommits?.end {
                "\(problem.what) at log block \(problem.position), among the fast commits"
            } else {
                "it contradicts itself"
            }
        return "the journal is damaged: \(what). 'jext4-replay apply --up-to \(endID.rawValue &- 1) IMAGE' applies the "
            + "\(transactions.count) good transactions and drops the rest, -o ro shows what they give"
    }
}
