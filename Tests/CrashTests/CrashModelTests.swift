import BlockIO
import CrashLab
import Ext4Format
import Glibc
import Testing

/// The model against its definition, spelled out for traces so small that every state can be listed.
@Suite struct CrashModelTests {
    static let unitCount = 5
    /// Stands for whatever nobody wrote.
    static let garbage: UInt8 = 0xEE

    /// The byte that fills a unit.
    static func byte(_ unit: [UInt8]) -> UInt8 { Set(unit).count == 1 ? unit[0] : garbage }

    /// A trace of one to twenty writes, some overlapping, some through, some failing, with flushes in between. Two that
    /// are in flight together do not overlap.
    static func trace(seed: UInt64) -> [Trace.Event] {
        var random = SeededRandom(seed: seed)
        let trace = Trace()
        var inFlight: [(ticket: UInt64, range: Range<Int>)] = []
        for step in 1...Int.random(in: 2...14, using: &random) {
            let first = Int.random(in: 0..<unitCount, using: &random)
            let range = first..<min(unitCount, first + Int.random(in: 1...2, using: &random))
            let isFree = !inFlight.contains { $0.range.overlaps(range) }
            switch Int.random(in: 0..<8, using: &random) {
            case 0, 1: inFlight.append((trace.submitted(.flush), 0..<0))
            case 2 where isFree:
                let request = DeviceRequest.discard(offset: UInt64(first) * 512, count: UInt64(range.count) * 512)
                inFlight.append((trace.submitted(request), range))
            case 3... where isFree:
                let bytes = [UInt8](repeating: UInt8(step), count: range.count * 512)
                let mode: WriteMode = random.once(in: 4) ? .throughToMedia : .cached
                inFlight.append((trace.submitted(.write(offset: UInt64(first) * 512, bytes: bytes, mode: mode)), range))
            default: break
            }
            while !inFlight.isEmpty, random.once(in: 2) {
                let done = inFlight.remove(at: Int.random(in: 0..<inFlight.count, using: &random))
                trace.completed(done.ticket, succeeded: !random.once(in: 10))
            }
        }
        return trace.events
    }

    /// All states at all moments: for each unit its newest required version or any later one, as section by section the
    /// definition says. A state is the first byte of each unit.
    static func everyState(_ events: [Trace.Event], _ disk: DiskModel) -> Set<[UInt8]> {
        struct Version {
            let ticket: UInt64
            let byte: UInt8
            var isRequired: Bool
        }
        var units = [[Version]](repeating: [Version(ticket: .max, byte: 0, isRequired: true)], count: unitCount)
        var requests: [UInt64: DeviceRequest] = [:], complete: Set<UInt64> = []
        var covered: [UInt64: Set<UInt64>] = [:]
        var all: Set<[UInt8]> = [[UInt8](repeating: 0, count: unitCount)]
        func require(_ tickets: Set<UInt64>) {
            for unit in units.indices {
                for index in units[unit].indices where tickets.contains(units[unit][index].ticket) {
                    units[unit][index].isRequired = true
                }
            }
        }
        for event in events {
            switch event {
            case .submitted(let ticket, let request):
                requests[ticket] = request
                switch request {
                case .flush: covered[ticket] = complete
                case .write(let offset, let bytes, _):
                    for unit in Int(offset / 512)..<Int(offset / 512) + bytes.count / 512 {
                        units[unit].append(Version(ticket: ticket, byte: bytes[0], isRequired: false))
                    }
                case .discard(let offset, let count):
                    for unit in Int(offset / 512)..<Int((offset + count) / 512) {
                        units[unit].append(Version(ticket: ticket, byte: 0, isRequired: false))
                    }
                }
            case .completed(let ticket, let succeeded):
                guard succeeded else { continue }
                complete.insert(ticket)
                switch requests[ticket] {
                case .flush where disk.honoursFlush: require(covered[ticket] ?? [])
                case .write(_, _, .throughToMedia) where disk.honoursFUA: require([ticket])
                case .write where !disk.hasCache: require([ticket])
                case .discard where !disk.hasCache: require([ticket])
                default: break
                }
            case .mark: break
            }
            var states: [[UInt8]] = [[]]
            for unit in units {
                let newest = unit.lastIndex { $0.isRequired } ?? 0
                var values = Set(unit[newest...].map(\.byte))
                if disk.leavesGarbage, newest < unit.count - 1 { values.insert(garbage) }
                states = states.flatMap { state in values.map { state + [$0] } }
            }
            all.formUnion(states)
        }
        return all
    }

