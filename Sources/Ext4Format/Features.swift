/// The three feature words of a super block: `s_feature_compat`, `s_feature_incompat`, `s_feature_ro_compat`.
///
/// The names are those of mke2fs -O, since these are what a user is told when a feature is refused.
package struct Features: Equatable, Sendable {
    package var compatible: Compatible
    package var incompatible: Incompatible
    package var readOnlyCompatible: ReadOnlyCompatible

    package init(compatible: Compatible, incompatible: Incompatible, readOnlyCompatible: ReadOnlyCompatible) {
        self.compatible = compatible
        self.incompatible = incompatible
        self.readOnlyCompatible = readOnlyCompatible
    }

    /// May be ignored by whoever does not know them.
    package struct Compatible: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static var hasJournal: Self { Self(rawValue: 0x4) }
        package static var extendedAttributes: Self { Self(rawValue: 0x8) }
        package static var resizeInode: Self { Self(rawValue: 0x10) }
        package static var directoryIndex: Self { Self(rawValue: 0x20) }
        package static var sparseSuper2: Self { Self(rawValue: 0x200) }
        package static var fastCommit: Self { Self(rawValue: 0x400) }
        package static var stableInodes: Self { Self(rawValue: 0x800) }
        package static var orphanFile: Self { Self(rawValue: 0x1000) }
    }

    /// Whoever does not know one of these must not touch the volume at all.
    package struct Incompatible: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static var fileType: Self { Self(rawValue: 0x2) }
        package static var needsRecovery: Self { Self(rawValue: 0x4) }
        package static var journalDevice: Self { Self(rawValue: 0x8) }
        package static var metaBlockGroups: Self { Self(rawValue: 0x10) }
        package static var extents: Self { Self(rawValue: 0x40) }
        package static var is64Bit: Self { Self(rawValue: 0x80) }
        package static var multipleMountProtection: Self { Self(rawValue: 0x100) }
        package static var flexibleGroups: Self { Self(rawValue: 0x200) }
        package static var attributeInodes: Self { Self(rawValue: 0x400) }
        package static var checksumSeed: Self { Self(rawValue: 0x2000) }
        package static var largeDirectory: Self { Self(rawValue: 0x4000) }
        package static var inlineData: Self { Self(rawValue: 0x8000) }
        package static var encrypt: Self { Self(rawValue: 0x10000) }
        package static var casefold: Self { Self(rawValue: 0x20000) }
    }

    /// Whoever does not know one of these may read the volume and not write it.
    package struct ReadOnlyCompatible: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static var sparseSuper: Self { Self(rawValue: 0x1) }
        package static var largeFile: Self { Self(rawValue: 0x2) }
        package static var hugeFile: Self { Self(rawValue: 0x8) }
        package static var groupChecksums: Self { Self(rawValue: 0x10) }
        package static var directoryLinks: Self { Self(rawValue: 0x20) }
        package static var extraInodeSize: Self { Self(rawValue: 0x40) }
        package static var quota: Self { Self(rawValue: 0x100) }
        package static var bigalloc: Self { Self(rawValue: 0x200) }
        package static var metadataChecksums: Self { Self(rawValue: 0x400) }
        package static var readOnly: Self { Self(rawValue: 0x1000) }
        package static var project: Self { Self(rawValue: 0x2000) }
        package static var sharedBlocks: Self { Self(rawValue: 0x4000) }
        package static var verity: Self { Self(rawValue: 0x8000) }
        package static var orphanPresent: Self { Self(rawValue: 0x10000) }
    }

    private static let compatibleNames: [UInt32: String] = [
        0x1: "dir_prealloc", 0x2: "imagic_inodes", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode",
        0x20: "dir_index", 0x200: "sparse_super2", 0x400: "fast_commit", 0x800: "stable_inodes", 0x1000: "orphan_file",
    ]
    private static let incompatibleNames: [UInt32: String] = [
        0x1: "compression", 0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev", 0x10: "meta_bg",
        0x40: "extent", 0x80: "64bit", 0x100: "mmp", 0x200: "flex_bg", 0x400: "ea_inode", 0x1000: "dirdata",
        0x2000: "metadata_csum_seed", 0x4000: "large_dir", 0x8000: "inline_data", 0x10000: "encrypt",
        0x20000: "casefold",
    ]
    private static let readOnlyCompatibleNames: [UInt32: String] = [
        0x1: "sparse_super", 0x2: "large_file", 0x4: "btree_dir", 0x8: "huge_file", 0x10: "uninit_bg",
        0x20: "dir_nlink", 0x40: "extra_isize", 0x80: "has_snapshot", 0x100: "quota", 0x200: "bigalloc",
        0x400: "metadata_csum", 0x800: "replica", 0x1000: "read-only", 0x2000: "project", 0x4000: "shared_blocks",
        0x8000: "verity", 0x10000: "orphan_present",
    ]

    package static func names(_ set: Compatible) -> [String] { names(set.rawValue, compatibleNames, "C") }
    package static func names(_ set: Incompatible) -> [String] { names(set.rawValue, incompatibleNames, "I") }
    package static func names(_ set: ReadOnlyCompatible) -> [String] {
        names(set.rawValue, readOnlyCompatibleNames, "R")
    }

    /// One name per bit; a bit without a name is shown as e2fsprogs shows it, FEATURE_<word><bit>.
    private static func names(_ word: UInt32, _ known: [UInt32: String], _ letter: String) -> [String] {
        (0..<32).filter { word & 1 << $0 != 0 }.map { known[1 << $0] ?? "FEATURE_\(letter)\($0)" }
    }
}
