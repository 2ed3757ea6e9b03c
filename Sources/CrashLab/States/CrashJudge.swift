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
    /// All that there is to say of a recovered disk, whenever power was cut.
    associatedtype Finding: Sendable
    /// A recovery that is refused throws, and that is a failure.
    func recover(_ disk: any BlockDevice) throws(Ext4Error)
    /// Only reads.
    func examine(_ disk: any BlockDevice) -> Finding
    /// What is wrong with what was found when power was cut in `epoch`; empty if nothing is.
    func problems(of finding: Finding, in epoch: CrashModel.Epoch) -> [String]
    /// Ranges of bytes, whole sectors, of a disk like `base` that `examine` does not read: what a log leaves behind. If
    /// it does so all the same, nothing is wrong but time is lost.
    func unread(of base: any BlockDevice) -> [Range<UInt64>]
}

extension CrashJudge {
    package func unread(of base: any BlockDevice) -> [Range<UInt64>] { [] }

    package func problems(of disk: any BlockDevice, in epoch: CrashModel.Epoch) -> [String] {
        problems(of: examine(disk), in: epoch)
    }

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

    /// What breaks a rule of the format; empty if nothing does.
    package func examine(_ disk: any BlockDevice) -> [String] { VolumeChecker(disk).check().map(\.description) }

    package func problems(of finding: [String], in epoch: CrashModel.Epoch) -> [String] { finding }

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

    /// The log behind its super block, where that lies on the volume.
    package func unread(of base: any BlockDevice) -> [Range<UInt64>] {
        // To look at a volume may heal its super block.
        guard let log = try? OfflineVolume(on: OverlayDevice(over: base)).journal?.log, !log.isJournalDevice else {
            return []
        }
        let size = UInt64(log.blockByteCount)
        var ranges: [Range<UInt64>] = []
        for position in 1..<log.blockCount {
            let start = log.home(of: position).rawValue * size
            if let last = ranges.last, last.upperBound == start {
                ranges[ranges.count - 1] = last.lowerBound..<start + size
            } else {
                ranges.append(start..<start + size)
            }
        }
        return ranges
    }
}
