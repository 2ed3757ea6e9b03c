package import BlockIO
package import Ext4Format

/// One entry of a write log.
package struct WriteLogEntry: Sendable {
    /// From 0.
    package let index: UInt64
    package let flags: WriteLogFlags
    /// Where on the logged device, in bytes.
    package let offset: UInt64
    /// How much of it, in bytes; 0 for a mark and for a flush alone.
    package let byteCount: UInt64
    /// The label of a mark; empty for others. Any bytes but zero.
    package let label: [UInt8]
    /// Where the payload lies in the log, in bytes. It is as long as `byteCount`; a discard has none.
    let payload: UInt64

    package var isMark: Bool { flags.contains(.mark) }
    package var text: String { String(decoding: label, as: UTF8.self) }
}

/// Reads a dm-log-writes log in sequence. The log is not trusted: whatever it says is checked against its own length,
/// and an entry costs a header and no more until it is applied.
package struct WriteLogReader {
    package enum Stop: Equatable, Sendable {
        case end
        /// After the entry with this index.
        case entry(UInt64)
        /// After the next mark with exactly this label.
        case mark(String)
        /// After the next entry that has one of these flags.
        case flag(WriteLogFlags)
    }

    private let log: any BlockDevice
    /// Bytes per sector of the logged device: the unit of the log.
    package let sectorByteCount: Int
    package let entryCount: UInt64
    private var nextIndex: UInt64 = 0
    private var position: UInt64

    /// The largest piece of a payload in memory at a time, in bytes.
    private static let transferByteCount = 1 << 20

    /// The longest payload that is taken into memory as a whole, in bytes: no request of Linux has more than a fraction
    /// of it.
    private static let payloadLimit: UInt64 = 1 << 28

    package init(on log: any BlockDevice) throws(Ext4Error) {
        self.log = log
        guard log.byteCount >= 512 else { throw .corrupt("write log super block", where: "the log is too short") }
        let head = try Self.load(log, at: 0, count: 512)
        let (magic, version) = Self.read(head, WriteLogFormat.Super.magic, WriteLogFormat.Super.version)
        guard magic == WriteLogFormat.magic else { throw .refused("this is not a dm-log-writes log") }
        guard version == WriteLogFormat.version else { throw .refused("write log version \(version) is not known") }
        let (entries, sector) = Self.read(head, WriteLogFormat.Super.entryCount, WriteLogFormat.Super.sectorByteCount)
        guard WriteLogFormat.sectorByteCounts.contains(Int(sector)) else {
            throw .corrupt("write log super block", where: "sector size \(sector)")
        }
        guard entries <= log.byteCount / UInt64(sector) else {
            throw .corrupt("write log super block", where: "\(entries) entries do not fit the log")
        }
        sectorByteCount = Int(sector)
        entryCount = entries
        position = UInt64(sector)
    }

    /// The next entry; nil behind the last.
    package mutating func next() throws(Ext4Error) -> WriteLogEntry? {
        guard nextIndex < entryCount else { return nil }
        let place = "entry \(nextIndex) at byte \(position)"
        let sector = UInt64(sectorByteCount)
        guard log.byteCount >= sector, position <= log.byteCount - sector else {
            throw .corrupt("write log: header past the end", where: place)
        }
        let header = try Self.load(log, at: position, count: sectorByteCount)
        let (first, count) = Self.read(header, WriteLogFormat.Header.sector, WriteLogFormat.Header.sectorCount)
        let (bits, labelCount) = Self.read(header, WriteLogFormat.Header.flags, WriteLogFormat.Header.labelByteCount)
        let flags = WriteLogFlags(rawValue: bits)
        let isPlainMark = bits == WriteLogFlags.mark.rawValue
        guard bits != 0 || count != 0, isPlainMark || header[WriteLogFormat.Header.label] == 0 else {
            throw .corrupt("write log: malformed header", where: place)
        }
        let (offset, far) = first.multipliedReportingOverflow(by: sector)
        let (byteCount, long) = count.multipliedReportingOverflow(by: sector)
        guard !far, !long, !offset.addingReportingOverflow(byteCount).overflow else {
            throw .corrupt("write log: range", where: place)
        }
        var label: [UInt8] = []
        if isPlainMark {
            guard labelCount <= UInt64(WriteLogFormat.labelLimit(sectorByteCount)) else {
                throw .corrupt("write log: label", where: place)
            }
            label = Array(header[WriteLogFormat.Header.label...].prefix(Int(labelCount)))
        }
        let payload = position + sector
        let stored = flags.contains(.discard) ? 0 : byteCount
        guard stored <= log.byteCount - payload else { throw .corrupt("write log: payload past the end", where: place) }
        let entry = WriteLogEntry(
            index: nextIndex, flags: flags, offset: offset, byteCount: byteCount, label: label, payload: payload)
        nextIndex += 1
        position = payload + stored
        return entry
    }

    /// The bytes of a write: as many as the entry says, which is never more than the log itself has.
    package func payload(of entry: WriteLogEntry) throws(Ext4Error) -> [UInt8] {
        guard !entry.flags.contains(.discard), entry.byteCount > 0 else { return [] }
        guard entry.byteCount <= Self.payloadLimit else {
            throw .refused("entry \(entry.index) of the write log is too much to be read at once")
        }
        return try Self.load(log, at: entry.payload, count: Int(entry.byteCount))
    }

    /// Does to `target` what the entry did to the logged device. A range past the end of `target` is refused before
    /// anything is changed. What a discard leaves is up to `target`; an `OverlayDevice` reads zeros.
    package func apply(_ entry: WriteLogEntry, onto target: any BlockDevice) throws(Ext4Error) {
        guard !entry.isMark, entry.byteCount > 0 else { return }
        guard entry.byteCount <= target.byteCount, entry.offset <= target.byteCount - entry.byteCount else {
            throw .refused("entry \(entry.index) of the write log lies past the end of the device")
        }
        if entry.flags.contains(.discard) { return try target.discard(at: entry.offset, count: entry.byteCount) }
        var done: UInt64 = 0
        while done < entry.byteCount {
            let piece = AlignedBuffer(byteCount: Int(min(entry.byteCount - done, UInt64(Self.transferByteCount))))
            try log.read(into: piece, at: entry.payload + done)
            try target.write(piece, at: entry.offset + done)
            done += UInt64(piece.byteCount)
        }
    }

    /// Applies entries from where the reader stands up to and including the one at which `stop` says to stop, and
    /// gives that entry. nil: the log ended; then `.end` was reached, or what was looked for is not there.
    package mutating func apply(until stop: Stop, onto target: any BlockDevice) throws(Ext4Error) -> WriteLogEntry? {
        while let entry = try next() {
            try apply(entry, onto: target)
            switch stop {
            case .end: continue
            case .entry(let index): if entry.index == index { return entry }
            case .mark(let label): if entry.isMark && entry.label == Array(label.utf8) { return entry }
            case .flag(let flags): if !entry.flags.isDisjoint(with: flags) { return entry }
            }
        }
        return nil
    }

    /// Reads the whole log and names what other readers of the format would stumble over; empty if nothing.
    package static func problems(on log: any BlockDevice) throws(Ext4Error) -> [String] {
        var reader = try WriteLogReader(on: log)
        var problems: [String] = []
        if reader.entryCount == 0 { problems.append("the log has no entry") }
        var last: WriteLogEntry?
        while let entry = try reader.next() {
            if entry.isMark && entry.flags != .mark { problems.append("entry \(entry.index): a mark with other flags") }
            if entry.isMark && entry.byteCount > 0 { problems.append("entry \(entry.index): a mark with a payload") }
            if entry.label.contains(0) { problems.append("entry \(entry.index): a zero in the label") }
            last = entry
        }
        if let last, last.text != WriteLogFormat.endLabel || !last.isMark {
            problems.append("the last entry is not the end mark")
        }
        return problems
    }

    private static func load(_ log: any BlockDevice, at offset: UInt64, count: Int) throws(Ext4Error) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var span = bytes.mutableSpan
        var raw = unsafe span.mutableBytes
        try log.read(into: &raw, at: offset)
        return bytes
    }

    private static func read<A, B>(_ bytes: [UInt8], _ first: LE<A>, _ second: LE<B>) -> (A, B) {
        let raw = unsafe bytes.span.bytes
        return (raw[first], raw[second])
    }
}
