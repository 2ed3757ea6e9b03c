import BlockIO
import CrashLab
import Ext4Format
import Testing

/// The bytes of a whole device.
func contents(_ device: any BlockDevice) throws -> [UInt8] {
    let buffer = AlignedBuffer(byteCount: Int(device.byteCount))
    try device.read(into: buffer, at: 0)
    return buffer.withBytes { $0.array(0..<buffer.byteCount) }
}

@Suite struct WriteLogTests {
    private static func write(
        _ sector: UInt64, _ value: UInt8, _ mode: WriteMode = .cached, count: Int = 1
    ) -> DeviceRequest {
        .write(offset: sector * 512, bytes: [UInt8](repeating: value, count: 512 * count), mode: mode)
    }

    /// A log with these calls, as bytes.
    private static func log(_ body: (WriteLogWriter) throws -> Void) throws -> [UInt8] {
        let file = TemporaryFile("log")
        let writer = try WriteLogWriter(path: file.path, sectorByteCount: 512)
        try body(writer)
        try writer.close()
        return file.contents
    }

    private static func entries(_ log: [UInt8]) throws -> [WriteLogEntry] {
        var reader = try WriteLogReader(on: MemoryDevice(log))
        var entries: [WriteLogEntry] = []
        while let entry = try reader.next() { entries.append(entry) }
        return entries
    }

    /// A log that orders writes otherwise than the kernel's target describes other crash states than the kernel's.
    @Test func aFlushCoversWhatCompletedBeforeItsSubmission() throws {
        let log = try Self.log { writer in
            let a = writer.submitted(Self.write(1, 1)), b = writer.submitted(Self.write(2, 2))
            let c = writer.submitted(Self.write(3, 3))
            writer.completed(c, succeeded: true)
            writer.completed(a, succeeded: true)
            let flush = writer.submitted(.flush), d = writer.submitted(Self.write(4, 4, .throughToMedia))
            writer.completed(b, succeeded: true)
            writer.completed(flush, succeeded: true)
            writer.completed(d, succeeded: true)
        }
        let entries = try Self.entries(log)
        #expect(entries.map { $0.offset / 512 } == [3, 1, 0, 4, 2, 0])
        #expect(entries.map(\.flags) == [[], [], .flush, .throughToMedia, [], .mark])
        #expect(entries.last?.text == "dm-log-writes-end")
        #expect(try WriteLogReader.problems(on: MemoryDevice(log)) == [])
    }

    /// Other readers of the format know these bytes, not our reader.
    @Test func theBytesAreThoseOfTheFormat() throws {
        let log = try Self.log { writer in
            writer.completed(writer.submitted(Self.write(5, 7, .throughToMedia, count: 2)), succeeded: true)
            writer.completed(writer.submitted(.discard(offset: 1024, count: 4096)), succeeded: true)
            writer.marked("a mark")
        }
        #expect(log.count == 512 * 7)
        let numbers: [UInt8] = [1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]
        #expect(Array(log[..<28]) == Array("rhswfsj\0".utf8) + numbers)
        #expect(log[512] == 5 && log[520] == 2 && log[528] == 2 && log[1024..<2048].allSatisfy { $0 == 7 })
        #expect(log[2048 + 16] == 8 && log[2048 + 24] == 6 && Array(log[2080..<2087]) == Array("a mark\0".utf8))
        #expect(log[2560] == 2 && log[2568] == 8 && log[2576] == 4 && log[2592] == 0)
        #expect(Array(log[3072 + 32..<3072 + 49]) == Array("dm-log-writes-end".utf8))
    }

    /// Without this a replay would end with the older of two versions of a sector.
    @Test func aWriteThroughNeverOvertakesAnOlderWriteOfTheSameSector() throws {
        let log = try Self.log { writer in
            for request in [Self.write(1, 1), Self.write(8, 8), Self.write(1, 2, count: 2), Self.write(9, 9)] {
                writer.completed(writer.submitted(request), succeeded: true)
            }
            let flush = writer.submitted(.flush)
            writer.completed(writer.submitted(Self.write(2, 3, .throughToMedia)), succeeded: true)
            writer.completed(flush, succeeded: true)
        }
        #expect(try Self.entries(log).map { $0.offset / 512 } == [1, 1, 2, 8, 9, 0, 0])
        let disk = OverlayDevice(over: MemoryDevice(byteCount: 8192))
        var reader = try WriteLogReader(on: MemoryDevice(log))
        #expect(try reader.apply(until: .end, onto: disk) == nil)
        let bytes = try contents(disk)
        #expect(bytes[512] == 2 && bytes[1024] == 3)
    }

    /// What failed was never acknowledged and must not look as if it had been; its flush covers nothing.
    @Test func failedRequestsAreNotLoggedAndAFailedFlushCoversNothing() throws {
        let log = try Self.log { writer in
            writer.completed(writer.submitted(Self.write(1, 1)), succeeded: true)
            writer.completed(writer.submitted(Self.write(2, 2)), succeeded: false)
            writer.completed(writer.submitted(.flush), succeeded: false)
            writer.completed(writer.submitted(Self.write(3, 3, .throughToMedia)), succeeded: true)
        }
        #expect(try Self.entries(log).map { $0.offset / 512 } == [3, 1, 0])
    }

    /// `jext4-replay log` stops where the user says, at the entry and not behind it.
    @Test func aReplayStopsAtTheWantedEntry() throws {
        let log = try Self.log { writer in
            for step in 1...3 {
                writer.completed(writer.submitted(Self.write(UInt64(step), UInt8(step))), succeeded: true)
                writer.completed(writer.submitted(.flush), succeeded: true)
                writer.marked("step \(step)")
            }
        }
        for (stop, last) in [(WriteLogReader.Stop.mark("step 2"), 2), (.entry(3), 2), (.flag(.flush), 1), (.end, 3)] {
            let disk = OverlayDevice(over: MemoryDevice(byteCount: 4096))
            var reader = try WriteLogReader(on: MemoryDevice(log))
            _ = try reader.apply(until: stop, onto: disk)
            let bytes = try contents(disk)
            #expect((1...3).map { bytes[$0 * 512] } == (1...3).map { $0 <= last ? UInt8($0) : 0 }, "\(stop)")
        }
        var reader = try WriteLogReader(on: MemoryDevice(log))
        #expect(throws: Ext4Error.self) {
            _ = try reader.apply(until: .end, onto: OverlayDevice(over: MemoryDevice(byteCount: 1024)))
        }
    }

    /// P6 for logs: any bytes at all give entries or an error, never a trap and never a write out of range.
    @Test(arguments: [UInt64](1...4)) func aDamagedLogGivesAnErrorOrEntries(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let good = try Self.log { writer in
            for step in 0..<6 {
                let request = Self.write(UInt64(step), 1, .throughToMedia, count: 2)
                writer.completed(writer.submitted(request), succeeded: true)
                writer.marked("mark \(step)")
            }
        }
        for _ in 0..<300 {
            var bad = good
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let header = Int.random(in: 0..<bad.count / 512, using: &random) * 512
                bad[header + Int.random(in: 0..<40, using: &random)] = .random(in: 0...255, using: &random)
            }
            if random.once(in: 3) { bad.removeLast(512 * Int.random(in: 0..<bad.count / 512, using: &random)) }
            let disk = OverlayDevice(over: MemoryDevice(byteCount: 1 << 16))
            guard var reader = try? WriteLogReader(on: MemoryDevice(bad)) else { continue }
            _ = try? reader.apply(until: .end, onto: disk)
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
