package import BlockIO
package import Ext4Format
package import Journal
internal import Allocator

/// Where the journal of an image lies and what its super block says: read before the volume is mounted.
package struct JournalLocation: Sendable {
    package let log: LogArea
    package internal(set) var superBlock: JournalSuperBlock
    /// What the log may be replayed into.
    package let target: ReplayTarget
    /// The blocks of the log on the volume, in file order; none when it lies on a device of its own.
    let runs: [BlockRun]

    /// Finds the log on the volume, or on `journalDevice` when the super block says that it lies on another one.
    /// `.refused` when the two do not belong together.
    package init(
        on device: any BlockDevice, _ superBlock: SuperBlock, journalDevice: (any BlockDevice)? = nil
    ) throws(Ext4Error) {
        if superBlock.journalInode != 0 {
            guard journalDevice == nil else {
                throw .refused("the journal lies on the volume itself, and a journal device was named")
            }
            do throws(Ext4Error) {
                try self.init(inodeOn: device, superBlock, nil)
            } catch {
                // What leads to the inode may have been on its way home when power failed, and lies in the log itself.
                let isNeeded = superBlock.features.incompatible.contains(.needsRecovery)
                guard isNeeded, let remembered = superBlock.rememberedJournal,
                    let found = try? Self(inodeOn: device, superBlock, remembered)
                else { throw error }
                self = found
            }
        } else {
            guard let journalDevice else {
                throw .refused(
                    "the journal lies on another device: name it with -o journal_dev=PATH, or --journal PATH for"
                        + " jext4-replay")
            }
            try self.init(external: journalDevice, of: device, superBlock)
        }
    }

    /// A journal device belongs to one volume, and each names the UUID of the other.
    private init(
        external device: any BlockDevice, of volume: any BlockDevice, _ superBlock: SuperBlock
    ) throws(Ext4Error) {
        guard device.byteCount >= UInt64(SuperBlock.byteOffset + SuperBlock.byteCount) else {
            throw .refused("not an ext4 journal device (\(device.byteCount) bytes are too few)")
        }
        let bytes = try device.superBlockBytes()
        let found = try bytes.withBytes { bytes throws(Ext4Error) in try JournalDevice(decoding: bytes) }
        guard found.uuid == superBlock.journalUUID else {
            throw .refused("the journal device is not the one of this volume: its UUID is another")
        }
        guard found.blockByteCount == superBlock.blockByteCount else {
            throw .corrupt("super block of the journal device", where: "block size \(found.blockByteCount)")
        }
        log = try LogArea(
            device: device, blockByteCount: found.blockByteCount, runs: [(FSBlock(0), found.blockCount)],
            superBlockPosition: found.logSuperBlock)
        self.superBlock = try log.readSuperBlock()
        guard self.superBlock.userCount == 1, self.superBlock.firstUser == superBlock.uuid else {
            throw .refused("the journal device is in use by another volume, or by several")
        }
        target = ReplayTarget(volume, superBlock, sharesDeviceWithLog: false)
        runs = []
    }

    /// Follows the journal inode, or what is remembered of it, through its extents or its block map. `.corrupt` when
    /// that leads out of the volume.
    private init(
        inodeOn device: any BlockDevice, _ superBlock: SuperBlock, _ remembered: InodeRecord?
    ) throws(Ext4Error) {
        let volume = try Volume(bare: device, superBlock, MountOptions())
        let number = InodeNumber(superBlock.journalInode)
        guard number == .journal, volume.layout.place(of: number) != nil else {
            throw .corrupt("super block", where: "journal inode \(number.rawValue) is out of range")
        }
        let inode =
            if let remembered { Inode(number, remembered: remembered, volume) } else {
                try Inode(reading: number, volume)
            }
        guard inode.type == .regular, inode.field({ $0.linkCount }) > 0 else {
            throw .corrupt("journal inode", where: "inode \(number.rawValue) is not a regular file")
        }
        let blockCount = inode.size / UInt64(superBlock.blockByteCount)
        guard blockCount >= Self.minimumBlocks, blockCount <= min(superBlock.blockCount, 1 << 32 - 1) else {
            throw .corrupt("journal inode", where: "size \(inode.size)")
        }
        var runs: [(start: FSBlock, count: UInt32)] = []
        for window in stride(from: 0, to: blockCount, by: Int(Self.windowBlocks)) {
            let range = window..<min(window + Self.windowBlocks, blockCount)
            for mapping in try MappingCore(volume: volume, inode: inode).begin(reading: range) {
                guard case .mapped(let start) = mapping.target else {
                    throw .corrupt("journal inode", where: "hole at block \(mapping.range.lowerBound)")
                }
                runs.append((start, UInt32(mapping.range.count)))
            }
            guard runs.count <= Self.maximumRuns else { throw .corrupt("journal inode", where: "too many extents") }
        }
        self.runs = runs.map { BlockRun(start: $0.start, count: $0.count) }
        log = try LogArea(device: device, blockByteCount: superBlock.blockByteCount, runs: runs)
        self.superBlock = try log.readSuperBlock()
        target = ReplayTarget(device, superBlock, sharesDeviceWithLog: true)
    }

    /// So that an image does not decide how much memory its journal's map takes.
    private static let windowBlocks: UInt64 = 1 << 16
    private static let maximumRuns = 1 << 16
    /// `JBD2_MIN_JOURNAL_BLOCKS`.
    private static let minimumBlocks: UInt64 = 1024
}

