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
        _ location: JournalLocation, onto device: any BlockDevice, _ superBlock: SuperBlock, readOnly: Bool,
        mustHoldSuperBlock: Bool
    ) throws(Ext4Error) {
        let target = ReplayTarget(blockCount: superBlock.blockCount, sharesDeviceWithLog: true)
        let plan = try RecoveryPlan.scan(location.log, for: target)
        guard !plan.hasFastCommits else {
            throw .unsupported(
                features: ["fast_commit"],
                hint: "the log ends with fast commits, which only Linux replays so far; try -o ro,norecovery")
        }
        guard !plan.isDamaged || readOnly else {
            throw .refused(
                "the journal is damaged (\(plan.end)); jext4-replay show tells where, mount with -o ro to look")
        }
        let home = FSBlock(UInt64(SuperBlock.byteOffset / superBlock.blockByteCount))
        guard !mustHoldSuperBlock || plan.copies.contains(where: { $0.home == home }) else {
            throw .corrupt("super block", where: "checksum, and the log holds no copy")
        }
        _ = try plan.apply(from: location.log, to: device)
        try plan.markEmpty(location.log)
    }
}