    static let disks: [DiskModel] = {
        var lying = DiskModel(), careless = DiskModel(), plain = DiskModel(), spoiling = DiskModel()
        lying.honoursFlush = false
        careless.honoursFUA = false
        plain.hasCache = false
        spoiling.leavesGarbage = true
        return [DiskModel(), lying, careless, plain, spoiling]
    }()

    /// What a program sees that reads all of the disk, one unit at a time.
    static func read(_ device: any BlockDevice) throws -> [UInt8] {
        try (0..<unitCount).map { unit in
            let buffer = AlignedBuffer(byteCount: 512)
            try device.read(into: buffer, at: UInt64(unit) * 512)
            return buffer.withBytes { byte($0.array(0..<512)) }
        }
    }

    /// Reading everything lazily finds exactly the states of the definition: none is missed, none is invented.
    @Test(arguments: 0..<5) func lazyChoiceReachesExactlyEveryState(disk: Int) throws {
        for seed in UInt64(1)...60 {
            let events = Self.trace(seed: seed)
            let model = try CrashModel(
                base: MemoryDevice(byteCount: Self.unitCount * 512), events: events, disk: Self.disks[disk])
            var found: Set<[UInt8]> = [[UInt8](repeating: 0, count: Self.unitCount)]
            for epoch in model.epochs {
                var exploration = LazyExploration(EpochChoices(model, epoch))
                while try exploration.next({ device in found.insert(try Self.read(device)) }) {}
                #expect(abs(exploration.share - 1) < 1e-9, "seed \(seed): the paths cover \(exploration.share)")
            }
            #expect(found == Self.everyState(events, Self.disks[disk]), "seed \(seed)")
        }
    }

    /// A program that looks at little and remembers what it wrote, and what it makes of one disk.
    private static func program(_ device: any BlockDevice) throws -> [UInt8] {
        var answer: [UInt8] = []
        func read(_ unit: Int, _ count: Int = 1) throws -> [UInt8] {
            let buffer = AlignedBuffer(byteCount: 512 * count)
            try device.read(into: buffer, at: UInt64(unit) * 512)
            return buffer.withBytes { bytes in (0..<count).map { byte(bytes.array($0 * 512..<$0 * 512 + 512)) } }
        }
        func sum(_ unit: Int, _ count: Int) throws -> UInt8 {
            let question: (RawSpan) -> UInt8 = { bytes in
                (0..<count).reduce(0) { $0 &+ byte(bytes.array($1 * 512..<$1 * 512 + 512)) } % 3
            }
            if let undecided = device as? any UndecidedDevice {
                return try undecided.ask(at: UInt64(unit) * 512, count: 512 * count, question)
            }
            let buffer = AlignedBuffer(byteCount: 512 * count)
            try device.read(into: buffer, at: UInt64(unit) * 512)
            return buffer.withBytes { question($0) }
        }
        answer.append(try sum(1, 3))
        let first = try read(0)
        answer += first
        if first[0] % 2 == 0 { answer += try read(3) } else { answer.append(try sum(2, 3)) }
        let bytes = [UInt8](repeating: answer[0] &+ 100, count: 512)
        try device.write(bytes.span.bytes, at: 2 * 512, mode: .cached)
        answer += try read(1, 2)
        if answer[0] == 2 { answer += try read(4) }
        return answer
    }

    /// The results of a program on all states are those that lazy choice finds, though it runs less often; and a member
    /// of each path, decided before the run, takes the same way.
    @Test(arguments: 0..<5) func aProgramThatAsksSeesWhatItWouldSeeOnEveryState(disk: Int) throws {
        var (paths, states) = (0, 0)
        for seed in UInt64(1)...60 {
            let events = Self.trace(seed: seed)
            let base = MemoryDevice(byteCount: Self.unitCount * 512)
            let model = try CrashModel(base: base, events: events, disk: Self.disks[disk])
            var found: Set<[UInt8]> = []
            var random = SeededRandom(seed: seed)
            for epoch in model.epochs {
                let choices = EpochChoices(model, epoch)
                var exploration = LazyExploration(choices)
                while try exploration.next({ device in
                    let answer = try Self.program(device)
                    found.insert(answer)
                    for picks in [device.firstMember(), device.member(&random)] {
                        #expect(try Self.program(LazyDevice(choices, picks: picks)) == answer, "seed \(seed)")
                    }
                }) {}
                paths += exploration.pathCount
                #expect(abs(exploration.share - 1) < 1e-9)
            }
            let every = Self.everyState(events, Self.disks[disk])
            states += every.count
            let expected = try every.map { state in
                try Self.program(MemoryDevice(state.flatMap { [UInt8](repeating: $0, count: 512) }))
            }
            #expect(found.isSubset(of: expected), "seed \(seed)")
            let atTheStart = try Self.program(MemoryDevice(byteCount: Self.unitCount * 512))
            #expect(found.union([atTheStart]) == Set(expected), "seed \(seed)")
        }
        print("lazy choice: \(paths) paths for \(states) different states")
    }

