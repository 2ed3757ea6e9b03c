package import BlockIO
package import Ext4Format
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

    private struct State {
        /// The one disk that this is; nil: any of the epoch.
        var picks: Picks?
        var knowledge: Knowledge
        var open: OpenUnits
        /// By open unit: whether `written` says all that there is to say about it.
        var isFixed: [Bool]
        var fixedCount = 0
        /// What the program wrote, and the units whose content has been decided.
        var written = WrittenSectors()
        var planned: [Int] = []
        var decisions: [Decision] = []
        var hasReadUnread = false
        var required: RequiredDisks.Disk?
        /// What is asked about.
        var scratch: AlignedBuffer
    }

    package let choices: EpochChoices
    private let state: Mutex<State>
    private let unitByteCount: UInt64
    /// With more combinations than this the units are decided one by one.
    private static let combinationLimit = 4096
    private static let scratchByteCount = 4096

    package var byteCount: UInt64 { choices.model.base.byteCount }
    package var sectorByteCount: Int { choices.model.base.sectorByteCount }
    package var isReadOnly: Bool { false }

    /// With `picks` nothing is open: this is the one disk that they name.
    package init(_ choices: EpochChoices, picks: Picks? = nil) {
        self.choices = choices
        unitByteCount = UInt64(choices.model.disk.unitByteCount)
        state = Mutex(
            State(
                picks: picks, knowledge: Knowledge(variableCount: choices.variables.count), open: OpenUnits(choices),
                isFixed: [Bool](repeating: false, count: choices.units.count),
                scratch: AlignedBuffer(byteCount: Self.scratchByteCount)))
    }

    /// Forgets all that was written and decided; the next decisions will be `planned`. With `picks` it becomes the disk
    /// that they name.
    package func restart(_ planned: [Int], picks: Picks? = nil) {
        state.withLock { state in
            state.picks = picks
            state.knowledge.forgetAll()
            for index in state.isFixed.indices { state.isFixed[index] = false }
            state.fixedCount = 0
            state.written.removeAll()
            state.decisions.removeAll(keepingCapacity: true)
            state.hasReadUnread = false
            state.planned = planned
        }
    }

    package var decisions: [Decision] { state.withLock { $0.decisions } }

    /// Whether decisions are given that have not been met yet.
    package var hasPlans: Bool { state.withLock { $0.decisions.count < $0.planned.count } }

    /// Whether anything was read of what the model takes for unread, since `forgetReads`.
    var hasReadUnread: Bool { state.withLock { $0.hasReadUnread } }
    func forgetReads() { state.withLock { $0.hasReadUnread = false } }

    /// The part of all states of the epoch that could have been this run, as a power of two: 0 for all of them. Over
    /// all runs of an exploration the parts add up to 1.
    package var log2Share: Double { state.withLock { $0.knowledge.log2Share } }

    /// A disk on which a program goes the way that it went here: the first, or any, of those that are possible. Without
    /// what was written.
    package func member(_ random: inout SeededRandom) -> Picks {
        let (groups, picks) = state.withLock { ($0.knowledge.groups, $0.picks) }
        var values = choices.variables.map { variable in
            picks?.value(of: variable, choices) ?? Int.random(in: 0..<choices.count(of: variable), using: &random)
        }
        for group in groups where !group.weights.isEmpty {
            let combination = Int.random(in: group.weights.indices, using: &random)
            for (column, variable) in group.variables.enumerated() {
                values[variable] = Int(group.value(combination, column))
            }
        }
        return .chosen(values)
    }

    package func firstMember() -> Picks {
        let (groups, picks) = state.withLock { ($0.knowledge.groups, $0.picks) }
        var values = choices.variables.map { picks?.value(of: $0, choices) ?? 0 }
        for group in groups {
            for (column, variable) in group.variables.enumerated() { values[variable] = Int(group.value(0, column)) }
        }
        return .chosen(values)
    }

    // MARK: - Reading

    package func ask<Answer: Hashable & Sendable>(
        at offset: UInt64, count: Int, _ question: (RawSpan) -> Answer
    ) throws(Ext4Error) -> Answer {
        try checkRange("read", at: offset, count: count)
        let range = offset..<offset + UInt64(count)
        return try state.withLock { state throws(Ext4Error) in
            note(range, &state)
            var open = openUnits(in: range, state)
            if try combinationCount(of: open, &state) > Self.combinationLimit {
                for index in open { try settle(index, &state) }
                open = []
            }
            return try answer(range, open, &state, question)
        }
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try checkRange("read", at: offset, count: bytes.byteCount)
        let range = offset..<offset + UInt64(bytes.byteCount)
        try state.withLock { state throws(Ext4Error) in
            note(range, &state)
            for index in openUnits(in: range, state) { try settle(index, &state) }
            try required(&state).device.read(into: &bytes, at: offset)
            state.written.copy(over: &bytes, at: offset)
        }
    }

    package func decidedByteCount(at offset: UInt64, limit: Int) -> Int {
        let end = min(offset + UInt64(limit), byteCount)
        guard offset < end else { return 0 }
        return state.withLock { state in
            for index in choices.openUnits(in: choices.model.units(of: offset..<end)) where !state.isFixed[index] {
                return Int(max(offset, byteRange(of: index).lowerBound) - offset)
            }
            return Int(end - offset)
        }
    }

    private func note(_ range: Range<UInt64>, _ state: inout State) {
        if choices.model.requiredDisks.unread.contains(where: { $0.overlaps(range) }) { state.hasReadUnread = true }
    }

    /// The disk with nothing but what must be there.
    private func required(_ state: inout State) throws(Ext4Error) -> RequiredDisks.Disk {
        if let disk = state.required { return disk }
        let disk = try choices.model.requiredDisks.disk(of: choices.epoch, choices.model)
        state.required = disk
        return disk
    }

    /// By index, those units of a range that are not fixed.
    private func openUnits(in range: Range<UInt64>, _ state: State) -> [Int] {
        let indexes = choices.openUnits(in: choices.model.units(of: range))
        return indexes.isEmpty ? [] : indexes.filter { !state.isFixed[$0] }
    }

    private func byteRange(of index: Int) -> Range<UInt64> {
        let start = choices.units[index] * unitByteCount
        return start..<min(start + unitByteCount, byteCount)
    }

    /// Decides what a unit holds.
    private func settle(_ index: Int, _ state: inout State) throws(Ext4Error) {
        let range = byteRange(of: index)
        _ = try answer(range, [index], &state) { ImageHash($0, at: 0) }
        try fix(index, &state)
    }

    /// From now on the unit holds what any of its possible values gives: they give the same.
    private func fix(_ index: Int, _ state: inout State) throws(Ext4Error) {
        let place = try place(of: index, &state)
        let version = version(of: index, state.knowledge.groups[place.group].value(0, place.column))
        let range = byteRange(of: index)
        let bytes = try state.open.bytes(index, version: version).prefix(range.count)
        state.written.write(unsafe bytes.span.bytes, at: range.lowerBound, keepingOlder: true)
        hide(index, &state)
    }

    private func hide(_ index: Int, _ state: inout State) {
        guard !state.isFixed[index] else { return }
        state.isFixed[index] = true
        state.fixedCount += 1
    }

    // MARK: - Deciding

    private func version(of index: Int, _ value: Int32) -> Int {
        choices.version(of: choices.units[index], value: Int(value))
    }

    /// Where what is known of a unit stands; all of its values are possible at first.
    private func place(of index: Int, _ state: inout State) throws(Ext4Error) -> (group: Int, column: Int) {
        let isAny = choices.model.disk.order == .any
        let variable = isAny ? index : 0
        if let place = state.knowledge.place(of: variable) { return place }
        if let picks = state.picks {
            let value = picks.value(of: choices.variables[variable], choices)
            state.knowledge.begin(variable, [Int32(value)], [1])
        } else if isAny {
            let (versions, counts) = try state.open.distinct(index)
            state.knowledge.begin(variable, versions, counts)
        } else {
            let count = choices.count(of: 0)
            state.knowledge.begin(
                variable, (0..<Int32(count)).map { $0 }, [Double](repeating: 1, count: count))
        }
        return (state.knowledge.groups.count - 1, 0)
    }

    /// The groups that know about the units, and for each unit where it stands among them.
    private func involved(
        _ open: [Int], _ state: inout State
    ) throws(Ext4Error) -> (groups: [Int], slots: [(turn: Int, column: Int)]) {
        var groups: [Int] = [], slots: [(turn: Int, column: Int)] = []
        for index in open {
            let place = try place(of: index, &state)
            let turn = groups.firstIndex(of: place.group) ?? groups.count
            if turn == groups.count { groups.append(place.group) }
            slots.append((turn, place.column))
        }
        return (groups, slots)
    }

    private func combinationCount(of open: [Int], _ state: inout State) throws(Ext4Error) -> Int {
        guard !open.isEmpty else { return 1 }
        let groups = try involved(open, &state).groups
        return Wheel(groups.map { state.knowledge.groups[$0].weights.count }).combinationCount
    }

    /// Asks for every content that the open units of a range may have, decides for one answer, and keeps what gives
    /// that.
    private func answer<Answer: Hashable & Sendable>(
        _ range: Range<UInt64>, _ open: [Int], _ state: inout State, _ question: (RawSpan) -> Answer
    ) throws(Ext4Error) -> Answer {
        let scratch = try load(range, &state)
        guard !open.isEmpty else { return scratch.withBytes { question($0.extracting(0..<range.count)) } }
        let (groups, slots) = try involved(open, &state)
        var wheel = Wheel(groups.map { state.knowledge.groups[$0].weights.count })
        var answers: [Answer] = [], kinds: [Int] = [], known: [Answer: Int] = [:]
        var turned: Int? = 0
        while let first = turned {
            for (index, slot) in zip(open, slots) where slot.turn >= first {
                let value = state.knowledge.groups[groups[slot.turn]].value(wheel.turns[slot.turn], slot.column)
                try put(index, version(of: index, value), into: scratch, range, &state)
            }
            let found = scratch.withBytes { question($0.extracting(0..<range.count)) }
            let kind = known[found] ?? answers.count
            if kind == answers.count {
                known[found] = kind
                answers.append(found)
            }
            kinds.append(kind)
            turned = wheel.advance()
        }
        guard answers.count > 1 else { return answers[0] }
        let taken = decide(among: answers.count, &state)
        _ = state.knowledge.narrow(groups, to: kinds.indices.filter { kinds[$0] == taken })
        return answers[taken]
    }

    private func load(_ range: Range<UInt64>, _ state: inout State) throws(Ext4Error) -> AlignedBuffer {
        if state.scratch.byteCount < range.count { state.scratch = AlignedBuffer(byteCount: range.count) }
        let scratch = state.scratch, required = try required(&state)
        try scratch.withMutableBytes { bytes throws(Ext4Error) in
            var part = bytes._mutatingExtracting(0..<range.count)
            try required.device.read(into: &part, at: range.lowerBound)
            state.written.copy(over: &part, at: range.lowerBound)
        }
        return scratch
    }

    /// Puts what lies in the range of a version of a unit into the scratch, and over it what was written.
    private func put(
        _ index: Int, _ version: Int, into scratch: AlignedBuffer, _ range: Range<UInt64>, _ state: inout State
    ) throws(Ext4Error) {
        let unit = byteRange(of: index), part = unit.clamped(to: range)
        let source = try state.open.bytes(index, version: version)
        let start = source.startIndex + Int(part.lowerBound - unit.lowerBound)
        let piece = source[start..<start + part.count]
        scratch.withMutableBytes { bytes in
            let at = Int(part.lowerBound - range.lowerBound)
            var target = bytes._mutatingExtracting(at..<at + part.count)
            target.copy(unsafe piece.span.bytes, at: 0)
            // A unit of one sector with something written over it is fixed.
            if unitByteCount > UInt64(WrittenSectors.byteCount) {
                state.written.copy(over: &target, at: part.lowerBound)
            }
        }
    }

    private func decide(among count: Int, _ state: inout State) -> Int {
        let number = state.decisions.count
        let taken = number < state.planned.count ? state.planned[number] : 0
        precondition(taken < count, "the program under test is not deterministic")
        state.decisions.append(Decision(taken: taken, count: count))
        return taken
    }

    // MARK: - Writing

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try checkRange("write", at: offset, count: bytes.byteCount)
        state.withLock { state in
            state.written.write(bytes, at: offset)
            let range = offset..<offset + UInt64(bytes.byteCount)
            for index in openUnits(in: range, state) where state.written.covers(byteRange(of: index)) {
                hide(index, &state)
            }
        }
    }

    package func flush() throws(Ext4Error) {}

    // MARK: - The whole

    /// Stands for all that a program could read from now on: what must be there, what was written and decided, and what
    /// is open. Not for what the model takes for unread. Disks of different epochs that hold the same have the same.
    package func imageHash() throws(Ext4Error) -> ImageHash {
        try state.withLock { state throws(Ext4Error) in
            let required = try required(&state), unread = choices.model.requiredDisks.unread
            var hash = required.hash
            let old = AlignedBuffer(byteCount: WrittenSectors.byteCount)
            try state.written.forEach { offset, bytes throws(Ext4Error) in
                guard !unread.contains(where: { $0.contains(offset) }) else { return }
                hash.add(bytes, at: offset)
                try required.device.read(into: old, at: offset)
                old.withBytes { hash.add($0, at: offset) }
            }
            for index in choices.units.indices where !state.isFixed[index] {
                guard !unread.contains(where: { $0.contains(choices.units[index] * unitByteCount) }) else { continue }
                hash.add(try state.open.hash(index))
            }
            for group in state.knowledge.groups { try add(group, to: &hash, &state) }
            return hash
        }
    }

    /// What is known of several variables together is more than what is known of each.
    private func add(_ group: Knowledge.Group, to hash: inout ImageHash, _ state: inout State) throws(Ext4Error) {
        guard choices.model.disk.order == .any else {
            // Its values mean something in this epoch alone.
            let words = [Int64(choices.epoch.index)] + group.values.map { Int64($0) }
            return hash.add(unsafe words.span.bytes, at: .max)
        }
        let columns = group.variables.indices.filter { column in
            let index = group.variables[column], offset = choices.units[index] * unitByteCount
            return !state.isFixed[index]
                && !choices.model.requiredDisks.unread.contains { $0.contains(offset) }
        }.sorted { group.variables[$0] < group.variables[$1] }
        guard !columns.isEmpty else { return }
        var combinations: Set<[UInt64]> = []
        for combination in group.weights.indices {
            var words: [UInt64] = []
            for column in columns {
                let version = Int(group.value(combination, column))
                words.append(try state.open.hash(group.variables[column], version: version).low)
            }
            combinations.insert(words)
        }
        var all = 1.0
        for column in columns { all *= Double(try state.open.distinct(group.variables[column]).versions.count) }
        guard Double(combinations.count) < all else { return }
        let sorted = combinations.sorted { $0.lexicographicallyPrecedes($1) }
        let words = columns.map { choices.units[group.variables[$0]] } + sorted.flatMap(\.self)
        hash.add(unsafe words.span.bytes, at: ~0)
    }
}
