import Allocator
import BlockIO
import Ext4Format
import Foundation
import Journal
import Testing

/// An image of mke2fs in memory with both allocators on it, and a journal in manual mode whose log lies elsewhere.
final class Volume: Sendable {
    /// mke2fs arguments, and the length of the image.
    struct Shape: Sendable, CustomTestStringConvertible {
        var options: String
        var kilobytes: Int
        var testDescription: String { options }
        init(_ options: String, kilobytes: Int) {
            self.options = options
            self.kilobytes = kilobytes
        }

        static let small = Shape("-b 1024 -g 2048 -N 512", kilobytes: 20_000)
        /// Every layout that differs for an allocator: block and descriptor sizes, checksums, flex groups, a short last
        /// group, groups that were never written, clusters of several blocks.
        static let all = [
            small,
            Shape("-b 4096 -g 2048 -N 2048 -G 4", kilobytes: 60_004),
            Shape("-b 2048 -g 4096 -O ^64bit -N 1024", kilobytes: 50_002),
            Shape("-b 1024 -g 2048 -O ^metadata_csum,uninit_bg,^64bit -N 1024", kilobytes: 16_555),
            Shape("-b 1024 -g 2048 -O ^metadata_csum,^uninit_bg,^64bit,^flex_bg -N 1024", kilobytes: 18_000),
            Shape("-b 1024 -g 8192 -O ^flex_bg,^resize_inode,^sparse_super -N 1024", kilobytes: 40_000),
            Shape("-b 4096 -N 4096", kilobytes: 140_000),
            Shape("-b 1024 -C 4096 -g 2048 -O bigalloc -N 1024", kilobytes: 30_000),
            Shape("-b 4096 -C 65536 -g 2048 -O bigalloc,^resize_inode -N 1024", kilobytes: 300_032),
        ]
    }

    let device: MemoryDevice
    let superBlock: SuperBlock
    let layout: VolumeLayout
    let cache: MetadataCache
    let groups: GroupTable
    let blocks: BlockAllocator
    let inodes: InodeAllocator
    let journal: Journal

    /// `damage` may change the bytes of the image first. `isManual` is false for tests with threads.
    init(_ shape: Shape = .small, isManual: Bool = true, damage: (inout [UInt8], VolumeLayout) -> Void = { _, _ in })
        throws
    {
        var bytes = try Self.make(shape)
        superBlock = try SuperBlock(
            decoding: bytes.span.bytes.extracting(1024..<2048), deviceByteCount: UInt64(bytes.count))
        layout = VolumeLayout(superBlock)
        damage(&bytes, layout)
        device = MemoryDevice(bytes)
        let size = superBlock.blockByteCount
        cache = MetadataCache(
            device: device, blockByteCount: size, blockCount: superBlock.blockCount, capacityBytes: 64 * size)
        journal = try Self.journal(device, cache, superBlock, isManual)
        groups = GroupTable(layout: layout, cache: cache)
        let sum = try groups.sum()
        blocks = BlockAllocator(
            layout: layout, cache: cache, groups: groups,
            freeBlockCount: sum.freeClusters << UInt64(layout.clusterShift),
            commitToFree: { [journal] () throws(Ext4Error) in try journal.sync() })
        inodes = InodeAllocator(layout: layout, cache: cache, groups: groups, freeInodeCount: sum.freeInodes)
        journal.setBeforeCommit { [cache, superBlock, blocks, inodes] handle throws(Ext4Error) in
            try Self.writeCounts(blocks, inodes, superBlock, cache, handle)
        }
    }

