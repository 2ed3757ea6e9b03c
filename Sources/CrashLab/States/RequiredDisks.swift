internal import BlockIO
internal import Ext4Format
internal import Synchronization

/// The disks of a trace with nothing but what must be there, one for each epoch. Each is made from one before it, with
/// which it shares what is the same.
final class RequiredDisks: Sendable {
    struct Disk: Sendable {
        let epoch: Int
        /// Only read.
        let device: OverlayDevice
        /// Of all that differs from the base.
        let hash: ImageHash
    }
    /// As many as there may be threads that are a few epochs apart.
    private static let keptCount = 8
    /// Ranges of bytes, whole sectors, that nobody reads once the disk has been recovered: they are in no hash.
    let unread: [Range<UInt64>]
    /// By epoch, ascending.
    private let kept = Mutex<[Disk]>([])

    init(unread: [Range<UInt64>]) { self.unread = unread }

    /// Fails when the base cannot be read.
    func disk(of epoch: CrashModel.Epoch, _ model: CrashModel) throws(Ext4Error) -> Disk {
        try kept.withLock { kept throws(Ext4Error) in
            let before = kept.last { $0.epoch <= epoch.index }
            if let before, before.epoch == epoch.index { return before }
            // Nothing is required in the first epoch: it ends with the first that is.
            let start = before ?? Disk(epoch: 0, device: OverlayDevice(over: model.base), hash: ImageHash())
            let disk = try advance(start, to: epoch, model)
            kept.insert(disk, at: kept.firstIndex { $0.epoch > disk.epoch } ?? kept.count)
            if kept.count > Self.keptCount { kept.removeFirst() }
            return disk
        }
    }

    private func advance(
        _ start: Disk, to epoch: CrashModel.Epoch, _ model: CrashModel
    ) throws(Ext4Error) -> Disk {
        var units: Set<UInt64> = []
        for passed in model.epochs[start.epoch..<epoch.index] {
            for number in passed.pending where model.writes[Int(number)].required <= epoch.event {
                units.formUnion(model.units(of: model.writes[Int(number)].range))
            }
        }
        let device = start.device.fork()
        var hash = start.hash
        let size = UInt64(model.disk.unitByteCount)
        for unit in units {
            let offset = unit * size
            let count = Int(min(size, device.byteCount - offset))
            let old = AlignedBuffer(byteCount: count), new = AlignedBuffer(byteCount: count)
            try device.read(into: old, at: offset)
            try new.withMutableBytes { bytes throws(Ext4Error) in
                try model.copy(unit, model.choice(of: unit, at: epoch.event), version: 0, into: &bytes, at: 0)
            }
            try device.write(new, at: offset)
            guard !unread.contains(where: { $0.contains(offset) }) else { continue }
            old.withBytes { hash.add(sectors: $0, at: offset) }
            new.withBytes { hash.add(sectors: $0, at: offset) }
        }
        return Disk(epoch: epoch.index, device: device, hash: hash)
    }
}
