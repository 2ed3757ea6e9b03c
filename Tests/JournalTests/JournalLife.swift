import BlockIO
import CrashLab
import Ext4Format
import Journal
import Synchronization

/// A random life of a volume on the bench, recorded, with what each block must hold after each durable step.
struct JournalLife {
    /// What a block is to the pretended file system.
    enum Use: Equatable {
        case metadata(UInt8)
        case data(UInt8)
        /// Freed, and the data that will take its place not yet promised: anything goes.
        case undefined
    }
    /// How one life differs from another.
    struct Plan {
        var seed: UInt64
        var steps: Int
        /// What the disk holds when the life begins, and what of that is known.
        var base: [UInt8]
        var start: [UInt64: Use] = [:]
        /// Whether the log on that disk is to be replayed first.
        var isDirty = false
        /// The first request of this kind from now and then on fails.
        var fault: FaultyDevice.Operation?
        /// Ends with `close`, and not just with a last commit.
        var isClosed = false
    }
    let base: [UInt8]
    let events: [Trace.Event]
    /// Each block's use after each step. Any step may be the last of a transaction: a full one is committed unasked.
    let versions: [[UInt64: Use]]
    /// The newest durable step that the trace vouches for at each event.
    let acknowledged: [Int]
    /// From which event on the super block of the log bears an error; `.max`: there is none.
    let failed: Int

    /// What a block holds that is filled with `byte`. One in four begins as the blocks of the log do.
    static func content(_ byte: UInt8) -> [UInt8] {
        var bytes = [UInt8](repeating: byte, count: Bench.blockByteCount)
        if byte % 4 == 3 { bytes.replaceSubrange(0..<4, with: [0xC0, 0x3B, 0x39, 0x98]) }
        return bytes
    }

    /// The byte of such a block; nil for any other.
    static func filling(_ bytes: RawSpan) -> UInt8? {
        let byte = bytes[LE<UInt8>(bytes.byteCount - 1)]
        return bytes.array(0..<bytes.byteCount) == content(byte) ? byte : nil
    }

    /// The newest version from `first` on that a disk fits.
    func version(from first: Int, of fillings: [UInt8?]) -> Int? {
        versions.indices[first...].last { differences(from: $0, of: fillings).isEmpty }
    }

    /// The blocks of a disk that are not as in a version, and what they should be.
    func differences(from version: Int, of fillings: [UInt8?]) -> [UInt64: Use] {
        versions[version].filter { number, use in
            switch use {
            case .metadata(let byte), .data(let byte): fillings[Int(number)] != byte
            case .undefined: false
            }
        }
    }

    /// The trace of a journal that lets its commit blocks overtake what they commit, as Linux does if it is asked to:
    /// the flush that would come before such a block comes behind it.
    private static func asynchronous(_ events: [Trace.Event], _ shape: Bench.Shape) -> [Trace.Event] {
        let superBlock = shape.runs[0].start.rawValue * UInt64(Bench.blockByteCount)
        var events = events
        for index in events.indices.dropLast(3) {
            guard case .submitted(_, .flush) = events[index], case .completed(_, true) = events[index + 1],
                case .submitted(let ticket, .write(let offset, let bytes, .throughToMedia)) = events[index + 2],
                case .completed(_, true) = events[index + 3], offset != superBlock
            else { continue }
            let commit: [Trace.Event] = [
                .submitted(ticket: ticket, .write(offset: offset, bytes: bytes, mode: .cached)), events[index + 3],
            ]
            events.replaceSubrange(index...index + 3, with: commit + events[index...index + 1])
        }
        return events
    }

    /// Lives.
    init(_ shape: Bench.Shape, _ plan: Plan) throws {
        let trace = Trace()
        var runner = try JournalLifeRunner(shape, plan, trace)
        runner.run(plan)
        let isAsync = shape.incompatible.contains(.asyncCommit)
        self.init(
            base: plan.base, events: isAsync ? Self.asynchronous(trace.events, shape) : trace.events,
            versions: runner.versions)
    }

    /// Marks in the events name the version that is durable from there on, and "failed".
    init(base: [UInt8], events: [Trace.Event], versions: [[UInt64: Use]]) {
        self.base = base
        self.events = events
        self.versions = versions
        failed = events.firstIndex { if case .mark("failed") = $0 { true } else { false } } ?? .max
        var step = 0
        acknowledged = events.map { event in
            if case .mark(let label) = event { step = Int(label) ?? step }
            return step
        }
    }
}

/// A life that a test leads step by step.
struct DirectedLife {
    let bench: Bench
    /// For what happens while the journal writes.
    let spy: WriteSpy
    private let base: [UInt8]
    private let trace = Trace()
    private var current: [UInt64: JournalLife.Use] = [:]
    private var versions: [[UInt64: JournalLife.Use]] = [[:]]

    init(_ shape: Bench.Shape) throws {
        base = try Bench.format(shape)
        spy = WriteSpy(RecordingDevice(MemoryDevice(base), recorder: trace))
        bench = try Bench(shape, on: spy)
    }

    /// What it was up to now.
    var life: JournalLife { JournalLife(base: base, events: trace.events, versions: versions) }
    var eventCount: Int { trace.events.count }

    /// All at once.
    mutating func fill(_ numbers: [UInt64], _ byte: UInt8) throws {
        try put(JournalLife.content(byte), numbers)
        for number in numbers { current[number] = .metadata(byte) }
    }

    /// Something that no judge looks for.
    func put(_ bytes: [UInt8], _ numbers: [UInt64]) throws(Ext4Error) {
        try bench.journal.withHandle(credits: numbers.count) { handle throws(Ext4Error) in
            for number in numbers {
                try handle.modify(try bench.cache.block(FSBlock(number))) { $0.copy(bytes, at: 0) }
            }
        }
    }

