import BlockIO
import CrashLab
import Ext4Format
import Testing

/// The enumeration itself: a state too few hides a bug, a state too many reports one that cannot happen.
@Suite struct CrashStateTests {
    private static func write(_ sector: UInt64, _ value: UInt8, _ mode: WriteMode = .cached) -> DeviceRequest {
        .write(offset: sector * 512, bytes: [UInt8](repeating: value, count: 512), mode: mode)
    }

    /// The first byte of each of four sectors, for all states of all events with these losses.
    private static func states(
        _ events: [Trace.Event], _ losses: [CrashPoint.Loss], lying: Bool = false
    ) throws -> Set<[UInt8]> {
        let states = CrashStates(base: MemoryDevice(byteCount: 2048), events: events, honoursFlush: !lying)
        let points = events.indices.flatMap { event in losses.map { CrashPoint(event: event, loss: $0) } }
        var seen: Set<[UInt8]> = []
        try states.forEach(points) { _, disk in
            let bytes = try contents(disk)
            seen.insert((0..<4).map { bytes[$0 * 512] })
        }
        return seen
    }

    private static func trace(_ body: (Trace) -> Void) -> [Trace.Event] {
        let trace = Trace()
        body(trace)
        return trace.events
    }

    private static func does(_ trace: Trace, _ requests: DeviceRequest...) {
        for request in requests { trace.completed(trace.submitted(request), succeeded: true) }
    }

    private static let subsets = (0..<64).map { CrashPoint.Loss.some(seed: $0) }

    /// Prefixes are the states of a disk without a cache.
    @Test func prefixesFollowTheOrderOfCompletion() throws {
        let events = Self.trace { trace in
            let first = trace.submitted(Self.write(0, 1)), second = trace.submitted(Self.write(1, 2))
            trace.completed(second, succeeded: true)
            trace.completed(first, succeeded: true)
            Self.does(trace, .flush, Self.write(0, 3))
        }
        #expect(try Self.states(events, [.nothing]) == [[0, 0, 0, 0], [0, 2, 0, 0], [1, 2, 0, 0], [3, 2, 0, 0]])
    }

    /// What a flush covered is in every later state; what it did not cover may be missing in any combination.
    @Test func subsetsKeepWhatWasFlushedAndMixTheRest() throws {
        let events = Self.trace { trace in
            Self.does(trace, Self.write(0, 1), .flush, Self.write(1, 2), Self.write(2, 3))
        }
        let seen = try Self.states(events, Self.subsets)
        #expect(
            seen == [
                [0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0], [1, 0, 3, 0], [1, 2, 3, 0],
            ])
    }

    /// A FUA write is durable itself and says nothing about earlier writes, and it is never undone by an older version.
    @Test func aWriteThroughIsDurableAlone() throws {
        let events = Self.trace { trace in
            Self.does(trace, Self.write(0, 1), Self.write(1, 1), Self.write(0, 2, .throughToMedia), .flush)
        }
        let states = CrashStates(base: MemoryDevice(byteCount: 2048), events: events)
        var seen: Set<[UInt8]> = []
        try states.forEach(Self.subsets.map { CrashPoint(event: 5, loss: $0) }) { _, disk in
            let bytes = try contents(disk)
            seen.insert([bytes[0], bytes[512]])
        }
        #expect(seen == [[2, 0], [2, 1]])
        #expect(try Self.states(events, [.everything]) == [[0, 0, 0, 0], [2, 0, 0, 0], [2, 1, 0, 0]])
    }

    /// A write that completed after the flush was submitted is not covered by it.
    @Test func aFlushCoversNothingThatCompletesBehindItsSubmission() throws {
        let events = Self.trace { trace in
            let write = trace.submitted(Self.write(0, 1)), flush = trace.submitted(.flush)
            trace.completed(write, succeeded: true)
            trace.completed(flush, succeeded: true)
        }
        #expect(try Self.states(events, [.everything]) == [[0, 0, 0, 0]])
    }

    /// The control device of the oracles: it keeps nothing that it promised.
    @Test func aLyingDeviceMayLoseWhatWasFlushed() throws {
        let events = Self.trace { Self.does($0, Self.write(0, 1), .flush, Self.write(1, 2, .throughToMedia)) }
        let seen = try Self.states(events, Self.subsets, lying: true)
        #expect(seen == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0], [1, 2, 0, 0]])
    }

    /// A point names a state for good: the same seed, the same bytes.
    @Test func aPointReproducesItsState() throws {
        let events = Self.trace { trace in
            for step in 0..<40 {
                Self.does(trace, .write(offset: 0, bytes: [UInt8](repeating: UInt8(step), count: 2048), mode: .cached))
                if step % 7 == 0 { Self.does(trace, .flush) }
            }
        }
        let states = CrashStates(base: MemoryDevice(byteCount: 2048), events: events)
        let points = states.points(seed: 7, prefixes: 10, inFlight: 10, subsets: 10)
        #expect(points == states.points(seed: 7, prefixes: 10, inFlight: 10, subsets: 10))
        var first: [CrashPoint: [UInt8]] = [:]
        try states.forEach(points) { first[$0] = try contents($1) }
        for point in points {
            try states.forEach([point]) { _, disk in
                let again = try contents(disk)
                #expect(again == first[point], "\(point)")
            }
        }
    }

    /// A trace that becomes a write log loses no write: both end with the same disk.
    @Test(arguments: [UInt64](1...4)) func aTraceAndItsWriteLogEndWithTheSameDisk(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let trace = Trace()
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(byteCount: 8192)), recorder: trace)
        for step in 0..<200 {
            let first = UInt64.random(in: 0..<14, using: &random)
            let bytes = [UInt8](repeating: UInt8(step), count: 512 * .random(in: 1...2, using: &random))
            switch Int.random(in: 0..<8, using: &random) {
            case 0: try device.flush()
            case 1: try device.discard(at: first * 512, count: 1024)
            case 2: try device.write(bytes.span.bytes, at: first * 512, mode: .throughToMedia)
            default: try device.write(bytes.span.bytes, at: first * 512, mode: .cached)
            }
        }
        let file = TemporaryFile("log")
        let writer = try WriteLogWriter(path: file.path, sectorByteCount: 512)
        Trace.replay(trace.events, into: writer)
        try writer.close()
        let replayed = OverlayDevice(over: MemoryDevice(byteCount: 8192))
        let log = try FileDevice(path: file.path, readOnly: true)
        #expect(try WriteLogReader.problems(on: log) == [])
        var reader = try WriteLogReader(on: log)
        _ = try reader.apply(until: .end, onto: replayed)
        #expect(try contents(replayed) == contents(device))
    }
}
