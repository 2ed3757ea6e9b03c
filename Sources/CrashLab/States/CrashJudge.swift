package import BlockIO
internal import Checker
package import Ext4Format
internal import FileSystem
internal import Journal

/// Recovers what a power cut left, and says what is wrong then.
///
/// Deterministic and in one thread: the same disk gives the same calls and the same answer. What it learns of a disk it
/// learns through the device. Several threads may ask at once, each about its own disk.
package protocol CrashJudge: Sendable {
    /// A recovery that is refused throws, and that is a failure.
    func recover(_ disk: any BlockDevice) throws(Ext4Error)
    /// What is wrong with a recovered disk when power was cut in `epoch`; empty if nothing is.
    func problems(of disk: any BlockDevice, in epoch: CrashModel.Epoch) -> [String]
}

extension CrashJudge {
    /// Recovers one disk and judges it.
    package func verdict(_ disk: any BlockDevice, in epoch: CrashModel.Epoch) -> [String] {
        do throws(Ext4Error) {
            try recover(disk)
        } catch { return ["recovery: \(error)"] }
        return problems(of: disk, in: epoch)
    }
}

/// A mount of jext4 recovers, and the volume must be whole after its unmount.
package struct StructureJudge: CrashJudge {
    package init() {}

    package func recover(_ disk: any BlockDevice) throws(Ext4Error) {
        try FileSystem.mount(on: disk, options: .deterministic()).unmount()
    }

    package func problems(of disk: any BlockDevice, in epoch: CrashModel.Epoch) -> [String] {
        Self.findings(in: disk)
    }

    /// What breaks a rule of the format; empty if nothing does.
    static func findings(in disk: any BlockDevice) -> [String] { VolumeChecker(disk).check().map(\.description) }

    /// What a volume holds once, is written in place, and must be whole for a recovery to begin: the super block and
    /// that of the journal, in bytes. No order of writes saves them from garbage. None for a disk that is no volume.
    package static func soleCopies(on disk: any BlockDevice) -> [Range<UInt64>] {
        guard let volume = try? OfflineVolume(on: disk) else { return [] }
        let start = UInt64(SuperBlock.byteOffset), count = UInt64(SuperBlock.byteCount)
        var ranges = [start..<start + count]
        if let log = volume.journal?.log, volume.superBlock.journalInode != 0 {
            let journal = log.home(of: log.superBlockPosition).rawValue * UInt64(log.blockByteCount)
            ranges.append(journal..<journal + UInt64(JournalSuperBlock.byteCount))
        }
        return ranges
    }
}
