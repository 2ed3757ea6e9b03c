package import BlockIO
package import Ext4Format

/// What the disk of the model may do with what it was asked for.
package struct DiskModel: Hashable, Sendable {
    package enum Order: String, Hashable, Sendable, CaseIterable {
        /// Of what need not be on the medium, every unit for itself holds any of its versions.
        case any
        /// Writes reach the medium in the order in which they completed: of those that need not be there, the first so
        /// many.
        case completion
    }
    /// Bytes that are written whole or not at all: 512 or 4096.
    package var unitByteCount = 512
    package var order = Order.any
    /// Without a cache a write is on the medium when it completes.
    package var hasCache = true
    /// False: a flush promises nothing. No file system survives that; it shows that an oracle can fail.
    package var honoursFlush = true
    /// False: a write through to the medium is one like any other.
    package var honoursFUA = true
    /// A unit may hold garbage when a write of it had been submitted and need not be on the medium, as on a disk that
    /// power fails in the middle of a sector. Only of a disk that keeps no order.
    package var leavesGarbage = false

    package init() {}
}

/// All disks that a power cut at any moment of a trace may leave, without listing them.
///
/// The disk consists of units. A write or a discard that touches a unit makes a new version of it; the writes of one
/// unit count in the order in which they were submitted (to have two in flight at once breaks rule I11 of the linter).
/// A version is required from the moment on when a flush that was submitted behind its completion has completed, or
/// itself when it was written through. At any moment a unit holds its newest required version or any later one that has
/// been submitted, each unit for itself. A write that failed may have landed, and is never required. On a disk that
/// leaves garbage a unit with such later versions may hold that too: bytes that nobody wrote, always the same.
///
/// States at one moment are among those at every later moment until something becomes required. So all states of a
/// trace are those at the ends of its epochs: the moments before a flush or a write through completes, and the end.
///
/// Built in one pass; memory is that of the trace. Reading a unit costs the logarithm of the number of its versions.
package struct CrashModel: Sendable {
    package let disk: DiskModel
    /// The disk before the first event. Only read.
    package let base: any BlockDevice
    /// No garbage befalls the units that these bytes touch.
    private let spared: [Range<UInt64>]
    var requiredDisks = RequiredDisks(unread: [])
    /// Oldest first.
    package private(set) var epochs: [Epoch] = []
    private(set) var writes: [Write] = []
    /// The writes that touch a unit, in the order of submission.
    private var versions: [UInt64: [Int32]] = [:]
    /// Every unit that the trace writes or discards, ascending.
    private(set) var touchedUnits: [UInt64] = []

    /// The time between two growths of what is required.
    package struct Epoch: Sendable {
        /// From 0.
        package let index: Int
        /// Power is cut behind the event with this index. Whatever was acknowledged by then must be there.
        package let event: Int
        /// Writes that had been submitted and were not required, in the order of submission.
        let pending: [Int32]
    }

    /// A write or a discard of the trace. Moments are indexes of events.
    struct Write: Sendable {
        let range: Range<UInt64>
        /// nil: a discard, which leaves zeros.
        let bytes: [UInt8]?
        let submitted: Int
        /// When it succeeded or failed; `.max` while it is in flight.
        var completed = Int.max
        var hasFailed = false
        /// From when on it must be on the medium; `.max`: never.
        var required = Int.max
    }

    /// Larger discards leave what was there: a disk may ignore any discard, and few units are easier to think about.
    private static let discardByteLimit: UInt64 = 64 << 20

    /// `.refused` when a request is not whole units of 512 bytes or lies past the end of `base`.
    package init(
        base: any BlockDevice, events: [Trace.Event], disk: DiskModel = DiskModel(),
        sparing spared: [Range<UInt64>] = []
    ) throws(Ext4Error) {
        precondition(disk.unitByteCount == 512 || disk.unitByteCount == 4096)
        precondition(!disk.leavesGarbage || disk.order == .any)
        self.base = base
        self.spared = spared
        self.disk = disk
        var build = Build(cache: WriteCache(disk))
        for (index, event) in events.enumerated() { try see(event, at: index, &build) }
        if let last = events.indices.last, epochs.last?.event != last { endEpoch(at: last, build) }
        touchedUnits = versions.keys.sorted()
    }

    // MARK: - One pass over the trace

    private struct Build {
        var cache: WriteCache
        var numbers: [UInt64: Int32] = [:]
    }

    private mutating func see(_ event: Trace.Event, at index: Int, _ build: inout Build) throws(Ext4Error) {
        switch event {
        case .mark: return
        case .submitted(_, .discard(_, let count)) where count > Self.discardByteLimit: return
        case .submitted(_, .flush): break
        case .submitted(let ticket, let request):
            let number = Int32(writes.count)
            try add(request, at: index)
            build.numbers[ticket] = number
        case .completed(let ticket, let succeeded):
            guard let number = build.numbers[ticket] else { break }
            writes[Int(number)].completed = index
            writes[Int(number)].hasFailed = !succeeded
        }
        guard let promise = build.cache.see(event) else { return }
        if index > 0 { endEpoch(at: index - 1, build) }
        guard promise.isKept else { return }
        build.cache.makeDurable(promise.tickets)
        for ticket in promise.tickets {
            guard let number = build.numbers.removeValue(forKey: ticket) else { continue }
            writes[Int(number)].required = index
        }
    }

    private mutating func add(_ request: DeviceRequest, at index: Int) throws(Ext4Error) {
        let write: Write
        switch request {
        case .flush: return
        case .write(let offset, let bytes, _):
            write = Write(range: offset..<offset + UInt64(bytes.count), bytes: bytes, submitted: index)
        case .discard(let offset, let count):
            write = Write(range: offset..<offset + count, bytes: nil, submitted: index)
        }
        guard write.range.lowerBound % 512 == 0, write.range.upperBound % 512 == 0,
            write.range.upperBound <= base.byteCount
        else { throw .refused("request at event \(index) does not fit a disk of \(base.byteCount) bytes") }
        for unit in units(of: write.range) { versions[unit, default: []].append(Int32(writes.count)) }
        writes.append(write)
    }

    private mutating func endEpoch(at event: Int, _ build: Build) {
        let pending = build.cache.open.compactMap { build.numbers[$0] }
        epochs.append(Epoch(index: epochs.count, event: event, pending: pending))
    }

    // MARK: - Versions

    /// Pending writes of an epoch in the order of completion, those in flight last.
    func pendingByCompletion(_ epoch: Epoch) -> [Int32] {
        epoch.pending.sorted {
            let a = min(writes[Int($0)].completed, epoch.event + 1), b = min(writes[Int($1)].completed, epoch.event + 1)
            return (a, $0) < (b, $1)
        }
    }

    /// Names the trace: 16 hexadecimal digits of a hash of its requests and their order.
    package static func digest(_ events: [Trace.Event]) -> String {
        var hash = ImageHash()
        for (index, event) in events.enumerated() {
            switch event {
            case .submitted(let ticket, let request):
                if case .write(_, let bytes, _) = request { hash.add(unsafe bytes.span.bytes, at: UInt64(index)) }
                add("\(ticket) \(request.summary)", index, &hash)
            case .completed(let ticket, let succeeded): add("\(ticket) \(succeeded)", index, &hash)
            case .mark(let label): add(label, index, &hash)
            }
        }
        return String(hash.text.prefix(16))
    }

    private static func add(_ text: String, _ index: Int, _ hash: inout ImageHash) {
        let bytes = [UInt8](text.utf8)
        hash.add(unsafe bytes.span.bytes, at: ~UInt64(index))
    }

    /// The units that a range touches.
    func units(of range: Range<UInt64>) -> Range<UInt64> {
        let unit = UInt64(disk.unitByteCount)
        return range.lowerBound / unit..<(range.upperBound + unit - 1) / unit
    }

    /// The versions that a unit may hold at a moment. Version 0 is the required one, `count - 1` the newest submitted.
    struct Choice: Equatable {
        /// Where version 1 stands in the list of the unit.
        let first: Int
        let count: Int
    }

    func choice(of unit: UInt64, at event: Int) -> Choice {
        guard let list = versions[unit] else { return Choice(first: 0, count: 1) }
        let end = Self.partition(list.count) { writes[Int(list[$0])].submitted > event }
        var first = end
        while first > 0, writes[Int(list[first - 1])].required > event { first -= 1 }
        return Choice(first: first, count: end - first + 1)
    }

    /// The writes behind the versions from 1 on.
    func writes(of unit: UInt64, _ choice: Choice) -> ArraySlice<Int32> {
        versions[unit]?[choice.first..<choice.first + choice.count - 1] ?? []
    }

    /// Whether a unit of which later versions are open may hold garbage.
    func mayBeGarbage(_ unit: UInt64) -> Bool {
        disk.leavesGarbage && !spared.contains { units(of: $0).contains(unit) }
    }

    /// What garbage is in a unit: no text, no zeros, and no structure that anybody knows.
    func fillWithGarbage(_ unit: UInt64, _ bytes: inout MutableRawSpan, at offset: Int) {
        var random = SeededRandom(seed: unit)
        for word in stride(from: offset, to: offset + disk.unitByteCount, by: 8) {
            bytes[LE<UInt64>(word)] = random.next()
        }
    }

    /// Puts version `version` of a unit at `offset` of `bytes`.
    func copy(
        _ unit: UInt64, _ choice: Choice, version: Int, into bytes: inout MutableRawSpan, at offset: Int
    ) throws(Ext4Error) {
        let size = UInt64(disk.unitByteCount)
        let range = unit * size..<min((unit + 1) * size, base.byteCount)
        let list = versions[unit] ?? []
        let last = choice.first + version
        // The newest that covers the unit hides what is below it. One that failed counts only where it is chosen.
        var first = last
        while first > 0 {
            first -= 1
            let write = writes[Int(list[first])]
            if write.range.lowerBound <= range.lowerBound && write.range.upperBound >= range.upperBound,
                !write.hasFailed || first == last - 1
            {
                return put(list[first..<last], range, into: &bytes, at: offset)
            }
        }
        var part = bytes._mutatingExtracting(offset..<offset + Int(range.upperBound - range.lowerBound))
        try base.read(into: &part, at: range.lowerBound)
        put(list[..<last], range, into: &bytes, at: offset)
    }

    private func put(
        _ numbers: ArraySlice<Int32>, _ range: Range<UInt64>, into bytes: inout MutableRawSpan, at offset: Int
    ) {
        for (index, number) in zip(numbers.indices, numbers) {
            let write = writes[Int(number)]
            guard !write.hasFailed || index == numbers.endIndex - 1 else { continue }
            let part = write.range.clamped(to: range)
            let target = offset + Int(part.lowerBound - range.lowerBound)
            if let source = write.bytes {
                let start = Int(part.lowerBound - write.range.lowerBound)
                bytes.copy(unsafe source.span.bytes.extracting(start..<start + part.count), at: target)
            } else {
                bytes.fill(target..<target + part.count, with: 0)
            }
        }
    }

    /// The first index below `count` for which `condition` holds, or `count`; it holds for all that follow.
    private static func partition(_ count: Int, _ condition: (Int) -> Bool) -> Int {
        var low = 0, high = count
        while low < high {
            let middle = (low + high) / 2
            if condition(middle) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}

extension DeviceRequest {
    fileprivate var summary: String {
        switch self {
        case .write(let offset, let bytes, let mode): "write \(offset) \(bytes.count) \(mode)"
        case .flush: "flush"
        case .discard(let offset, let count): "discard \(offset) \(count)"
        }
    }
}
