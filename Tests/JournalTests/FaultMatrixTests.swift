import BlockIO
import Ext4Format
import Foundation
import Journal
import Testing

/// Which block of the log is hit, and where in it.
private struct Victim {
    let name: String
    /// A log block, and the byte in it that a bit flip changes and whose sector is lost.
    let position: UInt32
    let byte: Int
    /// What the log's second transaction revokes; nil for a count that no block has room for.
    var revokes: Int? = 2
}

private let faults = [
    "bit flip", "sector zero", "sector garbage", "block swap", "older version", "truncated image", "read error",
]

/// A log of three transactions that goes round the end of the ring in its second, before leftovers of an older cycle:
/// 55 ... 59 | 60 ... 63, 1 ... 4 | 5 ... 7 | 8 ...
private struct MatrixLog {
    static let homeBlocks: UInt32 = 64, logBlocks: UInt32 = 64, size = 1024
    let format: LogAuthor.Format
    let revokes: Int?

    static func item(_ home: UInt64, _ byte: UInt8, escaped: Bool = false) -> LogAuthor.Item {
        var content = [UInt8](repeating: byte, count: size)
        if escaped { content.replaceSubrange(0..<4, with: [0xC0, 0x3B, 0x39, 0x98]) }
        return LogAuthor.Item(home: home, content: content)
    }

    /// Each transaction changes block 10 too, so that a lost one leaves no gap that looks right.
    func device() throws -> MemoryDevice {
        let device = MemoryDevice(byteCount: Int(Self.homeBlocks + Self.logBlocks) * Self.size)
        let log = try Self.log(on: device)
        var first = [UInt8](repeating: 0, count: Self.size)
        LogAuthor.put(Self.logBlocks, at: 0x10, in: &first)
        try log.write(first.span.bytes, at: 0, mode: .cached)
        var older = LogAuthor(format, end: 64, start: 8, sequence: 900)
        older.log([Self.item(40, 0x77)])
        older.commit(at: 1_600_000_000)
        try older.write(to: log)
        var author = LogAuthor(format, end: 64, start: 55, sequence: 1000)
        author.log([Self.item(10, 0x10), Self.item(11, 0x11), Self.item(20, 0x12)])
        author.commit()
        author.log([Self.item(10, 0x20), Self.item(12, 0x21, escaped: true), Self.item(13, 0x22)])
        author.revoke((0..<(revokes ?? 0)).map { $0 == 0 ? 20 : UInt64(200 + $0) })
        if revokes == nil { author.replaceLast { Self.enlarge(&$0, format) } }
        author.log([Self.item(14, 0x23)])
        author.commit()
        author.log([Self.item(10, 0x30)])
        author.commit()
        try author.write(to: log)
        return device
    }

    /// Lets a revoke block claim more records than it has room for, with a checksum that holds.
    private static func enlarge(_ block: inout [UInt8], _ format: LogAuthor.Format) {
        LogAuthor.put(UInt32(2000), at: 12, in: &block)
        guard format.checksums == .v2 || format.checksums == .v3 else { return }
        LogAuthor.put(UInt32(0), at: size - 4, in: &block)
        let seed = CRC32C.of(([UInt8](1...16)).span.bytes)
        LogAuthor.put(CRC32C.of(block.span.bytes, seed: seed), at: size - 4, in: &block)
    }

    static func log(on device: any BlockDevice) throws(Ext4Error) -> LogArea {
        try LogArea(device: device, blockByteCount: size, runs: [(FSBlock(UInt64(homeBlocks)), logBlocks)])
    }

    /// What blocks hold after so many of the three transactions. Block 20 is revoked by the second, when it does.
    func outcome(of count: Int) -> [UInt64: UInt8] {
        let isRevoked = count > 1 && revokes ?? 0 > 0
        return [
            10: [0, 0x10, 0x20, 0x30][count], 11: count > 0 ? 0x11 : 0, 20: count > 0 && !isRevoked ? 0x12 : 0,
            12: count > 1 ? 0x21 : 0, 13: count > 1 ? 0x22 : 0, 14: count > 1 ? 0x23 : 0, 40: 0,
        ]
    }
}

/// The disk with one fault; nil when reads of the block fail instead.
private func damage(_ disk: inout [UInt8], _ victim: Victim, _ fault: String, _ format: LogAuthor.Format) throws {
    let size = MatrixLog.size
    func start(_ position: UInt32) -> Int { Int(MatrixLog.homeBlocks + position) * size }
    let block = start(victim.position)
    let sector = block + victim.byte / 512 * 512
    switch fault {
    case "bit flip": disk[block + victim.byte] ^= 0x10
    case "sector zero": for index in sector..<sector + 512 { disk[index] = 0 }
    case "sector garbage":
        for index in sector..<sector + 512 { disk[index] = UInt8(truncatingIfNeeded: index &* 73 &+ 5) }
    case "block swap":
        let next = start(victim.position == 63 ? 1 : victim.position + 1)
        let mine = Array(disk[block..<block + size])
        disk.replaceSubrange(block..<block + size, with: disk[next..<next + size])
        disk.replaceSubrange(next..<next + size, with: mine)
    case "older version":
        // The same block of a log a hundred transactions ago; of the super block, an earlier tail.
        var author = LogAuthor(format, end: 64, start: victim.position == 0 ? 40 : 1, sequence: 990)
        switch victim.name {
        case _ where victim.name.contains("descriptor"): author.log([MatrixLog.item(33, 0x66)])
        case _ where victim.name.contains("revoke"): author.revoke([12])
        case _ where victim.name.contains("commit"): author.commit(at: 1_600_000_000)
        default: break
        }
        let old =
            victim.position == 0
            ? author.superBlock(over: Array(disk[block..<block + size]))
            : author.blocks[1] ?? [UInt8](repeating: 0x66, count: size)
        disk.replaceSubrange(block..<block + size, with: old)
    case "truncated image": disk.removeSubrange(block..<disk.count)
    default: break
    }
}