    /// A disk that keeps the order leaves the prefixes of what completed, and nothing else.
    @Test func aDiskThatKeepsTheOrderLeavesPrefixes() throws {
        var disk = DiskModel()
        disk.order = .completion
        let trace = Trace()
        func write(_ unit: UInt64, _ byte: UInt8) -> UInt64 {
            trace.submitted(.write(offset: unit * 512, bytes: [UInt8](repeating: byte, count: 512), mode: .cached))
        }
        let tickets = [write(0, 1), write(1, 2), write(2, 3)]
        for ticket in tickets.reversed() { trace.completed(ticket, succeeded: true) }
        trace.completed(write(2, 4), succeeded: true)
        let model = try CrashModel(base: MemoryDevice(byteCount: 2560), events: trace.events, disk: disk)
        var found: Set<[UInt8]> = []
        for epoch in model.epochs {
            var exploration = LazyExploration(EpochChoices(model, epoch))
            while try exploration.next({ device in found.insert(try Self.read(device)) }) {}
        }
        #expect(
            found == [[0, 0, 0, 0, 0], [0, 0, 3, 0, 0], [0, 2, 3, 0, 0], [1, 2, 3, 0, 0], [1, 2, 4, 0, 0]])
    }

    /// What two units hold together is part of the image: to take two such images for one would leave one unjudged.
    @Test func imagesThatDifferOnlyInWhatGoesTogetherAreTwo() throws {
        let trace = Trace()
        let write = DeviceRequest.write(offset: 0, bytes: [UInt8](repeating: 1, count: 1024), mode: .cached)
        trace.completed(trace.submitted(write), succeeded: true)
        let model = try CrashModel(base: MemoryDevice(byteCount: 2560), events: trace.events)
        var exploration = LazyExploration(EpochChoices(model, try #require(model.epochs.last)))
        var hashes: Set<ImageHash> = []
        while try exploration.next({ device in
            _ = try device.ask(at: 0, count: 1024) { $0.array(0..<1)[0] == $0.array(512..<513)[0] }
            hashes.insert(try device.imageHash())
        }) {}
        #expect(exploration.pathCount == 2 && hashes.count == 2)
    }

    /// With sectors of 4096 bytes the parts of one write land together, on top of what was there.
    @Test func largeSectorsAreNotTorn() throws {
        var disk = DiskModel()
        disk.unitByteCount = 4096
        let trace = Trace()
        for (offset, byte) in [(UInt64(0), UInt8(1)), (1024, 2)] {
            let bytes = [UInt8](repeating: byte, count: 2048)
            trace.completed(trace.submitted(.write(offset: offset, bytes: bytes, mode: .cached)), succeeded: true)
        }
        let model = try CrashModel(base: MemoryDevice(byteCount: 4096), events: trace.events, disk: disk)
        var found: Set<[UInt8]> = []
        var exploration = LazyExploration(EpochChoices(model, try #require(model.epochs.last)))
        while try exploration.next({ device in
            let bytes = try contents(device)
            found.insert((0..<4).map { bytes[$0 * 1024] })
        }) {}
        #expect(found == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 2, 2, 0]])
        #expect(exploration.pathCount == 3)
    }
}

/// What is given to checkers that need whole images.
@Suite struct SampledStateTests {
    /// Every sampled state can happen, none comes twice, and few states come all.
    @Test(arguments: [0, 4]) func theSampleIsOfRealStates(disk: Int) throws {
        let disk = CrashModelTests.disks[disk]
        for seed in UInt64(1)...60 {
            let events = CrashModelTests.trace(seed: seed)
            let base = MemoryDevice(byteCount: CrashModelTests.unitCount * 512)
            let model = try CrashModel(base: base, events: events, disk: disk)
            let every = CrashModelTests.everyState(events, disk)
            for epoch in model.epochs {
                let choices = EpochChoices(model, epoch)
                for limit in [3, 20, 1 << 13] {
                    let states = SampledStates(choices).states(limit: limit, seed: seed)
                    #expect(Set(states).count == states.count && states.count <= limit)
                    if limit > 20 { #expect(Double(states.count) == exp2(choices.log2StateCount).rounded()) }
                    for picks in states {
                        #expect(every.contains(try CrashModelTests.read(LazyDevice(choices, picks: picks))))
                    }
                }
            }
        }
    }

    /// The few states of a whole trace are real ones, are made as named, and come with both ends of each epoch.
    @Test(arguments: [0, 4]) func theFewStatesOfATraceAreRealToo(disk: Int) throws {
        let disk = CrashModelTests.disks[disk]
        for seed in UInt64(1)...60 {
            let events = CrashModelTests.trace(seed: seed)
            let base = MemoryDevice(byteCount: CrashModelTests.unitCount * 512)
            let model = try CrashModel(base: base, events: events, disk: disk)
            let every = CrashModelTests.everyState(events, disk)
            let sample = TraceSample(model)
            let states = sample.states(seed: seed, prefixes: 10, inFlight: 10, subsets: 30)
            #expect(sample.boundaries.count == 2 * model.epochs.count)
            #expect(
                states.map(\.description)
                    == sample.states(seed: seed, prefixes: 10, inFlight: 10, subsets: 30)
                    .map(\.description))
            try model.forEach(states) { state, disk in
                let found = try CrashModelTests.read(disk)
                #expect(every.contains(found))
                #expect(try CrashModelTests.read(LazyDevice(state.choices, picks: state.picks)) == found)
            }
        }
    }

    /// Of two writes in flight at once and one before them: what has completed by a moment is there, and no more.
    @Test func aMomentHasItsOwnStates() throws {
        let trace = Trace()
        func write(_ unit: UInt64, _ byte: UInt8) -> UInt64 {
            trace.submitted(.write(offset: unit * 512, bytes: [UInt8](repeating: byte, count: 1024), mode: .cached))
        }
        trace.completed(write(0, 1), succeeded: true)
        let second = write(2, 2), third = write(1, 3)
        trace.completed(third, succeeded: true)
        trace.completed(second, succeeded: false)
        let model = try CrashModel(base: MemoryDevice(byteCount: 2560), events: trace.events)
        let choices = EpochChoices(model, try #require(model.epochs.first))
        var random = SeededRandom(seed: 1)
        func states(_ draw: (inout SeededRandom) -> Picks) throws -> Set<[UInt8]> {
            Set(
                try (0..<64).map { _ in
                    let bytes = try contents(LazyDevice(choices, picks: draw(&random)))
                    return (0..<4).map { bytes[$0 * 512] }
                })
        }
        #expect(try states { _ in choices.landed(at: 1) } == [[1, 1, 0, 0]])
        #expect(try states { _ in choices.landed(at: 5) } == [[1, 3, 3, 0]], "a failed write is not said to be there")
        let torn = try states { choices.torn(at: 2, &$0) }
        #expect(torn == [[1, 1, 0, 0], [1, 1, 2, 0], [1, 1, 0, 2], [1, 1, 2, 2]])
        #expect(
            try states { choices.mixed(at: 1, &$0) } == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]])
    }

    /// A name is all that one needs to get the state again.
    @Test func namesGiveTheStateBack() throws {
        var disk = DiskModel()
        disk.unitByteCount = 4096
        disk.honoursFUA = false
        disk.leavesGarbage = true
        let digest = "5c1e09ab77d2f310"
        for picks in [Picks.required, .newest, .random(seed: 77), .chosen([0, 0, 1, 1, 2]), .chosen([3])] {
            let name = CrashStateName(digest: digest, disk: disk, epoch: 12, picks: picks)
            #expect(try CrashStateName("\(name)") == name)
        }
        for text in [
            "", "5c1e09ab77d2f310-any512-12", "5c1e09ab77d2f310-some512-1-newest", "x-any512-1-newest",
            "5c1e09ab77d2f310-any512-1-1x99999999999",
        ] {
            #expect(throws: Ext4Error.self) { try CrashStateName(text) }
        }
    }
}
