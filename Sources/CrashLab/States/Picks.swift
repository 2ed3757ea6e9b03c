/// Which of all disks of an epoch: a value for each variable of its `EpochChoices`.
package enum Picks: Hashable, Sendable {
    /// Nothing but what must be there.
    case required
    /// Everything that was submitted.
    case newest
    /// In the order of the variables; 0 behind the end.
    case chosen([Int])
    /// Each variable for itself, from a seed.
    case random(seed: UInt64)

    func value(of variable: UInt64, _ choices: EpochChoices) -> Int {
        switch self {
        case .required: return 0
        case .newest: return choices.newest(of: variable)
        case .chosen(let values):
            guard let index = choices.index(of: variable), index < values.count else { return 0 }
            return min(values[index], choices.count(of: variable) - 1)
        case .random(let seed):
            var random = SeededRandom(seed: seed &+ variable &* 0x9E37_79B9_7F4A_7C15)
            return Int.random(in: 0..<choices.count(of: variable), using: &random)
        }
    }
}
