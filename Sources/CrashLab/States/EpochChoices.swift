internal import BlockIO
internal import Ext4Format
internal import Glibc

/// What is open about the disk after a power cut in one epoch: variables, each with its values.
///
/// With a disk of any order every unit with more than one version is a variable, and the values are its versions. With
/// one that keeps the order there is one variable: how many of the pending writes have landed.
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
        let order = epoch.pending.sorted {
            let a = model.writes[Int($0)], b = model.writes[Int($1)]
            return (min(a.completed, epoch.event + 1), $0) < (min(b.completed, epoch.event + 1), $1)
        }
        ranks = Dictionary(uniqueKeysWithValues: zip(order, 1...))
    }

    package var openUnitCount: Int { units.count }

    func isOpen(_ unit: UInt64) -> Bool { choices[unit] != nil }

    /// Ascending. All that is open is open in one of them.
    package var variables: [UInt64] {
        guard model.disk.order == .completion else { return units }
        return units.isEmpty ? [] : [0]
    }

    func variable(of unit: UInt64) -> UInt64 { model.disk.order == .completion ? 0 : unit }

    func index(of variable: UInt64) -> Int? {
        guard model.disk.order == .any else { return 0 }
        var low = 0, high = units.count
        while low < high {
            let middle = (low + high) / 2
            if units[middle] < variable { low = middle + 1 } else { high = middle }
        }
        return low < units.count && units[low] == variable ? low : nil
    }

    /// The values of a variable are 0 up to below this; 0 is the state with nothing but what must be there.
    package func count(of variable: UInt64) -> Int {
        model.disk.order == .completion ? epoch.pending.count + 1 : choices[variable]?.count ?? 1
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
        let choice = choices[unit] ?? model.choice(of: unit, at: epoch.event)
        try model.copy(unit, choice, version: version(of: unit, value: value), into: &bytes, at: offset)
    }

    /// How many states there are, as a power of two: the number itself may have thousands of digits.
    package var log2StateCount: Double {
        variables.reduce(0) { $0 + log2(Double(count(of: $1))) }
    }
}
