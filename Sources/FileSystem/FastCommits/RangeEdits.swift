internal import Ext4Format

/// What a log says of a file's mapping, in its order: later edits hide earlier ones where they overlap.
struct RangeEdits {
    /// A part of the file as the last edit of it left it; nil for a hole.
    struct Segment: Equatable {
        let range: Range<UInt64>
        let extent: Extent?
    }
    private var edits: [Segment] = []

    var isEmpty: Bool { edits.isEmpty }

    mutating func add(_ extent: Extent) {
        edits.append(Segment(range: UInt64(extent.first.rawValue)..<extent.end, extent: extent))
    }

    mutating func remove(_ range: Range<UInt64>) {
        if !range.isEmpty { edits.append(Segment(range: range, extent: nil)) }
    }

    /// As `remove`, before all edits so far.
    mutating func removeFirst(_ range: Range<UInt64>) {
        if !range.isEmpty { edits.insert(Segment(range: range, extent: nil), at: 0) }
    }

    /// What the edits come to: sorted, without overlap.
    ///
    /// The newest edit goes first and each takes the cells between edit boundaries that nobody has taken; taken cells
    /// are jumped over, so that the work does not grow with the square of what an image says.
    func merged() -> [Segment] {
        let bounds = Set(edits.flatMap { [$0.range.lowerBound, $0.range.upperBound] }).sorted()
        let cells = Dictionary(uniqueKeysWithValues: bounds.enumerated().map { ($1, $0) })
        var owner = [Int?](repeating: nil, count: bounds.count)
        // The next cell from here on that may be free, shortened as it is followed.
        var next = Array(0...bounds.count)
        func firstFree(from cell: Int) -> Int {
            var root = cell
            while next[root] != root { root = next[root] }
            var step = cell
            while next[step] != root { (step, next[step]) = (next[step], root) }
            return root
        }
        for (index, edit) in edits.enumerated().reversed() {
            guard let low = cells[edit.range.lowerBound], let high = cells[edit.range.upperBound] else { continue }
            var cell = firstFree(from: low)
            while cell < high {
                owner[cell] = index
                next[cell] = cell + 1
                cell = firstFree(from: cell + 1)
            }
        }
        return segments(bounds, owner)
    }

    private func segments(_ bounds: [UInt64], _ owner: [Int?]) -> [Segment] {
        var result: [Segment] = []
        var start = 0
        while start < bounds.count {
            guard let edit = owner[start] else {
                start += 1
                continue
            }
            var end = start + 1
            while owner[end] == edit { end += 1 }
            let range = bounds[start]..<bounds[end]
            result.append(Segment(range: range, extent: edits[edit].extent?.part(range)))
            start = end
        }
        return result
    }
}
