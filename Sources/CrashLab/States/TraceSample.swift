/// A few states of a whole trace, for judges that cost too much to be shown them all.
package struct TraceSample {
    /// A moment in an epoch: right after the event with this index.
    private typealias Moment = (epoch: Int, event: Int)
    private let epochs: [EpochChoices]
    /// When the writes that were open at the end of an epoch had been submitted, and had completed, in it.
    private let submissions: [Moment], completions: [Moment]

    /// Of a disk that keeps no order.
    package init(_ model: CrashModel) {
        precondition(model.disk.order == .any)
        epochs = model.epochs.map { EpochChoices(model, $0) }
        var submissions: [Moment] = [], completions: [Moment] = []
        var start = 0
        for epoch in model.epochs {
            let writes = epoch.pending.map { model.writes[Int($0)] }
            submissions += writes.map(\.submitted).filter { $0 >= start }.map { (epoch.index, $0) }
            completions += writes.map(\.completed).filter { $0 >= start && $0 <= epoch.event }.sorted()
                .map { (epoch.index, $0) }
            start = epoch.event + 1
        }
        (self.submissions, self.completions) = (submissions, completions)
    }

    /// The two ends of each epoch: nothing but what must be there, and all that completed.
    package var boundaries: [CrashState] {
        epochs.flatMap { choices in
            [.required, choices.landed(at: choices.epoch.event)].map { CrashState(choices, $0) }
        }
    }

    /// States inside of epochs, chosen by `seed`, at most so many of each kind: everything that completed up to a
    /// moment; that and some units of what was in flight; and of what was open any write whole, in part or not at all.
    package func inner(seed: UInt64, prefixes: Int, inFlight: Int, subsets: Int) -> [CrashState] {
        var random = SeededRandom(seed: seed)
        var states: [CrashState] = []
        for (epoch, event) in random.sample(completions, count: prefixes) {
            states.append(CrashState(epochs[epoch], epochs[epoch].landed(at: event)))
        }
        for (epoch, event) in random.sample(submissions, count: inFlight) {
            states.append(CrashState(epochs[epoch], epochs[epoch].torn(at: event, &random)))
        }
        for _ in 0..<subsets {
            guard let (epoch, event) = submissions.randomElement(using: &random) else { break }
            states.append(CrashState(epochs[epoch], epochs[epoch].mixed(at: event, &random)))
        }
        return states
    }

    /// All boundaries, and those.
    package func states(seed: UInt64, prefixes: Int, inFlight: Int, subsets: Int) -> [CrashState] {
        boundaries + inner(seed: seed, prefixes: prefixes, inFlight: inFlight, subsets: subsets)
    }
}

extension EpochChoices {
    /// Each write that had completed right after `event` landed, and nothing else.
    package func landed(at event: Int) -> Picks {
        var values = [Int](repeating: 0, count: units.count)
        land(at: event, &values)
        return .chosen(values)
    }

    /// That, and of what was in flight at this moment each unit or not, or garbage.
    package func torn(at event: Int, _ random: inout SeededRandom) -> Picks {
        var values = [Int](repeating: 0, count: units.count)
        land(at: event, &values)
        for number in submitted(by: event) where model.writes[Int(number)].completed > event {
            tear(number, &values, &random)
        }
        return .chosen(values)
    }

    /// Of the writes that were open at this moment each landed whole, or for each unit yes, no or garbage, or not at
    /// all.
    package func mixed(at event: Int, _ random: inout SeededRandom) -> Picks {
        var values = [Int](repeating: 0, count: units.count)
        for number in submitted(by: event) {
            switch UInt8.random(in: 0..<3, using: &random) {
            case 0: continue
            case 1: set(number, &values)
            default: tear(number, &values, &random)
            }
        }
        return .chosen(values)
    }

    private func submitted(by event: Int) -> [Int32] {
        epoch.pending.filter { model.writes[Int($0)].submitted <= event }
    }

    private func land(at event: Int, _ values: inout [Int]) {
        for number in epoch.pending {
            let write = model.writes[Int(number)]
            if write.completed <= event && !write.hasFailed { set(number, &values) }
        }
    }

    private func set(_ number: Int32, _ values: inout [Int]) {
        for (index, value) in self.values(after: number) { values[index] = max(values[index], value) }
    }

    private func tear(_ number: Int32, _ values: inout [Int], _ random: inout SeededRandom) {
        for (index, value) in self.values(after: number) {
            switch (UInt8.random(in: 0..<3, using: &random), garbage(of: units[index])) {
            case (0, _): continue
            case (1, let garbage?): values[index] = garbage
            default: values[index] = max(values[index], value)
            }
        }
    }
}
