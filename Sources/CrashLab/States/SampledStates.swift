/// Some states of an epoch, for checkers that need a whole image and cannot be asked lazily.
///
/// In this order, up to the wanted number: all of them if they are few; else nothing and all of what may be lost, every
/// prefix in the order of completion, and with garbage in the place of its last write, every write alone, all but each,
/// each pair of at most 32, each write torn in two, and then each unit by chance.
package struct SampledStates {
    private let choices: EpochChoices
    private let newest: [Int]
    /// For each pending write, in the order of completion: the variables that it sets, and to what.
    private let writes: [[(index: Int, value: Int)]]
    private static let pairLimit = 32

    package init(_ choices: EpochChoices) {
        self.choices = choices
        newest = choices.variables.map { choices.newest(of: $0) }
        let keepsOrder = choices.model.disk.order == .completion
        writes = choices.model.pendingByCompletion(choices.epoch).map { number in
            keepsOrder ? [] : choices.values(after: number)
        }
    }

    /// The same `seed` gives the same states. No two are the same.
    package func states(limit: Int, seed: UInt64) -> [Picks] {
        var states: [Picks] = [], known: Set<[Int]> = []
        func add(_ values: [Int]) {
            if states.count < limit, known.insert(values).inserted { states.append(.chosen(values)) }
        }
        if choices.log2StateCount <= 12, 1 << Int(choices.log2StateCount.rounded(.up)) <= limit {
            forEachState(add)
            return states
        }
        let nothing = [Int](repeating: 0, count: newest.count)
        add(nothing)
        add(newest)
        var prefix = nothing
        for write in writes {
            if let spoiled = spoiled(write, prefix) { add(spoiled) }
            set(write[...], in: &prefix)
            add(prefix)
        }
        for write in writes { add(with([write[...]], nothing)) }
        for write in writes { add(without(write[...])) }
        if writes.count <= Self.pairLimit {
            for (index, first) in writes.enumerated() {
                for second in writes[(index + 1)...] { add(with([first[...], second[...]], nothing)) }
            }
        }
        for write in writes where write.count > 1 {
            add(without(write[(write.count / 2)...]))
            add(without(write[..<(write.count / 2)]))
        }
        var random = SeededRandom(seed: seed &+ UInt64(choices.epoch.index))
        // Chance may not find what is left of few states.
        for _ in 0..<2 * limit where states.count < limit {
            add(choices.variables.map { Int.random(in: 0..<choices.count(of: $0), using: &random) })
        }
        return states
    }

    private func forEachState(_ body: ([Int]) -> Void) {
        var values = [Int](repeating: 0, count: newest.count)
        let last = choices.variables.map { choices.count(of: $0) - 1 }
        while true {
            body(values)
            guard let place = values.indices.last(where: { values[$0] < last[$0] }) else { return }
            values[place] += 1
            for behind in values.indices[(place + 1)...] { values[behind] = 0 }
        }
    }

    private func set(_ write: ArraySlice<(index: Int, value: Int)>, in values: inout [Int]) {
        for (index, value) in write { values[index] = max(values[index], value) }
    }

    private func with(_ writes: [ArraySlice<(index: Int, value: Int)>], _ start: [Int]) -> [Int] {
        var values = start
        for write in writes { set(write, in: &values) }
        return values
    }

    /// Garbage where a write was to go; nil when there may be none.
    private func spoiled(_ write: [(index: Int, value: Int)], _ start: [Int]) -> [Int]? {
        var values = start
        for (index, _) in write { values[index] = choices.garbage(of: choices.units[index]) ?? values[index] }
        return values == start ? nil : values
    }

    /// All that was submitted but this: its units keep what they held before it.
    private func without(_ write: ArraySlice<(index: Int, value: Int)>) -> [Int] {
        var values = newest
        for (index, value) in write where values[index] == value { values[index] = value - 1 }
        return values
    }
}
