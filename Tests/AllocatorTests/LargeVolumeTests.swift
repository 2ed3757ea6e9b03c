import Allocator
import BlockIO
import Ext4Format
import Foundation
import Journal
import Synchronization
import Testing

/// Counts the transfers to the device below.
private final class CountingDevice: BlockDevice {
    let base: FileDevice
    let reads = Atomic<Int>(0)
    init(_ base: FileDevice) { self.base = base }
    var byteCount: UInt64 { base.byteCount }
    var sectorByteCount: Int { base.sectorByteCount }
    var isReadOnly: Bool { base.isReadOnly }
    func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        reads.add(1, ordering: .relaxed)
        try base.read(into: &bytes, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try base.write(bytes, at: offset, mode: mode)
    }
    func flush() throws(Ext4Error) { try base.flush() }
}

@Suite struct LargeVolumeTests {
    /// A search that looked at one group after the other would make a large full volume unusable: what is read grows
    /// with what is given out, not with the 8,192 groups there are.
    @Test func aSearchReadsFewGroupsOfALargeVolume() throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("allocator-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let made = try run("mke2fs", ["-q", "-F", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=1", path, "1T"])
        try #require(made.code == 0, "\(made.text)")
        let device = CountingDevice(try FileDevice(path: path, readOnly: true))
        let head = AlignedBuffer(byteCount: 4096)
        try device.read(into: head, at: 0)
        let superBlock = try head.withBytes { bytes throws(Ext4Error) in
            try SuperBlock(decoding: bytes.extracting(1024..<2048), deviceByteCount: device.byteCount)
        }
        let layout = VolumeLayout(superBlock)
        let cache = MetadataCache(
            device: device, blockByteCount: 4096, blockCount: superBlock.blockCount, capacityBytes: 4 << 20)
        let groups = GroupTable(layout: layout, cache: cache)
        let blocks = BlockAllocator(
            layout: layout, cache: cache, groups: groups, freeBlockCount: superBlock.freeBlockCount)
        device.reads.store(0, ordering: .relaxed)
        let space = try blocks.reserve(200 * 32768, privileged: true)
        var runs: [BlockRun] = []
        while space.remaining > 0 {
            runs.append(try blocks.stage(upTo: 32768, goal: FSBlock(100_000), from: space))
        }
        let sorted = runs.sorted { $0.start < $1.start }
        for (a, b) in zip(sorted, sorted.dropFirst()) { #expect(a.end! <= b.start) }
        #expect(runs.count < 260, "runs are short")
        #expect(sorted.last!.start < FSBlock(100_000 + 260 * 32768), "far from the goal")
        #expect(device.reads.load(ordering: .relaxed) < 300)
        for run in runs { blocks.unstage(run) }
        #expect(blocks.freeBlockCount == superBlock.freeBlockCount)
        // More groups than stay loaded: those that were dropped come back as they were.
        for group in 0..<UInt64(1500) {
            let one = try blocks.reserve(1, privileged: true)
            let run = try blocks.stage(upTo: 1, goal: FSBlock(group * 32768 + 20000), from: one)
            blocks.unstage(run)
        }
        #expect(blocks.freeBlockCount == superBlock.freeBlockCount && groups.damage.isEmpty)
        let reads = device.reads.load(ordering: .relaxed)
        let sum = try groups.sum()
        #expect(sum.freeClusters == superBlock.freeBlockCount && sum.freeInodes == superBlock.freeInodeCount)
        #expect(device.reads.load(ordering: .relaxed) - reads < 20, "the sum reads descriptors one by one")
    }
}
