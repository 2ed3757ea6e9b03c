internal import BlockIO
package import Ext4Format
internal import Glibc

/// What is open about the disk after a power cut in one epoch: variables, each with its values.
///
/// With a disk of any order every unit with more than one version is a variable, and the values are its versions; where
/// there may be garbage it is the last value. With one that keeps the order there is one variable: how many of the
/// pending writes have landed.
package struct EpochChoices: Sendable {
    package let model: CrashModel
    package let epoch: CrashModel.Epoch
    /// Units that may hold different things, ascending.
    let units: [UInt64]
    private let choices: [UInt64: CrashModel.Choice]
    /// Pending writes in the order of completion, those in flight last; only for a disk that keeps it.
    private let ranks: [Int32: Int]

    package init(_ model: CrashModel, _ epoch: CrashModel.Epoch) {
        self.model = model
        self.epoch = epoch
        var choices: [UInt64: CrashModel.Choice] = [:]
        for number in epoch.pending {
            for unit in model.units(of: model.writes[Int(number)].range) where choices[unit] == nil {
                let choice = model.choice(of: unit, at: epoch.event)
                if choice.count > 1 { choices[unit] = choice }
            }
        }
        self.choices = choices
        units = choices.keys.sorted()
        guard model.disk.order == .completion else {
            ranks = [:]
            return
        }
        ranks = Dictionary(uniqueKeysWithValues: zip(model.pendingByCompletion(epoch), 1...))
    }

    package var openUnitCount: Int { units.count }

    /// Where on the disk something is open: for each of `width` equal parts of it a digit, 0 for nothing, and one more
    /// for every doubling of its units.
    package func map(width: Int) -> String {
        var counts = [Int](repeating: 0, count: width)
        let all = max(1, model.units(of: 0..<model.base.byteCount).count)
        for unit in units { counts[min(width - 1, Int(unit) * width / all)] += 1 }
        return counts.map { String(min(9, Int.bitWidth - $0.leadingZeroBitCount)) }.joined()
    }

    func isOpen(_ unit: UInt64) -> Bool { choices[unit] != nil }

    /// Ascending. All that is open is open in one of them.
    package var variables: [UInt64] {
        guard model.disk.order == .completion else { return units }
        return units.isEmpty ? [] : [0]
    }

    func variable(of unit: UInt64) -> UInt64 { model.disk.order == .completion ? 0 : unit }

    func index(of variable: UInt64) -> Int? {
        guard model.disk.order == .any else { return 0 }
        let index = firstIndex(from: variable)
        return index < units.count && units[index] == variable ? index : nil
    }

    /// By index in `units`, those of a range.
    func openUnits(in range: Range<UInt64>) -> Range<Int> {
        let first = firstIndex(from: range.lowerBound)
        var end = first
        while end < units.count, units[end] < range.upperBound { end += 1 }
        return first..<end
    }

    private func firstIndex(from unit: UInt64) -> Int {
        var low = 0, high = units.count
        while low < high {
            let middle = (low + high) / 2
            if units[middle] < unit { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// With garbage, which comes last.
    func versionCount(of unit: UInt64) -> Int {
        guard let choice = choices[unit] else { return 1 }
        return choice.count + (model.mayBeGarbage(unit) ? 1 : 0)
    }

    /// The values of a variable are 0 up to below this; 0 is the state with nothing but what must be there.
    package func count(of variable: UInt64) -> Int {
        newest(of: variable) + (isOpen(variable) && model.mayBeGarbage(variable) ? 2 : 1)
    }

    /// The value that stands for everything that was submitted.
    func newest(of variable: UInt64) -> Int {
        model.disk.order == .completion ? epoch.pending.count : (choices[variable]?.count ?? 1) - 1
    }

    /// The value that stands for garbage; nil where there is none.
    func garbage(of variable: UInt64) -> Int? {
        let newest = newest(of: variable)
        return count(of: variable) > newest + 1 ? newest + 1 : nil
    }

    /// The version of a unit when its variable has `value`.
    func version(of unit: UInt64, value: Int) -> Int {
        guard model.disk.order == .completion else { return value }
        guard let choice = choices[unit] else { return 0 }
        let numbers = model.writes(of: unit, choice)
        return numbers.lastIndex { ranks[$0, default: .max] <= value }.map { $0 - numbers.startIndex + 1 } ?? 0
    }

    /// Puts a unit at `offset` of `bytes`, as it is when its variable has `value`. What is not open has one content.
    func copy(
        _ unit: UInt64, value: Int, into bytes: inout MutableRawSpan, at offset: Int
    ) throws(Ext4Error) {
        try copy(unit, version: version(of: unit, value: value), into: &bytes, at: offset)
    }

    func copy(
        _ unit: UInt64, version: Int, into bytes: inout MutableRawSpan, at offset: Int
    ) throws(Ext4Error) {
        let choice = choices[unit] ?? model.choice(of: unit, at: epoch.event)
        guard version < choice.count else { return model.fillWithGarbage(unit, &bytes, at: offset) }
        try model.copy(unit, choice, version: version, into: &bytes, at: offset)
    }

    /// What a write set when it landed whole: variables, by their index, and the values that they have then at least.
    /// For a disk that keeps no order.
    func values(after write: Int32) -> [(index: Int, value: Int)] {
        model.units(of: model.writes[Int(write)].range).compactMap { unit in
            guard let choice = choices[unit], let index = index(of: unit) else { return nil }
            let numbers = model.writes(of: unit, choice)
            return numbers.firstIndex(of: write).map { (index, $0 - numbers.startIndex + 1) }
        }
    }

    /// Hands out all that the trace touches, ascending and in runs, as it is in the state that `picks` name. The runs
    /// are the same for all states of a trace.
    package func forEachTouched(
        _ picks: Picks, _ body: (_ offset: UInt64, _ bytes: RawSpan) throws(Ext4Error) -> Void
    ) throws(Ext4Error) {
        let size = model.disk.unitByteCount, touched = model.touchedUnits
        let buffer = AlignedBuffer(byteCount: Self.runUnitCount * size)
        var start = 0
        while start < touched.count {
            var count = 0
            while count < Self.runUnitCount, start + count < touched.count,
                touched[start + count] == touched[start] + UInt64(count)
            {
                let unit = touched[start + count]
                let value = isOpen(unit) ? picks.value(of: variable(of: unit), self) : 0
                try buffer.withMutableBytes { bytes throws(Ext4Error) in
                    try copy(unit, value: value, into: &bytes, at: count * size)
                }
                count += 1
            }
            let offset = touched[start] * UInt64(size)
            // The last unit of the disk may be short.
            let byteCount = min(count * size, Int(model.base.byteCount - offset))
            try buffer.withBytes { bytes throws(Ext4Error) in try body(offset, bytes.extracting(0..<byteCount)) }
            start += count
        }
    }

    private static let runUnitCount = 512

    /// Stands for the whole disk in the state that `picks` name, among all states of the model.
    package func imageHash(_ picks: Picks) throws(Ext4Error) -> ImageHash {
        var hash = ImageHash()
        try forEachTouched(picks) { offset, bytes in hash.add(bytes, at: offset) }
        return hash
    }

    /// How many states there are, as a power of two: the number itself may have thousands of digits.
    package var log2StateCount: Double {
        variables.reduce(0) { $0 + log2(Double(count(of: $1))) }
    }
}