    private static func make(_ shape: Shape) throws -> [UInt8] {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("allocator-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let arguments = shape.options.split(separator: " ").map(String.init)
        let result = try run("mke2fs", ["-q", "-F", "-t", "ext4"] + arguments + [path, "\(shape.kilobytes)k"])
        #expect(result.code == 0, "\(result.text)")
        let bytes = try #require(FileManager.default.contents(atPath: path))
        return [UInt8](bytes)
    }

    private static func journal(
        _ device: MemoryDevice, _ cache: MetadataCache, _ superBlock: SuperBlock, _ isManual: Bool
    ) throws -> Journal {
        let size = superBlock.blockByteCount, count: UInt32 = 1024
        var block = [UInt8](repeating: 0, count: size)
        func put(_ value: UInt32, at offset: Int) {
            for index in 0..<4 { block[offset + index] = UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * index)) }
        }
        for (offset, value) in [(0, 0xC03B_3998), (4, 4), (0xC, UInt32(size)), (0x10, count), (0x14, 1), (0x18, 1)] {
            put(value, at: offset)
        }
        let disk = MemoryDevice(byteCount: Int(count) * size)
        let log = try LogArea(device: disk, blockByteCount: size, runs: [(FSBlock(0), count)])
        try log.write(block.span.bytes, at: 0, mode: .cached)
        var options = JournalOptions()
        options.isManual = isManual
        options.isWide = true
        return try Journal(
            device: device, log: log, cache: cache, superBlock: JournalSuperBlock(decoding: block.span.bytes),
            options: options, clock: { CommitTime(seconds: 1_700_000_000, nanoseconds: 0) })
    }

    /// What FileSystem does before each commit: exact counts into the super block.
    private static func writeCounts(
        _ blocks: BlockAllocator, _ inodes: InodeAllocator, _ superBlock: SuperBlock, _ cache: MetadataCache,
        _ handle: borrowing Handle
    ) throws(Ext4Error) {
        let place = superBlock.superBlockPlace
        let block = try cache.block(place.block)
        try handle.modify(block) { bytes throws(Ext4Error) in
            var part = bytes._mutatingExtracting(place.offset..<place.offset + SuperBlock.byteCount)
            part[SuperBlock.Layout.freeBlocksLow] = UInt32(truncatingIfNeeded: blocks.durableFreeBlockCount)
            part[SuperBlock.Layout.freeInodes] = inodes.freeInodeCount
            if superBlock.hasMetadataChecksums { SuperBlock.updateChecksum(&part) }
        }
    }

    // MARK: Shorthands

    func change<R>(_ body: (borrowing Handle) throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        try journal.withHandle(credits: 20, body)
    }

    /// Reserves, stages and publishes one run of so many clusters.
    func take(_ count: UInt32, goal: UInt64 = 0) throws(Ext4Error) -> BlockRun {
        let space = try blocks.reserve(UInt64(count), privileged: true)
        let run = try blocks.stage(upTo: count, goal: FSBlock(goal), from: space)
        try change { handle throws(Ext4Error) in try blocks.publish(run, in: handle) }
        return run
    }

    func free(_ run: BlockRun) throws(Ext4Error) {
        try change { handle throws(Ext4Error) in try blocks.free(run, in: handle) }
    }

    // MARK: Oracles

    /// What e2fsck -fn says of the image; empty when it has nothing to say.
    func complaints() throws -> String {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("allocator-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Data(device.bytes).write(to: URL(fileURLWithPath: path))
        let result = try run("e2fsck", ["-fn", path])
        return result.code == 0 ? "" : result.text
    }

    /// Reads the image as it is on the device, without cache or allocator: every checksum right, every descriptor's
    /// counts those of its bitmaps. Answers the blocks that are free, and those that are marked in the bitmaps which
    /// were written.
    @discardableResult func audit() throws -> (freeBlocks: UInt64, freeInodes: UInt32, used: Set<UInt64>) {
        let bytes = device.bytes, size = superBlock.blockByteCount
        func block(_ number: FSBlock) -> ArraySlice<UInt8> {
            bytes[Int(number.rawValue) * size..<(Int(number.rawValue) + 1) * size]
        }
        func clear(_ bitmap: ArraySlice<UInt8>, _ bit: Int) -> Bool {
            bitmap[bitmap.startIndex + bit / 8] & 1 << UInt8(bit % 8) == 0
        }
        var result: (freeBlocks: UInt64, freeInodes: UInt32, used: Set<UInt64>) = (0, 0, [])
        for number in 0..<layout.groupCount {
            let group = GroupNumber(number), place = layout.descriptor(of: group)
            let raw = Array(block(place.block)[(Int(place.block.rawValue) * size)...].dropFirst(place.bytes.lowerBound))
            let part = Array(raw.prefix(place.bytes.count))
            let isRight = GroupDescriptor.isChecksumRight(part.span.bytes, group: group, superBlock: superBlock)
            #expect(isRight, "descriptor of group \(number)")
            let facts = GroupDescriptor(decoding: part.span.bytes)
            result.freeBlocks += UInt64(facts.freeBlockCount) << UInt64(layout.clusterShift)
            result.freeInodes += facts.freeInodeCount
            let blockFlag = facts.flags.contains(.blocksUninitialized)
            if !(superBlock.hasGroupChecksums && blockFlag) {
                let bitmap = block(facts.blockBitmap), count = Int(layout.clusterCount(of: group))
                let first = layout.firstBlock(of: group).rawValue
                #expect((0..<count).count { clear(bitmap, $0) } == Int(facts.freeBlockCount), "group \(number)")
                for bit in 0..<count where !clear(bitmap, bit) {
                    let start = first + UInt64(bit) << UInt64(layout.clusterShift)
                    result.used.formUnion(start..<start + UInt64(superBlock.clusterBlockCount))
                }
                let isPadded = !(count..<size * 8).contains { clear(bitmap, $0) }
                #expect(isPadded, "padding of group \(number)")
                if superBlock.hasMetadataChecksums {
                    let sum = GroupDescriptor.bitmapChecksum(
                        of: Array(bitmap).span.bytes, bitCount: superBlock.clustersPerGroup, superBlock: superBlock)
                    #expect(sum == facts.blockBitmapChecksum, "block bitmap of group \(number)")
                }
            }
            if !(superBlock.hasGroupChecksums && facts.flags.contains(.inodesUninitialized)) {
                let bitmap = block(facts.inodeBitmap), count = Int(superBlock.inodesPerGroup)
                #expect((0..<count).count { clear(bitmap, $0) } == Int(facts.freeInodeCount), "group \(number)")
                let used = count - Int(facts.unusedInodeCount)
                let isUnused = (used..<count).allSatisfy { clear(bitmap, $0) }
                #expect(isUnused, "unused inodes of group \(number)")
                if superBlock.hasMetadataChecksums {
                    let sum = GroupDescriptor.bitmapChecksum(
                        of: Array(bitmap).span.bytes, bitCount: superBlock.inodesPerGroup, superBlock: superBlock)
                    #expect(sum == facts.inodeBitmapChecksum, "inode bitmap of group \(number)")
                }
            }
        }
        return result
    }
}

@discardableResult func run(_ tool: String, _ arguments: [String]) throws -> (code: Int32, text: String) {
    let process = Process(), pipe = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [tool] + arguments
    var environment = ProcessInfo.processInfo.environment
    environment["PATH", default: ""] += ":/usr/sbin:/sbin"
    process.environment = environment
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
}
