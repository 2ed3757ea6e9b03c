package import BlockIO
package import Ext4Format
internal import Glibc
internal import Synchronization

/// The disk after a power cut, whose open units are decided when their content first matters.
///
/// Where a read or a question could come out in several ways, one is chosen: first as the given decisions say, behind
/// those always the first. So the same program, run again with other decisions, sees every disk that is possible, and
/// disks that it cannot tell apart only once. The program must be deterministic and use one thread. Its writes stay
/// here, in memory.
package final class LazyDevice: UndecidedDevice {
    /// One of `count` ways to go on.
    package struct Decision: Hashable, Sendable {
        package let taken: Int
        package let count: Int
    }

    /// Variables about which something is known together: these combinations of their values are still possible.
    private struct Group {
        var variables: [UInt64]
        var tuples: [[Int32]]
    }

    private struct State {
        var groups: [Group] = []
        var groupOfVariable: [UInt64: Int] = [:]
        /// By number of 512 bytes: where in `bytes`.
        var written: [UInt64: Int] = [:]
        var bytes: [UInt8] = []
        var planned: [Int] = []
        var decisions: [Decision] = []
        /// The part of all states that this run stands for, as a power of two.
        var log2Share = 0.0
        /// Whole units.
        var scratch: [UInt8] = []
    }

    package let choices: EpochChoices
    private let picks: Picks?
    private let state = Mutex(State())
    private let unitByteCount: UInt64
    private static let sectorByteCount = 512
    /// With more combinations than this the units are decided one by one.
    private static let combinationLimit = 4096

    package var byteCount: UInt64 { choices.model.base.byteCount }
    package var sectorByteCount: Int { choices.model.base.sectorByteCount }
    package var isReadOnly: Bool { false }

    /// With `picks` nothing is open: this is the one disk that they name.
    package init(_ choices: EpochChoices, picks: Picks? = nil) {
        self.choices = choices
        self.picks = picks
        unitByteCount = UInt64(choices.model.disk.unitByteCount)
    }

    /// Forgets all that was written and decided; the next decisions will be `planned`.
    package func restart(_ planned: [Int]) {
        state.withLock { state in
            state.groups.removeAll(keepingCapacity: true)
            state.groupOfVariable.removeAll(keepingCapacity: true)
            state.written.removeAll(keepingCapacity: true)
            state.bytes.removeAll(keepingCapacity: true)
            state.decisions.removeAll(keepingCapacity: true)
            state.planned = planned
            state.log2Share = 0
        }
    }

    package var decisions: [Decision] { state.withLock { $0.decisions } }

    /// Whether decisions are given that have not been met yet.
    package var hasPlans: Bool { state.withLock { $0.decisions.count < $0.planned.count } }

    /// The part of all states of the epoch that could have been this run, as a power of two: 0 for all of them. Over
    /// all runs of an exploration the parts add up to 1.
    package var log2Share: Double { state.withLock { $0.log2Share } }

    /// A disk on which a program goes the way that it went here: the first, or any, of those that are possible. Without
    /// what was written.
    package func member(_ random: inout SeededRandom) -> Picks {
        let open = state.withLock { $0.groups.filter { !$0.tuples.isEmpty } }
        var values: [UInt64: Int] = [:]
        for variable in choices.variables {
            values[variable] = Int.random(in: 0..<choices.count(of: variable), using: &random)
        }
        for group in open {
            guard let tuple = group.tuples.randomElement(using: &random) else { continue }
            for (variable, value) in zip(group.variables, tuple) { values[variable] = Int(value) }
        }
        return .chosen(choices.variables.map { values[$0, default: 0] })
    }

    package func firstMember() -> Picks {
        let values = state.withLock { state in
            choices.variables.map { variable in
                guard let index = state.groupOfVariable[variable],
                    let place = state.groups[index].variables.firstIndex(of: variable)
                else { return 0 }
                return Int(state.groups[index].tuples[0][place])
            }
        }
        return .chosen(values)
    }

    // MARK: - Reading

    package func ask<Answer: Hashable & Sendable>(
        at offset: UInt64, count: Int, _ question: (RawSpan) -> Answer
    ) throws(Ext4Error) -> Answer {
        try checkRange("read", at: offset, count: count)
        let units = choices.model.units(of: offset..<offset + UInt64(count))
        let start = Int(offset - units.lowerBound * unitByteCount)
        return try state.withLock { state throws(Ext4Error) in
            var open = try load(units, &state)
            if combinations(of: open, &state) > Self.combinationLimit {
                for unit in open { try settle(unit, &state) }
                open = try load(units, &state)
            }
            return try answer(units, open, &state) { question($0.extracting(start..<start + count)) }
        }
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        let count = bytes.byteCount
        try checkRange("read", at: offset, count: count)
        let units = choices.model.units(of: offset..<offset + UInt64(count))
        let start = Int(offset - units.lowerBound * unitByteCount)
        try state.withLock { state throws(Ext4Error) in
            let open = try load(units, &state)
            if !open.isEmpty {
                for unit in open { try settle(unit, &state) }
                _ = try load(units, &state)
            }
            bytes.copy(unsafe state.scratch.span.bytes.extracting(start..<start + count), at: 0)
        }
    }

    /// Decides what a unit holds.
    private func settle(_ unit: UInt64, _ state: inout State) throws(Ext4Error) {
        let alone = unit..<unit + 1
        let open = try load(alone, &state)
        _ = try answer(alone, open, &state) { $0.array(0..<$0.byteCount) }
    }

    /// Fills the scratch with whole units, and answers which of them are still open; those stand there with any of
    /// their contents.
    private func load(_ units: Range<UInt64>, _ state: inout State) throws(Ext4Error) -> [UInt64] {
        let size = Int(unitByteCount)
        if state.scratch.count < units.count * size {
            state.scratch = [UInt8](repeating: 0, count: max(units.count * size, 4096))
        }
        var open: [UInt64] = []
        for unit in units {
            guard !isCovered(unit, state) else {
                overlay(unit, at: Int(unit - units.lowerBound) * size, &state)
                continue
            }
            var value = 0
            if choices.isOpen(unit) {
                let group = group(of: choices.variable(of: unit), &state)
                value = self.value(of: unit, state.groups[group].tuples[0], in: state.groups[group])
                if state.groups[group].tuples.count > 1 { open.append(unit) }
            }
            try put(unit, value: value, at: Int(unit - units.lowerBound) * size, &state)
        }
        return open
    }

    private func value(of unit: UInt64, _ tuple: [Int32], in group: Group) -> Int {
        let variable = choices.variable(of: unit)
        return group.variables.firstIndex(of: variable).map { Int(tuple[$0]) } ?? 0
    }

    private func put(_ unit: UInt64, value: Int, at place: Int, _ state: inout State) throws(Ext4Error) {
        var span = state.scratch.mutableSpan
        var raw = unsafe span.mutableBytes
        try choices.copy(unit, value: value, into: &raw, at: place)
        overlay(unit, at: place, &state)
    }

    /// What is known of a variable; all of its values at first.
    private func group(of variable: UInt64, _ state: inout State) -> Int {
        if let index = state.groupOfVariable[variable] { return index }
        let values: [[Int32]] =
            if let picks { [[Int32(picks.value(of: variable, choices))]] } else {
                (0..<Int32(choices.count(of: variable))).map { [$0] }
            }
        state.groups.append(Group(variables: [variable], tuples: values))
        state.groupOfVariable[variable] = state.groups.count - 1
        return state.groups.count - 1
    }

    private func groups(of units: [UInt64], _ state: State) -> [Int] {
        var indices: [Int] = []
        for unit in units {
            guard let index = state.groupOfVariable[choices.variable(of: unit)] else { continue }
            if !indices.contains(index) { indices.append(index) }
        }
        return indices
    }

    private func combinations(of units: [UInt64], _ state: inout State) -> Int {
        groups(of: units, state).reduce(1) { product, index in
            let (next, overflow) = product.multipliedReportingOverflow(by: state.groups[index].tuples.count)
            return overflow ? .max : next
        }
    }

    /// Asks for every content that the loaded units may have, decides for one answer, and keeps what gives that.
    private func answer<Answer: Hashable & Sendable>(
        _ units: Range<UInt64>, _ open: [UInt64], _ state: inout State, _ question: (RawSpan) -> Answer
    ) throws(Ext4Error) -> Answer {
        let byteCount = units.count * Int(unitByteCount)
        let involved = groups(of: open, state)
        var wheel = [Int](repeating: 0, count: involved.count)
        var answers: [Answer] = [], members: [[[Int32]]] = []
        var known: [Answer: Int] = [:]
        var total = 0
        repeat {
            for unit in open { try turn(unit, involved, wheel, units, &state) }
            let found = question(unsafe state.scratch.span.bytes.extracting(0..<byteCount))
            let index = known[found] ?? answers.count
            if index == answers.count {
                known[found] = index
                answers.append(found)
                members.append([])
            }
            if !involved.isEmpty { members[index].append(joined(involved, wheel, state)) }
            total += 1
        } while advance(&wheel, involved, state)
        guard answers.count > 1 else { return answers[0] }
        let taken = decide(among: answers.count, &state)
        state.log2Share += log2(Double(members[taken].count) / Double(total))
        merge(involved, members[taken], &state)
        return answers[taken]
    }

    private func turn(
        _ unit: UInt64, _ involved: [Int], _ wheel: [Int], _ units: Range<UInt64>, _ state: inout State
    ) throws(Ext4Error) {
        guard let index = state.groupOfVariable[choices.variable(of: unit)],
            let place = involved.firstIndex(of: index)
        else { return }
        let group = state.groups[index]
        let value = value(of: unit, group.tuples[wheel[place]], in: group)
        try put(unit, value: value, at: Int(unit - units.lowerBound) * Int(unitByteCount), &state)
    }

    private func joined(_ involved: [Int], _ wheel: [Int], _ state: State) -> [Int32] {
        var tuple: [Int32] = []
        for (index, turn) in zip(involved, wheel) { tuple += state.groups[index].tuples[turn] }
        return tuple
    }

    /// False when all combinations have been seen.
    private func advance(_ wheel: inout [Int], _ involved: [Int], _ state: State) -> Bool {
        for place in wheel.indices.reversed() {
            wheel[place] += 1
            if wheel[place] < state.groups[involved[place]].tuples.count { return true }
            wheel[place] = 0
        }
        return false
    }

    private func decide(among count: Int, _ state: inout State) -> Int {
        let number = state.decisions.count
        let taken = number < state.planned.count ? state.planned[number] : 0
        precondition(taken < count, "the program under test is not deterministic")
        state.decisions.append(Decision(taken: taken, count: count))
        return taken
    }

    private func merge(_ involved: [Int], _ tuples: [[Int32]], _ state: inout State) {
        let variables = involved.flatMap { state.groups[$0].variables }
        for index in involved { state.groups[index] = Group(variables: [], tuples: []) }
        state.groups.append(Group(variables: variables, tuples: tuples))
        for variable in variables { state.groupOfVariable[variable] = state.groups.count - 1 }
    }

    // MARK: - Writing

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try checkRange("write", at: offset, count: bytes.byteCount)
        state.withLock { state in
            for start in stride(from: 0, to: bytes.byteCount, by: Self.sectorByteCount) {
                let sector = (offset + UInt64(start)) / UInt64(Self.sectorByteCount)
                let place = slot(of: sector, &state)
                var span = state.bytes.mutableSpan
                var raw = unsafe span.mutableBytes
                raw.copy(bytes.extracting(start..<start + Self.sectorByteCount), at: place)
            }
        }
    }

    private func slot(of sector: UInt64, _ state: inout State) -> Int {
        if let place = state.written[sector] { return place }
        let place = state.bytes.count
        state.bytes.append(contentsOf: repeatElement(0, count: Self.sectorByteCount))
        state.written[sector] = place
        return place
    }

    package func flush() throws(Ext4Error) {}

    private func sectors(of unit: UInt64) -> Range<UInt64> {
        let perUnit = unitByteCount / UInt64(Self.sectorByteCount)
        return unit * perUnit..<(unit + 1) * perUnit
    }

    private func isCovered(_ unit: UInt64, _ state: State) -> Bool {
        !state.written.isEmpty && sectors(of: unit).allSatisfy { state.written[$0] != nil }
    }

    /// Lays what was written over a unit that stands at `place` of the scratch.
    private func overlay(_ unit: UInt64, at place: Int, _ state: inout State) {
        guard !state.written.isEmpty else { return }
        let written = state.bytes
        for (index, sector) in zip(0..., sectors(of: unit)) {
            guard let source = state.written[sector] else { continue }
            let bytes = unsafe written.span.bytes.extracting(source..<source + Self.sectorByteCount)
            var span = state.scratch.mutableSpan
            var raw = unsafe span.mutableBytes
            raw.copy(bytes, at: place + index * Self.sectorByteCount)
        }
    }

    // MARK: - The whole

    /// Stands for all that a program could read from now on: what was written and decided, and what is open. `excluded`
    /// blocks out bytes that nobody will read.
    package func imageHash(excluding excluded: [Range<UInt64>] = []) -> ImageHash {
        state.withLock { state in
            var hash = ImageHash()
            for (sector, place) in state.written {
                let offset = sector * UInt64(Self.sectorByteCount)
                guard !excluded.contains(where: { $0.contains(offset) }) else { continue }
                hash.add(unsafe state.bytes.span.bytes.extracting(place..<place + Self.sectorByteCount), at: sector)
            }
            for group in state.groups {
                add(group, visible: group.variables.filter { !isHidden($0, excluded, state) }, to: &hash)
            }
            return hash
        }
    }

    private func isHidden(_ variable: UInt64, _ excluded: [Range<UInt64>], _ state: State) -> Bool {
        guard choices.model.disk.order == .any else { return false }
        return isCovered(variable, state) || excluded.contains { $0.contains(variable * unitByteCount) }
    }

    /// What is known of several variables together is more than what is known of each.
    private func add(_ group: Group, visible: [UInt64], to hash: inout ImageHash) {
        let variables = visible.sorted()
        guard let first = variables.first else { return }
        let places = variables.compactMap { group.variables.firstIndex(of: $0) }
        let tuples = Set(group.tuples.map { tuple in places.map { tuple[$0] } })
        let all = variables.reduce(1.0) { $0 * Double(choices.count(of: $1)) }
        guard Double(tuples.count) < all else { return }
        var words = variables
        for tuple in tuples.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
            words += tuple.map { UInt64(UInt32(bitPattern: $0)) }
        }
        hash.add(unsafe words.span.bytes, at: ~first)
    }
}
