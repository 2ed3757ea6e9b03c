/// `struct ext4_super_block`: 1,024 bytes at byte 1,024 of the volume (kernel doc: ext4, "The Super Block").
///
/// Holds what does not change while a volume is mounted, and the counts as they stood when it was read. The parts that
/// change are fields of `SuperBlock.Layout`, changed in the block itself through the journal. A class, as it is handed
/// to every checksum: a copy would count references to each of its arrays.
package final class SuperBlock: Sendable {
    package static let byteCount = 1024
    package static let byteOffset = 1024
    /// Where `s_checksum` lies, the last field: it covers all before it.
    package static let checksumOffset = 0x3FC
    package static let magic: UInt16 = 0xEF53

    package let inodeCount: UInt32
    package let blockCount: UInt64
    /// `s_r_blocks_count` and `s_free_blocks_count`: blocks, with bigalloc too.
    package let reservedBlockCount: UInt64
    package let freeBlockCount: UInt64
    package let freeInodeCount: UInt32
    package let firstDataBlock: UInt32
    package let blockByteCount: Int
    package let blocksPerGroup: UInt32
    /// What one bit of a block bitmap stands for, in blocks: a power of two, and 1 without bigalloc.
    package let clusterBlockCount: UInt32
    package let inodesPerGroup: UInt32
    package let state: State
    package let errorsBehaviour: UInt16
    package let firstInode: UInt32
    package let inodeByteCount: Int
    package let features: Features
    package let uuid: [UInt8]
    package let volumeName: [UInt8]
    package let reservedGroupDescriptorBlocks: UInt16
    /// 0: the journal lies on another device, the one with `journalUUID`.
    package let journalInode: UInt32
    /// `s_jnl_blocks`: what mke2fs noted of the journal inode, `i_block` and the two halves of `i_size`. Empty where
    /// nothing was noted.
    let journalBackup: [UInt8]
    package let journalUUID: [UInt8]
    package let lastOrphan: UInt32
    package let hashSeed: [UInt32]
    package let defaultHashVersion: UInt8
    package let flags: UInt32
    package let groupDescriptorByteCount: Int
    package let firstMetaBlockGroup: UInt32
    package let wantedExtraInodeSize: UInt16
    package let logGroupsPerFlex: UInt8
    /// `s_mmp_block`: see `MountProtection`.
    package let mountProtectionBlock: UInt64
    /// The seed of every metadata checksum: `s_checksum_seed`, or the CRC of the UUID.
    package let checksumSeed: UInt32
    package let orphanFileInode: UInt32
    package let backupGroups: [UInt32]
    /// Clusters that never hold files, the log's among them; 0 where mke2fs did not count them.
    package let overheadClusterCount: UInt32
    /// Who may use the reserved blocks besides root; 0 for nobody else (`s_def_resuid`, `s_def_resgid`).
    package let reservedUID: UInt16
    package let reservedGID: UInt16
    /// The errors that were recorded when it was read.
    package let errors: VolumeErrors

    /// `s_state`.
    package struct State: OptionSet, Sendable {
        package let rawValue: UInt16
        package init(rawValue: UInt16) { self.rawValue = rawValue }
        package static var valid: Self { Self(rawValue: 1) }
        package static var hasErrors: Self { Self(rawValue: 2) }
    }

    /// Offsets from the start of the super block. Those that change at run time are `package`.
    package enum Layout {
        static var inodeCount: LE<UInt32> { LE(0x0) }
        static var blockCountLow: LE<UInt32> { LE(0x4) }
        static var reservedLow: LE<UInt32> { LE(0x8) }
        package static var freeBlocksLow: LE<UInt32> { LE(0xC) }
        package static var freeInodes: LE<UInt32> { LE(0x10) }
        static var firstDataBlock: LE<UInt32> { LE(0x14) }
        static var logBlockSize: LE<UInt32> { LE(0x18) }
        static var logClusterSize: LE<UInt32> { LE(0x1C) }
        static var blocksPerGroup: LE<UInt32> { LE(0x20) }
        static var clustersPerGroup: LE<UInt32> { LE(0x24) }
        static var inodesPerGroup: LE<UInt32> { LE(0x28) }
        package static var mountTime: LE<UInt32> { LE(0x2C) }
        package static var writeTime: LE<UInt32> { LE(0x30) }
        package static var mountCount: LE<UInt16> { LE(0x34) }
        static var magic: LE<UInt16> { LE(0x38) }
        package static var state: LE<UInt16> { LE(0x3A) }
        static var errors: LE<UInt16> { LE(0x3C) }
        static var revision: LE<UInt32> { LE(0x4C) }
        static var reservedUID: LE<UInt16> { LE(0x50) }
        static var reservedGID: LE<UInt16> { LE(0x52) }
        static var firstInode: LE<UInt32> { LE(0x54) }
        static var inodeSize: LE<UInt16> { LE(0x58) }
        static var compatible: LE<UInt32> { LE(0x5C) }
        package static var incompatible: LE<UInt32> { LE(0x60) }
        package static var readOnlyCompatible: LE<UInt32> { LE(0x64) }
        static var uuid: Range<Int> { 0x68..<0x78 }
        static var volumeName: Range<Int> { 0x78..<0x88 }
        static var reservedDescriptors: LE<UInt16> { LE(0xCE) }
        static var journalUUID: Range<Int> { 0xD0..<0xE0 }
        static var journalInode: LE<UInt32> { LE(0xE0) }
        static var journalBackupType: LE<UInt8> { LE(0xFD) }
        static var journalBackup: Range<Int> { 0x10C..<0x150 }
        package static var lastOrphan: LE<UInt32> { LE(0xE8) }
        static func hashSeed(_ index: Int) -> LE<UInt32> { LE(0xEC + 4 * index) }
        static var hashVersion: LE<UInt8> { LE(0xFC) }
        static var descriptorSize: LE<UInt16> { LE(0xFE) }
        static var firstMetaGroup: LE<UInt32> { LE(0x104) }
        static var blockCountHigh: LE<UInt32> { LE(0x150) }
        static var reservedHigh: LE<UInt32> { LE(0x154) }
        package static var freeBlocksHigh: LE<UInt32> { LE(0x158) }
        static var wantedExtraSize: LE<UInt16> { LE(0x15E) }
        static var flags: LE<UInt32> { LE(0x160) }
        static var mountProtectionBlock: LE<UInt64> { LE(0x168) }
        static var logGroupsPerFlex: LE<UInt8> { LE(0x174) }
        static var checksumType: LE<UInt8> { LE(0x175) }
        static var overheadClusters: LE<UInt32> { LE(0x248) }
        static func backupGroup(_ index: Int) -> LE<UInt32> { LE(0x24C + 4 * index) }
        static var checksumSeed: LE<UInt32> { LE(0x270) }
        static var orphanFileInode: LE<UInt32> { LE(0x280) }
        static var checksum: LE<UInt32> { LE(SuperBlock.checksumOffset) }
    }

    /// Decodes and checks a super block. `bytes` are its 1,024 bytes; `.refused` when this is no ext4 at all.
    package init(decoding bytes: RawSpan, deviceByteCount: UInt64) throws(Ext4Error) {
        guard bytes.byteCount >= Self.byteCount, bytes[Layout.magic] == Self.magic else {
            throw .refused("not an ext4 file system (no super block magic)")
        }
        features = Features(
            compatible: .init(rawValue: bytes[Layout.compatible]),
            incompatible: .init(rawValue: bytes[Layout.incompatible]),
            readOnlyCompatible: .init(rawValue: bytes[Layout.readOnlyCompatible]))
        guard !features.incompatible.contains(.journalDevice) else {
            throw .refused("this is the journal device of another volume, not a file system")
        }
        try Self.checkChecksum(bytes, features)
        let logBlockSize = bytes[Layout.logBlockSize]
        guard logBlockSize <= 6 else { throw Self.bad("block size 2^\(10 + UInt64(logBlockSize))") }
        blockByteCount = 1024 << Int(logBlockSize)
        let is64Bit = features.incompatible.contains(.is64Bit)
        func wide(_ low: LE<UInt32>, _ high: LE<UInt32>) -> UInt64 {
            UInt64(bytes[low]) | (is64Bit ? UInt64(bytes[high]) << 32 : 0)
        }
        blockCount = wide(Layout.blockCountLow, Layout.blockCountHigh)
        reservedBlockCount = wide(Layout.reservedLow, Layout.reservedHigh)
        freeBlockCount = wide(Layout.freeBlocksLow, Layout.freeBlocksHigh)
        inodeCount = bytes[Layout.inodeCount]
        freeInodeCount = bytes[Layout.freeInodes]
        firstDataBlock = bytes[Layout.firstDataBlock]
        blocksPerGroup = bytes[Layout.blocksPerGroup]
        inodesPerGroup = bytes[Layout.inodesPerGroup]
        state = State(rawValue: bytes[Layout.state])
        errorsBehaviour = bytes[Layout.errors]
        guard bytes[Layout.revision] <= 1 else { throw Self.bad("revision \(bytes[Layout.revision])") }
        let isDynamic = bytes[Layout.revision] == 1
        firstInode = isDynamic ? bytes[Layout.firstInode] : 11
        inodeByteCount = isDynamic ? Int(bytes[Layout.inodeSize]) : 128
        uuid = bytes.array(Layout.uuid)
        volumeName = Array(bytes.array(Layout.volumeName).prefix { $0 != 0 })
        reservedGroupDescriptorBlocks = bytes[Layout.reservedDescriptors]
        journalInode = bytes[Layout.journalInode]
        journalBackup = bytes[Layout.journalBackupType] == 1 ? bytes.array(Layout.journalBackup) : []
        journalUUID = bytes.array(Layout.journalUUID)
        lastOrphan = bytes[Layout.lastOrphan]
        hashSeed = (0..<4).map { bytes[Layout.hashSeed($0)] }
        defaultHashVersion = bytes[Layout.hashVersion]
        flags = bytes[Layout.flags]
        groupDescriptorByteCount = is64Bit ? Int(bytes[Layout.descriptorSize]) : 32
        firstMetaBlockGroup = bytes[Layout.firstMetaGroup]
        wantedExtraInodeSize = bytes[Layout.wantedExtraSize]
        logGroupsPerFlex = bytes[Layout.logGroupsPerFlex]
        mountProtectionBlock = bytes[Layout.mountProtectionBlock]
        checksumSeed =
            features.incompatible.contains(.checksumSeed)
            ? bytes[Layout.checksumSeed] : CRC32C.of(bytes.extracting(Layout.uuid))
        orphanFileInode = features.compatible.contains(.orphanFile) ? bytes[Layout.orphanFileInode] : 0
        overheadClusterCount = bytes[Layout.overheadClusters]
        backupGroups = (0..<2).map { bytes[Layout.backupGroup($0)] }
        (reservedUID, reservedGID) = (bytes[Layout.reservedUID], bytes[Layout.reservedGID])
        errors = VolumeErrors(decoding: bytes)
        clusterBlockCount = try Self.clusterBlockCount(bytes, features, logBlockSize: logBlockSize)
        try checkGeometry(deviceByteCount)
    }

    private static func bad(_ what: String) -> Ext4Error { .corrupt("super block", where: what) }

    private static func checkChecksum(_ bytes: RawSpan, _ features: Features) throws(Ext4Error) {
        guard features.readOnlyCompatible.contains(.metadataChecksums) else { return }
        guard bytes[Layout.checksumType] == 1 else { throw bad("checksum type \(bytes[Layout.checksumType])") }
        guard checksum(of: bytes) == bytes[Layout.checksum] else { throw bad("checksum") }
    }

    /// What `s_checksum` must hold with metadata_csum.
    package static func checksum(of bytes: RawSpan) -> UInt32 { CRC32C.of(bytes.extracting(0..<checksumOffset)) }

    /// Call after any change to the 1,024 bytes when the volume has metadata_csum.
    package static func updateChecksum(_ bytes: inout MutableRawSpan) {
        let value = checksum(of: bytes.bytes)
        bytes[Layout.checksum] = value
    }

    private static func clusterBlockCount(
        _ bytes: RawSpan, _ features: Features, logBlockSize: UInt32
    ) throws(Ext4Error) -> UInt32 {
        let logClusterSize = bytes[Layout.logClusterSize]
        guard features.readOnlyCompatible.contains(.bigalloc) else {
            guard logClusterSize == logBlockSize || logClusterSize == 0 else {
                throw bad("cluster size without bigalloc")
            }
            return 1
        }
        guard (logBlockSize...19).contains(logClusterSize) else {
            throw bad("cluster size 2^\(10 + UInt64(logClusterSize))")
        }
        let count: UInt32 = 1 << (logClusterSize - logBlockSize)
        guard UInt64(bytes[Layout.clustersPerGroup]) * UInt64(count) == UInt64(bytes[Layout.blocksPerGroup]) else {
            throw bad("\(bytes[Layout.clustersPerGroup]) clusters per group")
        }
        return count
    }

    private func checkGeometry(_ deviceByteCount: UInt64) throws(Ext4Error) {
        let bits = UInt32(blockByteCount) * 8
        // A cluster begins at a multiple of its size: with them the first group begins before the super block.
        guard firstDataBlock == (blockByteCount == 1024 && !hasClusters ? 1 : 0) else {
            throw Self.bad("first data block \(firstDataBlock)")
        }
        guard clustersPerGroup >= 64, clustersPerGroup <= bits, clustersPerGroup % 8 == 0 else {
            throw Self.bad("\(blocksPerGroup) blocks per group")
        }
        guard blockCount % UInt64(clusterBlockCount) == 0 else {
            throw Self.bad("\(blockCount) blocks in clusters of \(clusterBlockCount)")
        }
        guard inodeByteCount >= 128, inodeByteCount <= blockByteCount, inodeByteCount.nonzeroBitCount == 1 else {
            throw Self.bad("inode size \(inodeByteCount)")
        }
        let inodesPerBlock = UInt32(blockByteCount / inodeByteCount)
        guard inodesPerGroup >= inodesPerBlock, inodesPerGroup <= bits, inodesPerGroup % 8 == 0 else {
            throw Self.bad("\(inodesPerGroup) inodes per group")
        }
        guard (32...1024).contains(groupDescriptorByteCount), groupDescriptorByteCount.nonzeroBitCount == 1,
            !features.incompatible.contains(.is64Bit) || groupDescriptorByteCount >= 64
        else { throw Self.bad("group descriptor size \(groupDescriptorByteCount)") }
        guard blockCount > UInt64(firstDataBlock), blockCount <= 1 << 48 else { throw Self.bad("\(blockCount) blocks") }
        let bytes = blockCount.multipliedReportingOverflow(by: UInt64(blockByteCount))
        guard !bytes.overflow, bytes.partialValue <= deviceByteCount else {
            let wanted = "\(blockCount) blocks of \(blockByteCount) bytes"
            throw .refused("the image is truncated: \(wanted) do not fit into \(deviceByteCount) bytes")
        }
        let groups = (blockCount - UInt64(firstDataBlock) + UInt64(blocksPerGroup) - 1) / UInt64(blocksPerGroup)
        guard groups * UInt64(inodesPerGroup) == UInt64(inodeCount) else {
            throw Self.bad("\(inodeCount) inodes in \(groups) groups of \(inodesPerGroup)")
        }
        guard reservedBlockCount <= blockCount, freeBlockCount <= blockCount, freeInodeCount <= inodeCount else {
            throw Self.bad("free counts")
        }
        guard firstInode >= 11, firstInode <= inodeCount else { throw Self.bad("first inode \(firstInode)") }
        guard logGroupsPerFlex <= 31, wantedExtraInodeSize <= inodeByteCount - 128 || inodeByteCount == 128 else {
            throw Self.bad("flex group or extra inode size")
        }
    }
}

extension SuperBlock {
    /// The number of block groups.
    package var groupCount: UInt32 {
        UInt32((blockCount - UInt64(firstDataBlock) + UInt64(blocksPerGroup) - 1) / UInt64(blocksPerGroup))
    }
    package var hasClusters: Bool { features.readOnlyCompatible.contains(.bigalloc) }
    /// The bits of a block bitmap that count: `s_clusters_per_group` with bigalloc, else the blocks of a group.
    package var clustersPerGroup: UInt32 { blocksPerGroup / clusterBlockCount }
    package var hasMetadataChecksums: Bool { features.readOnlyCompatible.contains(.metadataChecksums) }
    /// uninit_bg or metadata_csum: group descriptors have checksums and uninit flags count.
    package var hasGroupChecksums: Bool {
        hasMetadataChecksums || features.readOnlyCompatible.contains(.groupChecksums)
    }
    /// The block that holds the primary super block, and the byte in it where it starts.
    package var superBlockPlace: (block: FSBlock, offset: Int) {
        blockByteCount == 1024 ? (FSBlock(1), 0) : (FSBlock(0), 1024)
    }
}
