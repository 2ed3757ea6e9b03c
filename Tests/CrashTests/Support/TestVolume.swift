import BlockIO
import CrashLab
import Ext4Format
import Testing

/// A small volume to crash, as mke2fs makes it.
struct TestVolume: Sendable, CustomTestStringConvertible {
    let name: String
    let blockByteCount: Int
    let byteCount: Int
    let arguments: [String]

    var testDescription: String { name }

    init(_ name: String, block: Int, mebibytes: Int = 8, journal: Int, _ arguments: String...) {
        self.init(name, block: block, mebibytes: mebibytes, journal: journal, arguments)
    }

    init(_ name: String, block: Int, mebibytes: Int, journal: Int, _ arguments: [String]) {
        self.name = name
        blockByteCount = block
        byteCount = mebibytes << 20
        self.arguments = ["-b", "\(block)", "-J", "size=\(journal)"] + arguments
    }

    static let small = TestVolume("1k", block: 1024, journal: 1, "-O", "orphan_file")
    static let large = TestVolume("4k", block: 4096, mebibytes: 16, journal: 4)
    static let orphanList = TestVolume("1k-orphan-list", block: 1024, journal: 1, "-O", "^orphan_file")
    static let noChecksums = TestVolume(
        "2k-no-checksums", block: 2048, mebibytes: 12, journal: 2, "-O", "^metadata_csum,^metadata_csum_seed,uninit_bg")
    static let narrow = TestVolume("1k-32bit", block: 1024, journal: 1, "-O", "^64bit", "-g", "2048")
    static let oldInodes = TestVolume("1k-inode128", block: 1024, journal: 2, "-I", "128", "-O", "^metadata_csum_seed")
    /// As ext3 was: files and directories are mapped by indirect blocks.
    static let indirect = TestVolume(
        "1k-indirect", block: 1024, journal: 1, "-O",
        "^extent,^64bit,^metadata_csum,^metadata_csum_seed,^flex_bg,^huge_file,^orphan_file")
    /// With a log that has checksums: there are fewer ways in which its recovery can go.
    static let checkedIndirect = TestVolume("1k-indirect-checksums", block: 1024, journal: 1, "-O", "^extent,^64bit")

    /// With clusters of four blocks, several groups, and bitmaps that were never written.
    static let clusters = TestVolume(
        "1k-clusters", block: 1024, mebibytes: 24, journal: 1, "-O", "bigalloc,orphan_file", "-C", "4096", "-g", "2048",
        "-N", "512")
    /// With clusters of sixteen blocks, as bigalloc has them if nobody says otherwise.
    static let largeClusters = TestVolume(
        "4k-clusters", block: 4096, mebibytes: 64, journal: 16, "-O", "bigalloc", "-C", "65536", "-N", "512")

    static let all = [small, large, orphanList, noChecksums, narrow, oldInodes, indirect, clusters]

    /// Files are mapped by indirect blocks.
    var isIndirect: Bool { arguments.contains { $0.contains("^extent") } }

    /// Files get clusters of several blocks, and none is written out of place.
    var hasClusters: Bool { arguments.contains { $0.contains("bigalloc") } }

    /// What the blocks of a file are given out in.
    var clusterByteCount: Int {
        guard let option = arguments.firstIndex(of: "-C"), let size = Int(arguments[option + 1]) else {
            return blockByteCount
        }
        return size
    }

    /// A profile without the calls that its files refuse.
    func fitting(_ profile: WorkloadProfile) -> WorkloadProfile {
        var profile = profile
        if isIndirect { profile.weights.removeAll { $0.call == .allocate } }
        if hasClusters { profile.weights.removeAll { $0.call == .batch } }
        return profile
    }

    /// The image. Whatever mke2fs leaves alone is 0xDB, so that a block that shows stale bytes shows itself.
    /// `sequence`: what the next transaction of the journal will be called.
    func make(sequence: UInt32? = nil) throws -> [UInt8] {
        let file = TemporaryFile("volume", contents: [UInt8](repeating: 0xDB, count: byteCount))
        let uuid = "6a657874-3400-4372-6173-680000000001"
        let settings = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,hash_seed=\(uuid)"
        let fixed = ["-U", uuid, "-E", settings]
        let result = Tools.run(["mke2fs", "-q", "-F", "-t", "ext4"] + fixed + arguments + [file.path])
        try #require(result.status == 0, "mke2fs: \(result.output)")
        var image = file.contents
        if let sequence { try setSequence(sequence, in: &image) }
        return image
    }

    /// The super block of a fresh journal has no checksum, and no other block begins as it does.
    private func setSequence(_ sequence: UInt32, in image: inout [UInt8]) throws {
        let start: [UInt8] = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 4]
        let block = try #require(
            stride(from: 0, to: image.count, by: blockByteCount).first { image[$0..<$0 + 8].elementsEqual(start) })
        for byte in 0..<4 { image[block + 0x18 + byte] = UInt8(truncatingIfNeeded: sequence >> UInt32(24 - 8 * byte)) }
    }
}