/// What one fault does: the class for the table. Records an issue for what must never be.
private func verdict(_ format: LogAuthor.Format, _ victim: Victim, _ fault: String) throws -> String {
    let whole = MatrixLog(format: format, revokes: victim.revokes)
    var bytes = try whole.device().bytes
    try damage(&bytes, victim, fault, format)
    let memory = MemoryDevice(bytes)
    let device = FaultyDevice(memory)
    if fault == "read error" {
        let start = UInt64(MatrixLog.homeBlocks + victim.position) * UInt64(MatrixLog.size)
        device.arm(FaultyDevice.Fault(.read, ordinal: 1, isPersistent: true, range: start..<start + 1024))
    }
    let place: Comment = "\(format.checksums), \(victim.name), \(fault)"
    do throws(Ext4Error) {
        let log = try MatrixLog.log(on: device)
        let target = ReplayTarget(blockCount: UInt64(MatrixLog.homeBlocks), sharesDeviceWithLog: true)
        let plan = try RecoveryPlan.scan(log, for: target)
        try plan.apply(from: log, to: device)
        let count = plan.transactions.count
        let disk = memory.bytes
        for (home, byte) in whole.outcome(of: count) {
            let filling = disk[Int(home) * 1024 + 8..<(Int(home) + 1) * 1024]
            #expect(filling.allSatisfy { $0 == byte }, "\(place): block \(home) after \(count) transactions")
        }
        for home in 0..<UInt64(MatrixLog.homeBlocks) where whole.outcome(of: 3)[home] == nil {
            #expect(disk[Int(home) * 1024..<(Int(home) + 1) * 1024].allSatisfy { $0 == 0 }, "\(place): block \(home)")
        }
        switch plan.end {
        case .damaged(let problem, let later):
            #expect(count < 3 && later == TransactionID(1002), place)
            // Those before the one that was hit are all there.
            #expect(victim.position == 0 || count == (victim.position >= 5 && victim.position < 55 ? 2 : 1), place)
            return "refused: \(problem.kind.rawValue)"
        case .torn, .clean:
            if count == 3 { return "identical" }
            #expect(victim.name.contains("last commit") && count == 2, "\(place): silent loss")
            return "ends before T\(count + 1)"
        case .empty:
            Issue.record("\(place): silent loss")
            return "empty"
        }
    } catch {
        switch error {
        case .io: return "refused: read error"
        case .corrupt(let what, _): return "refused: \(what)"
        default: return "\(error)"
        }
    }
}

private let victims = [
    Victim(name: "journal super block", position: 0, byte: 0x1B),
    Victim(name: "descriptor, first tag", position: 60, byte: 15),
    Victim(name: "descriptor, middle tag", position: 60, byte: 12 + 32 + 3),
    Victim(name: "descriptor, last tag", position: 60, byte: 12 + 48 + 7),
    Victim(name: "descriptor, tail checksum", position: 60, byte: 1023),
    Victim(name: "logged block", position: 61, byte: 700),
    Victim(name: "escaped block", position: 62, byte: 2),
    Victim(name: "revoke block", position: 1, byte: 20),
    Victim(name: "revoke block without records", position: 1, byte: 15, revokes: 0),
    Victim(name: "full revoke block", position: 1, byte: 1010, revokes: 125),
    Victim(name: "revoke block with too large a count", position: 1, byte: 14, revokes: nil),
    Victim(name: "logged block behind the ring's end", position: 3, byte: 0),
    Victim(name: "commit block", position: 4, byte: 0x13),
    Victim(name: "last descriptor", position: 5, byte: 15),
    Victim(name: "last commit block", position: 7, byte: 0x13),
    Victim(name: "leftover of an older cycle", position: 8, byte: 11),
]

/// Every kind of block of a log, hit in every way: what comes of it is in docs/TESTING.md, cell by cell.
@Test func everyFaultHasItsVerdict() throws {
    // Never a transaction in part, never an earlier one lost without a word, never a trap.
    var lines = [
        "| block | \(faults.joined(separator: " | ")) |", "|\(String(repeating: "---|", count: faults.count + 1))",
    ]
    for victim in victims {
        let cells = try faults.map { try verdict(LogAuthor.Format(), victim, $0) }
        lines.append("| \(victim.name) | \(cells.joined(separator: " | ")) |")
    }
    let page = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("docs/TESTING.md")
    let text = try String(contentsOf: page, encoding: .utf8)
    let table = lines.joined(separator: "\n")
    let isThere = text.contains(table)
    #expect(isThere, "docs/TESTING.md should have:\n\(table)")
    // Without any fault.
    for victim in victims {
        let wanted = victim.revokes == nil ? "refused: revoke block byte count" : "identical"
        #expect(try verdict(LogAuthor.Format(), victim, "none") == wanted)
    }
}

/// The same with the older kinds of checksum: nothing is applied in part, nothing earlier is lost without a word.
@Test(arguments: [JournalFormat.ChecksumKind.v1, .v2]) func olderChecksumsLoseNoTransactionSilently(
    _ kind: JournalFormat.ChecksumKind
) throws {
    // Version 1 knows only whole transactions: their unit is then the only safe one.
    var format = LogAuthor.Format(checksums: kind, isWide: false)
    format.hasManyUUIDs = false
    // Without checksums of their own, a commit's time and a super block cannot be told from another.
    for victim in victims where kind == .v2 || !["journal super block", "revoke block"].contains(victim.name) {
        guard victim.revokes == 2 else { continue }
        for fault in faults { _ = try verdict(format, victim, fault) }
    }
}
