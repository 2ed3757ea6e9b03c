internal import BlockIO
internal import Ext4Format
internal import FileSystem
internal import Journal
internal import Offline

/// The volume before and after a replay that is only thought of: whose a block is, and what changes in it.
struct Inspection {
    /// The blocks of the volume that the replay writes, ascending, those of the log left out.
    let blocks: [FSBlock]
    private let before: any BlockDevice
    private let after: any BlockDevice
    private let blockByteCount: Int
    private let owners: BlockOwners
    private var paths: PathFinder?
    /// Nil when the volume cannot be read even after the replay.
    private var changes: ReplayChanges?

    /// `others` are blocks that will be asked about beside those that the replay writes.
    init(
        _ image: OpenImage, _ plan: RecoveryPlan, _ journal: JournalLocation, others: some Sequence<FSBlock> = []
    ) throws(Ext4Error) {
        let written: [FSBlock]
        (after, written) = try Self.outcome(image, plan, journal)
        before = image.device
        blockByteCount = image.volume.superBlock.blockByteCount
        let hasLog = journal.target.sharesDeviceWithLog
        blocks = written.filter { !hasLog || !journal.log.contains($0) }.sorted()
        let old = try Self.reader(before), new = try Self.reader(after)
        owners = try BlockOwners(of: blocks + others, after: new, before: old)
        guard let new else { return }
        changes = ReplayChanges(before: before, old: old, new: new, owners: owners)
        var paths = PathFinder(new)
        for block in blocks {
            guard let owner = owners.owner(of: block), owner.kind == .directory, !owner.isFormer,
                let directory = owner.inode
            else { continue }
            paths.learn(new.names(in: try new.block(block.rawValue)), in: directory)
        }
        self.paths = paths
    }

    /// A volume that is too damaged for fast commits, or whose super block the log spoils, is shown without the rest.
    private static func outcome(
        _ image: OpenImage, _ plan: RecoveryPlan, _ journal: JournalLocation
    ) throws(Ext4Error) -> (any BlockDevice, [FSBlock]) {
        do throws(Ext4Error) { return try image.volume.outcome(of: plan, journal) } catch {
            if case .io = error { throw error }
            return (plan.replayed(over: image.device, from: journal.log), plan.copies.map(\.home))
        }
    }

    /// Nil where the super block cannot be read, as when a replay was cut short in the middle of it.
    private static func reader(_ device: any BlockDevice) throws(Ext4Error) -> VolumeReader? {
        do throws(Ext4Error) { return try VolumeReader(on: device) } catch {
            if case .io = error { throw error }
            return nil
        }
    }

    mutating func owner(of block: FSBlock) throws(Ext4Error) -> OwnerText? {
        guard let owner = owners.owner(of: block) else { return nil }
        return OwnerText(owner, path: try owner.inode.flatMap { inode throws(Ext4Error) in try path(of: inode) })
    }

    /// Nil when it is not cheap to find.
    mutating func path(of inode: InodeNumber) throws(Ext4Error) -> [UInt8]? { try paths?.path(of: inode) }

    /// What changes in a block, names left out; nil when it keeps its bytes.
    mutating func changes(of block: FSBlock) throws(Ext4Error) -> [Change]? {
        if changes != nil { return try changes?.changes(of: block) }
        let old = AlignedBuffer(byteCount: blockByteCount), new = AlignedBuffer(byteCount: blockByteCount)
        try before.read(into: old, at: block.rawValue * UInt64(blockByteCount))
        try after.read(into: new, at: block.rawValue * UInt64(blockByteCount))
        return old.isEqual(to: new) ? nil : []
    }

    /// The names that came and went, and the sums, when all blocks have been asked about.
    mutating func nameChanges() -> [Change] { changes?.nameChanges() ?? [] }
    var summary: ReplayChanges.Summary? { changes?.summary }
}
