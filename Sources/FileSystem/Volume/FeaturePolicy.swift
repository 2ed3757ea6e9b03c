internal import Ext4Format

/// Which features an image may have, and how it may then be mounted. jext4(1) tells users the same.
enum FeaturePolicy {
    private static var readable: Features.Incompatible {
        [.fileType, .needsRecovery, .extents, .is64Bit, .flexibleGroups, .checksumSeed, .largeDirectory, .inlineData]
    }
    /// Of the readable ones, those that cannot be written yet.
    private static var readOnly: Features.Incompatible { [.largeDirectory] }

    private static var writable: Features.ReadOnlyCompatible {
        [
            .sparseSuper, .largeFile, .hugeFile, .groupChecksums, .directoryLinks, .extraInodeSize, .metadataChecksums,
            .orphanPresent, .bigalloc, .project,
        ]
    }

    /// Throws `.unsupported` with the names of what stands in the way. An unknown incompat feature forbids reading, an
    /// unknown ro_compat feature forbids writing, as the words demand.
    static func check(_ superBlock: SuperBlock, readOnly wantsReadOnly: Bool) throws(Ext4Error) {
        let features = superBlock.features
        let unreadable = features.incompatible.subtracting(readable)
        guard unreadable.isEmpty else {
            throw .unsupported(features: Features.names(unreadable), hint: "jext4 cannot read it")
        }
        guard !wantsReadOnly else { return }
        var names = Features.names(features.readOnlyCompatible.subtracting(writable))
        names += Features.names(features.incompatible.intersection(readOnly))
        names += Features.names(features.compatible.intersection(.sparseSuper2))
        guard names.isEmpty else { throw .unsupported(features: names, hint: "mount it with -o ro") }
        if superBlock.hasClusters { try checkClusters(superBlock) }
        guard features.compatible.contains(.hasJournal) else {
            throw .unsupported(
                features: ["^has_journal"], hint: "jext4 writes only with a journal; mount it with -o ro")
        }
    }

    /// A cluster is at most one extent, and no block map tells which blocks share one.
    private static func checkClusters(_ superBlock: SuperBlock) throws(Ext4Error) {
        guard superBlock.features.incompatible.contains(.extents) else {
            throw .unsupported(features: ["bigalloc", "^extent"], hint: "mount it with -o ro")
        }
        guard superBlock.clusterBlockCount <= Extent.maximumUnwritten else {
            let count = "clusters of \(superBlock.clusterBlockCount) blocks"
            throw .unsupported(features: ["bigalloc"], hint: "\(count) are too large; mount it with -o ro")
        }
    }
}
