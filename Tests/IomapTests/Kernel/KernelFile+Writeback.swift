import Ext4Format
import Testing

/// What writeback has put on the device and not reported: contiguous in the file and on the device.
struct Submission {
    var position: UInt64, written: UInt64
    var address: UInt64
    var flags: UInt32
    var error: Int32

    var end: UInt64 { position + written }
}

extension KernelFile {
    /// Writes dirty blocks back and reports them, in the order that `arrange` makes of it. Throws what a BEGIN said.
    func writeBack(
        _ range: Range<UInt64> = 0..<UInt64.max / 2, _ arrange: ([Submission]) -> [Submission] = { $0 }
    ) throws {
        for submission in arrange(try submit(range)) { try report(submission) }
    }

    func report(_ submission: Submission) throws {
        var flags = submission.flags
        if submission.end > diskSize { flags |= Ended.append }
        try ioend(
            flags, error: submission.error, submission.position, submission.written,
            address: tellsSectors ? submission.address / 512 : submission.address)
        forgetWritten(submission.position..<submission.end)
        if submission.error != 0 { drop(submission.position..<submission.end) }
    }

    /// The first half of writeback: the data are on the device, nobody knows.
    func submit(_ range: Range<UInt64> = 0..<UInt64.max / 2) throws -> [Submission] {
        var result: [Submission] = []
        var map: Mapping?, cookie = remembered.cookie
        for block in dirtyBlocks(range) {
            let position = block * unit
            try meanwhile(block)
            // What was remembered holds while nothing is forgotten; what was asked for always does.
            if remembered.cookie != cookie { map = nil }
            cookie = remembered.cookie
            if map.map({ position < $0.offset || position >= $0.end }) ?? true {
                map = try mapForWriteback(block)
            }
            guard let map else { preconditionFailure() }
            // A hole drops the data silently; the others are never right here.
            try #require(map.hasAddress, "writeback got \(map)")
            try submit(block, map, &result)
        }
        return result
    }

    private func dirtyBlocks(_ range: Range<UInt64>) -> [UInt64] {
        let blocks = range.lowerBound / unit..<(range.upperBound + unit - 1) / unit
        return cache.filter { $0.value.isDirty && blocks.contains($0.key) && $0.key * unit < size }.keys.sorted()
    }

    /// After any successful write, reported or not.
    func forgetWritten(_ range: Range<UInt64>) {
        remembered.forget(range.lowerBound / unit * unit..<(range.upperBound + unit - 1) / unit * unit)
    }

    private func mapForWriteback(_ block: UInt64) throws -> Mapping {
        if let map = remembered.at(block * unit) { return map }
        var last = block + 1
        while last % folioBlockCount != 0, cache[last]?.isDirty == true, last * unit < size { last += 1 }
        let position = block * unit, count = (last - block) * unit
        do {
            let map = try begin(.writeback, position, count).map
            // The kernel takes one mapping and stops: as if nothing had been written.
            try end(.writeback, position, count, written: 0, map)
            return map
        } catch let refusal as Refusal {
            // Given up: the rest of the folio.
            try ioend(0, error: -refusal.number, position, count)
            for given in block..<last { cache[given] = nil }
            throw refusal
        }
    }

    private func submit(_ block: UInt64, _ map: Mapping, _ result: inout [Submission]) throws {
        let position = block * unit, end = min(position + unit, size)
        var bytes = try #require(cache[block]).bytes
        for index in Int(end - position)..<bytes.count { bytes[index] = 0 }
        cache[block]?.bytes = bytes
        cache[block]?.isDirty = false
        var flags = Ended.writeback
        if map.isShared { flags |= Ended.shared }
        if map.type == Mapping.unwritten { flags |= Ended.unwritten }
        let address = map.place(of: position)
        let error: Int32 = try store(bytes, at: address) ? 0 : -5
        if let last = result.last, last.end == position, last.flags == flags, last.error == error,
            last.address + last.written == address
        {
            result[result.count - 1].written += end - position
        } else {
            result.append(
                Submission(position: position, written: end - position, address: address, flags: flags, error: error))
        }
    }
}
