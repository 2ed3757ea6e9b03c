import BlockIO
import Ext4Format
import Synchronization
import Testing

@Suite struct FaultyDeviceTests {
    /// Tests of P5 say which request fails; one more or one fewer would test something else.
    @Test func theNthMatchingWriteFailsOnceAndTheNextSucceeds() throws {
        let base = MemoryDevice(byteCount: 8192)
        let device = FaultyDevice(base, faults: [.init(.write, ordinal: 2, range: 4096..<8192)])
        let sector = [UInt8](repeating: 9, count: 512)
        try put(sector, on: device, at: 0)
        try put(sector, on: device, at: 4096)
        #expect(throws: Ext4Error.io(errno: 5, operation: "write", offset: 4608, count: 512)) {
            try put(sector, on: device, at: 4608)
        }
        try put(sector, on: device, at: 5120)
        #expect(base.bytes[4608] == 0 && base.bytes[5120] == 9)
        #expect(device.failureCount == 1 && device.requestCount(.write) == 4)
    }

    /// A dead device stays dead: nothing later may look like success.
    @Test func aPersistentFaultFailsEveryLaterFlush() throws {
        let device = FaultyDevice(MemoryDevice(byteCount: 4096))
        try device.flush()
        device.arm(.init(.flush, ordinal: 2, isPersistent: true))
        try device.flush()
        for _ in 0..<3 { #expect(throws: Ext4Error.self) { try device.flush() } }
        device.disarm()
        try device.flush()
    }

    /// Failed writes may leave their first sectors on the medium, across the buffers of one gather.
    @Test func aTornGatherLeavesItsFirstSectors() throws {
        let base = MemoryDevice(byteCount: 8192)
        let device = FaultyDevice(base, faults: [.init(.write, ordinal: 1, tornByteCount: 1536)])
        let parts = (0..<3).map { _ in BufferPart(AlignedBuffer(byteCount: 2048), 512..<1536) }
        for part in parts { part.buffer.withMutableBytes { $0.fill(part.range, with: 3) } }
        #expect(throws: Ext4Error.self) { try device.write(gathering: parts, at: 0, mode: .cached) }
        #expect(base.bytes[..<1536].allSatisfy { $0 == 3 } && base.bytes[1536...].allSatisfy { $0 == 0 })
    }
}

@Suite struct RecordingDeviceTests {
    private final class Notes: DeviceRecorder {
        let lines = Mutex<[String]>([])
        func submitted(_ request: DeviceRequest) -> UInt64 {
            lines.withLock { lines in
                switch request {
                case .write(let offset, let bytes, let mode): lines.append("W \(offset) \(bytes.count) \(mode)")
                case .flush: lines.append("F")
                case .discard(let offset, let count): lines.append("D \(offset) \(count)")
                }
                return UInt64(lines.count)
            }
        }
        func completed(_ ticket: UInt64, succeeded: Bool) {
            lines.withLock { $0.append("\(succeeded ? "done" : "failed") \(ticket)") }
        }
        func marked(_ label: String) { lines.withLock { $0.append("M \(label)") } }
    }

    /// What is recorded decides what the crash laboratory can see: every change once, in order, with its outcome.
    @Test func everyChangeIsReportedWithItsOutcome() throws {
        let notes = Notes()
        let faulty = FaultyDevice(MemoryDevice(byteCount: 8192), faults: [.init(.flush, ordinal: 2)])
        let device = RecordingDevice(faulty, recorder: notes)
        try put([UInt8](repeating: 1, count: 512), on: device, at: 512, .throughToMedia)
        let pair = [0..<1024, 512..<1536].map { BufferPart(AlignedBuffer(byteCount: 4096), $0) }
        try device.write(gathering: pair, at: 0, mode: .cached)
        try device.flush()
        device.mark("here")
        try? device.flush()
        try device.discard(at: 0, count: 4096)
        #expect(throws: Ext4Error.self) { try put([1], on: device, at: 0) }
        #expect(
            notes.lines.withLock { $0 } == [
                "W 512 512 throughToMedia", "done 1", "W 0 2048 cached", "done 3", "F", "done 5", "M here", "F",
                "failed 8", "D 0 4096", "done 10",
            ])
    }
}
