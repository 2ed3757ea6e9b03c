package import BlockIO
internal import Ext4Format

/// Says where an ext4 volume breaks the rules of its format. It reads the image and nothing else: no allocator, no
/// cache, no journal. So it can judge those.
///
/// The volume is one that nobody has mounted and whose log holds nothing: what a recovery and an unmount leave. File
/// data is not read. Never writes; single-threaded; the same image gives the same findings in the same order.
package struct VolumeChecker {
    private let device: any BlockDevice

    package init(_ device: any BlockDevice) { self.device = device }

    /// Empty: the volume is as it should be. Of many findings the first `Survey.findingLimit` are given. One that the
    /// checker cannot read (no super block, an unknown feature) has one finding that says so.
    package func check() -> [Finding] {
        do throws(Ext4Error) {
            let superBlock = try readSuperBlock()
            let unknown = Self.unknownFeatures(superBlock.features)
            guard unknown.isEmpty else { return [Self.finding(.feature, unknown.joined(separator: ", "))] }
            let survey = Survey(device, superBlock)
            survey.checkGroups()
            survey.checkInodes()
            survey.checkOrphans()
            survey.checkAttributeReferences()
            survey.checkDirectories()
            survey.checkTree()
            survey.checkCounts()
            return survey.findings
        } catch {
            if case .io = error { return [Self.finding(.readable, error.description)] }
            return [Self.finding(.superBlock, error.description)]
        }
    }

    private static func finding(_ rule: Finding.Rule, _ detail: String) -> Finding {
        Finding(rule: rule, inode: nil, block: nil, group: nil, detail: detail)
    }

    private func readSuperBlock() throws(Ext4Error) -> SuperBlock {
        // Of a device with sectors of 4 KiB it is the second quarter of the first.
        let isWide = device.sectorByteCount > SuperBlock.byteCount
        let start = isWide ? 0 : SuperBlock.byteOffset
        let buffer = AlignedBuffer(byteCount: isWide ? device.sectorByteCount : SuperBlock.byteCount)
        try device.read(into: buffer, at: UInt64(start))
        return try buffer.withBytes { bytes throws(Ext4Error) in
            let at = SuperBlock.byteOffset - start
            return try SuperBlock(
                decoding: bytes.extracting(at..<at + SuperBlock.byteCount), deviceByteCount: device.byteCount)
        }
    }

    /// The names of the features whose rules are not among those of `Finding.Rule`.
    private static func unknownFeatures(_ features: Features) -> [String] {
        let compatible: Features.Compatible = [
            .hasJournal, .extendedAttributes, .resizeInode, .directoryIndex, .sparseSuper2, .fastCommit, .stableInodes,
            .orphanFile,
        ]
        let incompatible: Features.Incompatible = [
            .fileType, .needsRecovery, .extents, .is64Bit, .flexibleGroups, .checksumSeed, .largeDirectory,
        ]
        let readOnlyCompatible: Features.ReadOnlyCompatible = [
            .sparseSuper, .largeFile, .hugeFile, .groupChecksums, .directoryLinks, .extraInodeSize, .metadataChecksums,
            .orphanPresent, .bigalloc,
        ]
        return Features.names(features.compatible.subtracting(compatible))
            + Features.names(features.incompatible.subtracting(incompatible))
            + Features.names(features.readOnlyCompatible.subtracting(readOnlyCompatible))
    }
}
