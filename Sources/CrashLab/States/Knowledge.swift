internal import Glibc

/// What a run has found out about the variables of an epoch: of some, in groups, which combinations of their values are
/// still possible; of all others nothing.
struct Knowledge {
    /// Variables of which something is known together.
    struct Group {
        /// Indexes among the variables of the epoch.
        let variables: [Int]
        /// For each combination a value of each variable, one combination behind the other.
        let values: [Int32]
        /// How many combinations of versions each stands for: those that differ in nothing count as one.
        let weights: [Double]

        func value(_ combination: Int, _ column: Int) -> Int32 { values[combination * variables.count + column] }
    }
    private(set) var groups: [Group] = []
    /// By variable: the index of its group, or -1.
    private var groupOfVariable: [Int32]
    /// The part of all states that is still possible, as a power of two.
    private(set) var log2Share = 0.0

    init(variableCount: Int) { groupOfVariable = [Int32](repeating: -1, count: variableCount) }

    mutating func forgetAll() {
        groups.removeAll(keepingCapacity: true)
        for variable in groupOfVariable.indices { groupOfVariable[variable] = -1 }
        log2Share = 0
    }

    /// The group of a variable and its place in it.
    func place(of variable: Int) -> (group: Int, column: Int)? {
        guard groupOfVariable[variable] >= 0 else { return nil }
        let group = Int(groupOfVariable[variable])
        return groups[group].variables.firstIndex(of: variable).map { (group, $0) }
    }

    /// A variable of which nothing was known may have these values.
    mutating func begin(_ variable: Int, _ values: [Int32], _ weights: [Double]) {
        groupOfVariable[variable] = Int32(groups.count)
        groups.append(Group(variables: [variable], values: values, weights: weights))
    }

    /// Of the combinations of these groups, numbered as `Wheel` counts them, only some are left. Gives the group that
    /// takes their place.
    mutating func narrow(_ involved: [Int], to combinations: [Int]) -> Int {
        let variables = involved.flatMap { groups[$0].variables }
        var wheel = Wheel(involved.map { groups[$0].weights.count })
        let all = involved.reduce(1.0) { $0 * groups[$1].weights.reduce(0, +) }
        var values: [Int32] = [], weights: [Double] = []
        values.reserveCapacity(combinations.count * variables.count)
        for combination in combinations {
            wheel.turn(to: combination)
            var weight = 1.0
            for (index, turn) in zip(involved, wheel.turns) {
                let width = groups[index].variables.count
                values += groups[index].values[turn * width..<(turn + 1) * width]
                weight *= groups[index].weights[turn]
            }
            weights.append(weight)
        }
        log2Share += log2(weights.reduce(0, +) / all)
        for index in involved { groups[index] = Group(variables: [], values: [], weights: []) }
        groups.append(Group(variables: variables, values: values, weights: weights))
        for variable in variables { groupOfVariable[variable] = Int32(groups.count - 1) }
        return groups.count - 1
    }
}

/// Counts through all combinations of numbers below the given ones; the last turns fastest.
struct Wheel {
    private let counts: [Int]
    private(set) var turns: [Int]

    init(_ counts: [Int]) {
        self.counts = counts
        turns = [Int](repeating: 0, count: counts.count)
    }

    /// How many combinations there are; `.max` when they are more than an Int can count.
    var combinationCount: Int {
        counts.reduce(1) { product, count in
            let (next, overflow) = product.multipliedReportingOverflow(by: count)
            return overflow ? .max : next
        }
    }

    mutating func turn(to combination: Int) {
        var rest = combination
        for place in counts.indices.reversed() {
            turns[place] = rest % counts[place]
            rest /= counts[place]
        }
    }

    /// The first place that has turned; nil when all combinations have been seen.
    mutating func advance() -> Int? {
        for place in counts.indices.reversed() {
            turns[place] += 1
            if turns[place] < counts[place] { return place }
            turns[place] = 0
        }
        return nil
    }
}