    mutating func commit() throws {
        try bench.journal.commitNow()
        versions.append(current)
        trace.marked("\(versions.count - 1)")
    }
}

/// Carries out what a `JournalLife` consists of.
private struct JournalLifeRunner {
    private let bench: Bench
    private let trace: Trace
    private let spy: WriteSpy
    private let faulty: FaultyDevice
    private var random: SeededRandom
    private var current: [UInt64: JournalLife.Use]
    /// Blocks freed by the running transaction: nobody may have them before it commits.
    private var pendingFrees: Set<UInt64> = []
    private var hasCommitted = false
    private(set) var versions: [[UInt64: JournalLife.Use]]

    init(_ shape: Bench.Shape, _ plan: JournalLife.Plan, _ trace: Trace) throws {
        self.trace = trace
        faulty = FaultyDevice(MemoryDevice(plan.base))
        spy = WriteSpy(RecordingDevice(faulty, recorder: trace))
        if plan.isDirty { try Bench.recover(shape, spy) }
        // A clock that somebody sets back now and then.
        let times = Mutex(SeededRandom(seed: plan.seed))
        let clock = { @Sendable in
            CommitTime(seconds: times.withLock { .random(in: 1...1_700_000_000, using: &$0) }, nanoseconds: 5)
        }
        bench = try Bench(shape, on: spy, clock: clock)
        random = SeededRandom(seed: plan.seed)
        current = plan.start
        versions = [plan.start]
    }

    /// An error of the device ends no life: what comes behind it must fail as well, or hold.
    mutating func run(_ plan: JournalLife.Plan) {
        for step in 0..<plan.steps {
            versions.append(current)
            if step == plan.steps / 2, let fault = plan.fault { faulty.arm(.init(fault, ordinal: 2)) }
            let wasGood = bench.journal.abortCause == nil
            try? self.step()
            if wasGood, bench.journal.abortCause != nil { trace.marked("failed") }
        }
        if plan.isClosed {
            try? bench.journal.close()
        } else if bench.journal.abortCause == nil, (try? bench.journal.shutDown(.afterCommit)) != nil {
            acknowledge()
            callInVain()
        }
    }

    /// After a shutdown nothing changes any more, whoever asks for it.
    private func callInVain() {
        for case (let number, .metadata(let byte)) in current.sorted(by: { $0.key < $1.key }) {
            try? change(number, byte ^ 0x80)
        }
        try? bench.journal.commitNow()
    }

    private mutating func acknowledge() {
        pendingFrees = []
        hasCommitted = true
        versions.append(current)
        trace.marked("\(versions.count - 1)")
    }

    private mutating func step() throws(Ext4Error) {
        let number = UInt64.random(in: 0..<24, using: &random)
        let byte = UInt8.random(in: 1...255, using: &random)
        switch (Int.random(in: 0..<10, using: &random), current[number]) {
        case (0..<5, .metadata):
            try change(number, byte)
            current[number] = .metadata(byte)
        case (1..<5, .undefined):
            guard !pendingFrees.contains(number) else { return }
            try replaceByData(number, byte)
        case (0..<5, nil), (0..<5, .undefined), (0..<5, .data):
            guard !pendingFrees.contains(number) else { return }
            let block = try create(number)
            try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
                try handle.modify(block) { $0.copy(JournalLife.content(byte), at: 0) }
            }
            current[number] = .metadata(byte)
        case (5..<7, .metadata):
            try bench.free(number)
            current[number] = .undefined
            pendingFrees.insert(number)
        case (8, _): try commit(meanwhile: number, byte)
        case (9, _): if Int.random(in: 0..<4, using: &random) == 0 { try bench.journal.checkpointNow() }
        default: return
        }
    }

    private func create(_ number: UInt64) throws(Ext4Error) -> CachedBlock {
        try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
            let block = try handle.create(FSBlock(number))
            try handle.modify(block) { $0.fill(0..<$0.byteCount, with: 0) }
            return block
        }
    }

    private func change(_ number: UInt64, _ byte: UInt8) throws(Ext4Error) {
        let block = try bench.cache.block(FSBlock(number))
        try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
            try handle.modify(block) { $0.copy(JournalLife.content(byte), at: 0) }
        }
    }

    private mutating func replaceByData(_ number: UInt64, _ byte: UInt8) throws(Ext4Error) {
        bench.cache.drop(FSBlock(number), count: 1)
        let bytes = JournalLife.content(byte)
        try bench.device.write(bytes.span.bytes, at: number * UInt64(Bench.blockByteCount), mode: .cached)
        try bench.journal.sync()
        current[number] = .data(byte)
        acknowledge()
    }

    /// While the transaction is on its way to the log the next one may change a block that it holds. In the first
    /// commit that may be before the block has been copied: the beginning of the log is marked first.
    private mutating func commit(meanwhile number: UInt64, _ byte: UInt8) throws(Ext4Error) {
        if case .metadata = current[number], random.once(in: hasCommitted ? 6 : 1) {
            // In a log that is nearly full that change would wait for this very commit.
            try bench.journal.checkpointNow()
            let bench = bench
            spy.once = { () throws(Ext4Error) in
                let block = try bench.cache.block(FSBlock(number))
                try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
                    try handle.modify(block) { $0.copy(JournalLife.content(byte), at: 0) }
                }
            }
            defer { spy.once = nil }
            try bench.journal.commitNow()
            acknowledge()
            if spy.once == nil {
                current[number] = .metadata(byte)
                versions.append(current)
            }
            return
        }
        try bench.journal.commitNow()
        acknowledge()
    }
}
