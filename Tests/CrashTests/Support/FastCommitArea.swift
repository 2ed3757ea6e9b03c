import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Journal
import Testing

/// The fast commits of an image, each a block long, to write lies into.
struct FastCommitArea {
    private let positions: [UInt32]
    private let blockByteCount: Int

    init(on device: MemoryDevice) throws {
        let volume = try OfflineVolume(on: device)
        let journal = try #require(volume.journal)
        let commits = try #require(try volume.plan(journal).fastCommits?.commits)
        positions = commits.flatMap { Array($0.blocks) }
        blockByteCount = journal.log.blockByteCount
    }

    /// Changes some bytes of some records and makes every checksum right again.
    func corrupt(_ disk: OverlayDevice, _ random: inout SeededRandom) throws {
        let log = try #require(try OfflineVolume(on: disk).journal?.log)
        var crc: UInt32 = 0
        let victim = positions.randomElement(using: &random)
        for position in positions {
            let buffer = AlignedBuffer(byteCount: blockByteCount)
            try log.read(position, count: 1, into: buffer)
            if position == victim {
                for _ in 0..<Int.random(in: 1...3, using: &random) { change(buffer, &random) }
            }
            seal(buffer, &crc)
            try buffer.withBytes { try log.write($0, at: position, mode: .cached) }
        }
    }

    /// One byte or word of a record, its length included; the records near the start of a block are the ones in use.
    private func change(_ buffer: AlignedBuffer, _ random: inout SeededRandom) {
        let offset = Int.random(in: 0..<min(blockByteCount - 4, 400), using: &random)
        let words: [UInt32] = [0, 1, 2, 7, 8, 11, 12, 13, 0xFFFF, 0x7FFF_FFFF, .max]
        buffer.withMutableBytes { bytes in
            if Bool.random(using: &random) {
                bytes[LE<UInt8>(offset)] = UInt8.random(in: 0...255, using: &random)
            } else {
                bytes[LE<UInt32>(offset / 4 * 4)] = words.randomElement(using: &random)!
            }
        }
    }

    /// Their blocks, and where each lies on the device.
    func blocks(of device: MemoryDevice) throws -> [(offset: Int, bytes: [UInt8])] {
        let log = try #require(try OfflineVolume(on: device).journal?.log), bytes = device.bytes
        return positions.map { position in
            let offset = Int(log.home(of: position).rawValue) * blockByteCount
            return (offset, Array(bytes[offset..<offset + blockByteCount]))
        }
    }

    /// A block as the transaction before might have written it, when the inodes had another mode.
    func aged(_ bytes: [UInt8]) -> [UInt8] {
        let buffer = AlignedBuffer(byteCount: blockByteCount)
        buffer.withMutableBytes { block in
            block.copy(bytes, at: 0)
            for (range, tag) in Self.records(in: block.bytes) {
                if tag == Self.head { block[LE<UInt32>(range.lowerBound + 8)] -= 1 }
                if tag == Self.tail { block[LE<UInt32>(range.lowerBound + 4)] -= 1 }
                if tag == Self.inode { block[LE<UInt16>(range.lowerBound + 8)] ^= 0o011 }
            }
        }
        var crc: UInt32 = 0
        seal(buffer, &crc)
        return buffer.withBytes { $0.array(0..<blockByteCount) }
    }

    private static let inode: UInt16 = 6, tail: UInt16 = 8, head: UInt16 = 9

    /// The records of a block up to its tail.
    private static func records(in block: RawSpan) -> [(range: Range<Int>, tag: UInt16)] {
        var records: [(range: Range<Int>, tag: UInt16)] = []
        var offset = 0
        while offset + 12 <= block.byteCount, records.last?.tag != tail {
            let tag = block[LE<UInt16>(offset)], end = offset + 4 + Int(block[LE<UInt16>(offset + 2)])
            guard tag != 0, end <= block.byteCount else { break }
            records.append((offset..<end, tag))
            offset = end
        }
        return records
    }

    private func seal(_ buffer: AlignedBuffer, _ crc: inout UInt32) {
        buffer.withMutableBytes { block in
            for (range, tag) in Self.records(in: block.bytes) {
                let isTail = tag == Self.tail
                let checked = isTail ? range.lowerBound..<range.lowerBound + 8 : range
                crc = CRC32C.of(block.bytes.extracting(checked), seed: crc)
                guard isTail else { continue }
                block[LE<UInt32>(range.lowerBound + 8)] = crc
                crc = 0
            }
        }
    }
}
