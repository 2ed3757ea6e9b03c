internal import Ext4Format

/// Reads the fast-commit area. A record never crosses a block, and a tail fills its block: so each commit begins a
/// block, and its checksum begins with it.
struct FastCommitScan {
    private let transaction: TransactionID
    private let area: Range<UInt32>
    private let reader: LogReader

    /// Far above what any tool makes (256 blocks as a rule), so that an image does not decide how much memory it takes.
    private static let maximumByteCount = 16 << 20
    /// How many blocks are read once more in search of a valid commit behind a bad one.
    private static let searchLimit = 4096

    /// An area that is too large to be one is `.unsupported`.
    init(transaction: TransactionID, area: Range<UInt32>, log: LogArea) throws(Ext4Error) {
        guard area.count <= Self.maximumByteCount / log.blockByteCount else {
            throw .unsupported(
                features: ["fast_commit"], hint: "a fast-commit area of \(area.count) blocks is not read")
        }
        self.transaction = transaction
        self.area = area
        reader = LogReader(log: log, ring: area, memory: LogMemory(for: log, ring: area, keeping: 0))
    }

    /// A read error is `.io`; what is wrong inside the area is part of the answer.
    func run() throws(Ext4Error) -> FastCommitLog {
        var log = FastCommitLog(transaction: transaction)
        var position = area.lowerBound
        while position < area.upperBound {
            switch try find(at: position) {
            case .commit(let commit):
                log.commits.append(commit)
                log.end = .clean
                position = commit.blocks.upperBound
            case .unreadable(let problem):
                log.end = .damaged(problem)
                return log
            case .bad(let problem):
                log.end = try isFollowed(position) ? .damaged(problem) : .torn(problem)
                return log
            case .nothing(let problem):
                if try isFollowed(position) { log.end = .damaged(problem) }
                return log
            }
        }
        return log
    }

    /// Whether a valid commit of this transaction begins behind `position`. What is no commit at all ends at its first
    /// record, so that the limit is for areas that are made to be searched without an end.
    private func isFollowed(_ position: UInt32) throws(Ext4Error) -> Bool {
        var left = area.count + Self.searchLimit
        for next in position + 1..<max(area.upperBound, position + 1) where left > 0 {
            let (finding, count) = try look(at: next, isAhead: true)
            if case .commit = finding { return true }
            left -= count
        }
        return false
    }

    private enum Finding {
        case commit(FastCommitLog.Commit)
        /// The checksum is right and the records are not.
        case unreadable(FastCommitLog.Problem)
        /// A tail of this transaction with the wrong checksum.
        case bad(FastCommitLog.Problem)
        /// No tail of this transaction.
        case nothing(FastCommitLog.Problem)
    }

    private func find(at start: UInt32) throws(Ext4Error) -> Finding { try look(at: start).finding }

    /// What begins at a block, and how many blocks that took. A bad sector ahead hides one commit at the most, and no
    /// commit before it needs it.
    private func look(at start: UInt32, isAhead: Bool = false) throws(Ext4Error) -> (finding: Finding, count: Int) {
        var walk = Walk(transaction: transaction, start: start, isFirst: start == area.lowerBound)
        for position in start..<area.upperBound {
            let count = Int(position - start) + 1
            do throws(Ext4Error) {
                let finding = try reader.withBlock(position) { block throws(Ext4Error) in
                    walk.pass(block, at: position)
                }
                if let finding { return (finding, count) }
            } catch {
                guard case .io = error, isAhead else { throw error }
                return (.nothing(FastCommitLog.Problem(what: "\(error)", position: position)), count)
            }
        }
        let problem = walk.problem ?? FastCommitLog.Problem(what: "no tail up to the end of the area", position: start)
        return (.nothing(problem), Int(area.upperBound - start))
    }

    /// The way through the records of one commit.
    private struct Walk {
        let transaction: TransactionID
        let start: UInt32
        /// The commit must begin with the head of the area.
        let isFirst: Bool
        private var records: [FastCommitRecord] = []
        private var crc: UInt32 = 0
        /// The first record that cannot be read. The checksum goes on: it tells whether that is damage.
        private(set) var problem: FastCommitLog.Problem?

        init(transaction: TransactionID, start: UInt32, isFirst: Bool) {
            self.transaction = transaction
            self.start = start
            self.isFirst = isFirst
        }

        /// Nil when the commit goes on behind the block.
        mutating func pass(_ block: RawSpan, at position: UInt32) -> Finding? {
            var offset = 0
            while true {
                do throws(Ext4Error) {
                    guard let count = try FastCommitRecord.byteCount(in: block, at: offset) else { return nil }
                    let bytes = block.extracting(offset..<offset + count)
                    let isHeadPlace = isFirst && position == start && offset == 0
                    offset += count
                    if let finding = take(bytes, at: position, isHeadPlace: isHeadPlace) { return finding }
                } catch {
                    return .nothing(FastCommitLog.Problem(what: "\(error)", position: position))
                }
            }
        }

        private mutating func take(_ bytes: RawSpan, at position: UInt32, isHeadPlace: Bool) -> Finding? {
            var record: FastCommitRecord?
            do throws(Ext4Error) {
                record = try FastCommitRecord(decoding: bytes)
            } catch {
                note("\(error)", position)
            }
            if case .tail(let id, let checksum) = record {
                return end(bytes, id, checksum, at: position)
            }
            crc = CRC32C.of(bytes, seed: crc)
            switch record {
            case .head(let features, let id) where isHeadPlace:
                guard id == transaction else {
                    return .nothing(
                        FastCommitLog.Problem(what: "the area is of another transaction", position: position))
                }
                if features != 0 { note("unknown fast-commit features \(features)", position) }
            case _ where isHeadPlace:
                return .nothing(FastCommitLog.Problem(what: "no head", position: position))
            case .head: note("a head inside of the area", position)
            case .pad, .tail, nil: break
            case let record?: records.append(record)
            }
            return nil
        }

        private func end(
            _ bytes: RawSpan, _ id: TransactionID, _ checksum: UInt32, at position: UInt32
        ) -> Finding {
            guard id == transaction else {
                return .nothing(FastCommitLog.Problem(what: "a tail of another transaction", position: position))
            }
            let sum = CRC32C.of(bytes.extracting(0..<FastCommitRecord.checkedTailByteCount), seed: crc)
            guard sum == checksum else {
                return .bad(FastCommitLog.Problem(what: "fast-commit checksum", position: position))
            }
            if let problem { return .unreadable(problem) }
            return .commit(FastCommitLog.Commit(blocks: start..<position + 1, records: records))
        }

        private mutating func note(_ what: String, _ position: UInt32) {
            if problem == nil { problem = FastCommitLog.Problem(what: what, position: position) }
        }
    }
}
