internal import Ext4Format

/// Whether the fast-commit area holds commits that follow the last full one.
///
/// The area is a list of little-endian (tag, length) records (`struct ext4_fc_tl`). It counts when it begins with a
/// head for the transaction that would come next, and a tail with the right CRC-32C of all before it follows.
enum FastCommitProbe {
    private enum Tag {
        static var tail: UInt16 { 8 }
        static var head: UInt16 { 9 }
        static var known: ClosedRange<UInt16> { 1...9 }
    }
    private enum Layout {
        static var tag: LE<UInt16> { LE(0x0) }
        static var length: LE<UInt16> { LE(0x2) }
        static var headTransaction: LE<UInt32> { LE(0x8) }
        static var tailTransaction: LE<UInt32> { LE(0x4) }
        static var tailChecksum: LE<UInt32> { LE(0x8) }
        static var recordByteCount: Int { 4 }
        static var headByteCount: Int { 8 }
        static var tailByteCount: Int { 8 }
    }

    private enum Answer {
        case yes
        case no
        case goOn
    }

    static func hasTail(
        for transaction: TransactionID, area: Range<UInt32>, blockByteCount: Int, reader: inout LogReader
    ) throws(Ext4Error) -> Bool {
        var crc: UInt32 = 0
        for position in area {
            let isFirst = position == area.lowerBound
            let answer = try reader.withBlock(position, limit: area.upperBound) { block throws(Ext4Error) in
                read(block, for: transaction, isFirst: isFirst, &crc)
            }
            switch answer {
            case .yes: return true
            case .no: return false
            case .goOn: continue
            }
        }
        return false
    }

    private static func read(
        _ block: RawSpan, for transaction: TransactionID, isFirst: Bool, _ crc: inout UInt32
    ) -> Answer {
        var offset = 0
        while offset + Layout.recordByteCount <= block.byteCount {
            let rest = block.extracting(offset..<block.byteCount)
            let tag = rest[Layout.tag], length = Int(rest[Layout.length])
            let end = Layout.recordByteCount + length
            guard Tag.known.contains(tag), end <= rest.byteCount else { return .no }
            if isFirst && offset == 0 {
                guard tag == Tag.head, length >= Layout.headByteCount,
                    rest[Layout.headTransaction] == transaction.rawValue
                else { return .no }
            }
            if tag == Tag.tail {
                guard length >= Layout.tailByteCount else { return .no }
                let sum = CRC32C.of(rest.extracting(0..<Layout.recordByteCount + 4), seed: crc)
                let isOurs = rest[Layout.tailTransaction] == transaction.rawValue
                return isOurs && rest[Layout.tailChecksum] == sum ? .yes : .no
            }
            crc = CRC32C.of(rest.extracting(0..<end), seed: crc)
            offset += end
        }
        return .goOn
    }
}