extension ReplayTarget {
    /// The whole device: what a resize in the log adds to the volume lies past the end that the super block names.
    fileprivate init(_ device: any BlockDevice, _ superBlock: SuperBlock, sharesDeviceWithLog: Bool) {
        self.init(
            blockCount: device.byteCount / UInt64(superBlock.blockByteCount), sharesDeviceWithLog: sharesDeviceWithLog)
    }
}

extension Volume {
    /// A volume for looking at, without a journal.
    convenience init(bare device: any BlockDevice, _ superBlock: SuperBlock, _ options: MountOptions) throws(Ext4Error)
    {
        let cache = MetadataCache(
            device: device, blockByteCount: superBlock.blockByteCount, blockCount: superBlock.blockCount,
            capacityBytes: options.cacheByteCount)
        self.init(device: device, superBlock: superBlock, cache: cache, journal: nil, options: options)
    }

    convenience init(
        device: any BlockDevice, superBlock: SuperBlock, cache: MetadataCache, journal: Journal?, options: MountOptions
    ) {
        let layout = VolumeLayout(superBlock)
        let groups = GroupTable(layout: layout, cache: cache)
        let blocks = BlockAllocator(
            layout: layout, cache: cache, groups: groups, freeBlockCount: superBlock.freeBlockCount,
            keptForUpkeep: Self.keptForUpkeep(layout),
            commitToFree: { () throws(Ext4Error) in try journal?.sync() })
        let inodes = InodeAllocator(
            layout: layout, cache: cache, groups: groups, freeInodeCount: superBlock.freeInodeCount)
        self.init(
            device: device, superBlock: superBlock, cache: cache, journal: journal, groups: groups, blocks: blocks,
            inodes: inodes, options: options)
    }

    /// As many clusters as Linux keeps from data (`s_resv_clusters`): what holds the map of a file that has its blocks
    /// already, or is to give some back, comes from there. Where no map has unwritten blocks there is no need.
    private static func keptForUpkeep(_ layout: VolumeLayout) -> UInt64 {
        guard layout.superBlock.features.incompatible.contains(.extents) else { return 0 }
        return min(layout.superBlock.blockCount >> UInt64(layout.clusterShift) / 50, 4096)
    }

    /// Blocks that never hold files: what statfs leaves out (bsddf). As mke2fs has counted them, or all that the layout
    /// tells, which is all but the log.
    var overheadBlockCount: UInt64 {
        let stored = UInt64(superBlock.overheadClusterCount) << UInt64(layout.clusterShift)
        if stored > 0, stored < superBlock.blockCount { return stored }
        let first = UInt64(layout.headerBlockCount(of: GroupNumber(0)))
        let further = superBlock.features.incompatible.contains(.metaBlockGroups) ? 0 : headerCount - 1
        let perGroup = 2 + UInt64(layout.inodeTableBlockCount)
        let total = UInt64(superBlock.firstDataBlock) + first * (1 + further) + UInt64(layout.groupCount) * perGroup
        return min(total, superBlock.blockCount)
    }

    /// Groups that begin with a copy of the super block.
    private var headerCount: UInt64 {
        let groups = UInt64(layout.groupCount)
        if superBlock.features.compatible.contains(.sparseSuper2) {
            return 1 + UInt64(superBlock.backupGroups.filter { $0 != 0 }.count)
        }
        guard superBlock.features.readOnlyCompatible.contains(.sparseSuper) else { return groups }
        var count = min(groups, 2)
        for base: UInt64 in [3, 5, 7] {
            var power = base
            while power < groups {
                count += 1
                power *= base
            }
        }
        return count
    }
}
