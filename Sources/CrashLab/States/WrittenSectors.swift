internal import Ext4Format

/// What was written over a disk, by sectors of 512 bytes. Forgetting all of it costs next to nothing, so that one store
/// serves many runs. Ranges are whole sectors.
struct WrittenSectors {
    static let byteCount = 512
    private static let pageByteCount = 4096, perPage = 8
    /// By number of the page: its place in `bytes`.
    private var places: [UInt64: Int] = [:]
    /// By place: the number of the page, and a bit for each of its sectors that was written.
    private var pages: [UInt64] = [], masks: [UInt8] = []
    private var bytes: [UInt8] = []

    var isEmpty: Bool { pages.isEmpty }

    mutating func removeAll() {
        places.removeAll(keepingCapacity: true)
        pages.removeAll(keepingCapacity: true)
        masks.removeAll(keepingCapacity: true)
    }

    /// With `keepingOlder`, sectors that were written before stay as they are.
    mutating func write(_ source: RawSpan, at offset: UInt64, keepingOlder: Bool = false) {
        Self.forEachPage(of: offset..<offset + UInt64(source.byteCount)) { page, sectors, start in
            let place = place(of: page)
            for sector in sectors where !keepingOlder || masks[place] >> UInt8(sector) & 1 == 0 {
                let from = start + (sector - sectors.lowerBound) * Self.byteCount
                var span = bytes.mutableSpan
                var raw = unsafe span.mutableBytes
                raw.copy(
                    source.extracting(from..<from + Self.byteCount),
                    at: place * Self.pageByteCount + sector * Self.byteCount)
                masks[place] |= 1 << UInt8(sector)
            }
        }
    }

    private mutating func place(of page: UInt64) -> Int {
        if let place = places[page] { return place }
        let place = pages.count
        places[page] = place
        pages.append(page)
        masks.append(0)
        if bytes.count < (place + 1) * Self.pageByteCount {
            bytes += [UInt8](repeating: 0, count: max(bytes.count, 16 * Self.pageByteCount))
        }
        return place
    }

    /// Lays what was written over `target`, which stands for the range from `offset` on.
    func copy(over target: inout MutableRawSpan, at offset: UInt64) {
        guard !pages.isEmpty else { return }
        let source = unsafe bytes.span.bytes
        Self.forEachPage(of: offset..<offset + UInt64(target.byteCount)) { page, sectors, start in
            guard let place = places[page] else { return }
            let mask = masks[place]
            for sector in sectors where mask >> UInt8(sector) & 1 == 1 {
                let from = place * Self.pageByteCount + sector * Self.byteCount
                target.copy(
                    source.extracting(from..<from + Self.byteCount),
                    at: start + (sector - sectors.lowerBound) * Self.byteCount)
            }
        }
    }

    /// Whether all of the range was written.
    func covers(_ range: Range<UInt64>) -> Bool {
        guard !pages.isEmpty else { return false }
        var isCovered = true
        Self.forEachPage(of: range) { page, sectors, _ in
            let mask = places[page].map { masks[$0] } ?? 0
            if !sectors.allSatisfy({ mask >> UInt8($0) & 1 == 1 }) { isCovered = false }
        }
        return isCovered
    }

    /// Hands out all that was written, sector by sector.
    func forEach<E: Error>(_ body: (_ offset: UInt64, _ bytes: RawSpan) throws(E) -> Void) throws(E) {
        for (place, page) in pages.enumerated() {
            for sector in 0..<Self.perPage where masks[place] >> UInt8(sector) & 1 == 1 {
                let from = place * Self.pageByteCount + sector * Self.byteCount
                let offset = page * UInt64(Self.pageByteCount) + UInt64(sector * Self.byteCount)
                try body(offset, unsafe bytes.span.bytes.extracting(from..<from + Self.byteCount))
            }
        }
    }

    /// The pages that a range touches: of each its number, its sectors, and where the first lies in the range.
    private static func forEachPage(of range: Range<UInt64>, _ body: (UInt64, Range<Int>, Int) -> Void) {
        let size = UInt64(pageByteCount)
        var offset = range.lowerBound
        while offset < range.upperBound {
            let within = Int(offset % size), count = min(pageByteCount - within, Int(range.upperBound - offset))
            body(
                offset / size, within / byteCount..<(within + count) / byteCount, Int(offset - range.lowerBound))
            offset += UInt64(count)
        }
    }
}
