internal import BlockIO
internal import Ext4Format
internal import Journal

extension FileSystem {
    /// Brings the volume to its last committed transaction: the log is verified as a whole before anything is written
    /// home, and marked empty only when all is on the medium.
    ///
    /// A log with damage in its middle is refused for writing: what lies behind it was acknowledged once, and dropping
    /// it is the owner's decision. A read-only mount shows the good part.
    static func replay(
        _ location: JournalLocation, onto device: any BlockDevice, _ superBlock: SuperBlock, _ options: MountOptions,
        readOnly: Bool, mustHoldSuperBlock: Bool
    ) throws(Ext4Error) {
        var recovery = RecoveryOptions()
        recovery.memoryByteCount = options.cacheByteCount
        let plan = try RecoveryPlan.scan(location.log, for: location.target, options: recovery)
        guard !plan.isDamaged || readOnly else { throw .refused(plan.refusal) }
        let home = FSBlock(UInt64(SuperBlock.byteOffset / superBlock.blockByteCount))
        guard !mustHoldSuperBlock || plan.copies.contains(where: { $0.home == home }) else {
            throw .corrupt("super block", where: "checksum, and the log holds no copy")
        }
        do throws(Ext4Error) {
            _ = try carryOut(
                plan, log: location.log, onto: device, options, keeping: mustHoldSuperBlock ? nil : superBlock.errors)
        } catch {
            // Refused: tried in vain, and nothing has been changed. What the full commits hold is better than no look.
            guard case .refused = error, plan.hasFastCommits, readOnly else { throw error }
            options.notify("the fast commits at the end of the log are not shown: \(error)")
            try plan.apply(from: location.log, to: device)
        }
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
        let journalDevice = log.isJournalDevice ? log.device : nil
        if plan.hasFastCommits {
            let trial = OverlayDevice(over: plan.replayed(over: device, from: log))
            let trialJournal = journalDevice.map { OverlayDevice(over: $0) }
            do throws(Ext4Error) {
                try replayFastCommits(of: plan, onto: trial, journalDevice: trialJournal, options)
            } catch {
                if case .io = error { throw error }
                throw .refused(
                    "the fast commits at the end of the log cannot be replayed (\(error)); 'jext4-replay apply --up-to "
                        + "\(plan.endID.rawValue &- 1) IMAGE' applies all but them, Linux may replay them")
            }
        }
        let counters = try plan.apply(from: log, to: device, progress: progress)
        if let errors { try SuperBlockFile(device: device).keep(errors) }
        if plan.hasFastCommits {
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
        guard let log = plan.fastCommits else { return }
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
