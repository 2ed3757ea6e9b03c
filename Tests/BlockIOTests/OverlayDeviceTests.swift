import BlockIO
import CrashLab
import Ext4Format
import Testing

func contents(_ device: any BlockDevice) throws -> [UInt8] {
    let buffer = AlignedBuffer(byteCount: Int(device.byteCount))
    try device.read(into: buffer, at: 0)
    return buffer.withBytes { $0.array(0..<buffer.byteCount) }
}

func put(_ bytes: [UInt8], on device: any BlockDevice, at offset: UInt64, _ mode: WriteMode = .cached) throws {
    try device.write(bytes.span.bytes, at: offset, mode: mode)
}

@Suite struct OverlayDeviceTests {
    /// Crash states and read-only replays rest on this: the overlay reads as a disk would, and the base stays.
    @Test(arguments: [UInt64](1...6)) func anOverlayReadsWhatWasWrittenAndLeavesTheBase(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let original = (0..<40 * 512).map { _ in UInt8.random(in: 1...255, using: &random) }
        let base = MemoryDevice(original)
        var overlay = OverlayDevice(over: base)
        var expected = original
        for step in 0..<200 {
            let first = Int.random(in: 0..<40, using: &random)
            let range = first * 512..<Int.random(in: first + 1...40, using: &random) * 512
            if step % 4 == 3 {
                try overlay.discard(at: UInt64(range.lowerBound), count: UInt64(range.count))
                expected.replaceSubrange(range, with: repeatElement(0, count: range.count))
            } else {
                let bytes = [UInt8](repeating: UInt8.random(in: 1...255, using: &random), count: range.count)
                try put(bytes, on: overlay, at: UInt64(range.lowerBound))
                expected.replaceSubrange(range, with: bytes)
            }
            if step % 50 == 20 {
                let kept = overlay
                overlay = overlay.fork()
                try put([UInt8](repeating: 0, count: 512), on: kept, at: 0)
            }
            #expect(try contents(overlay) == expected)
        }
        var rebuilt = original
        try overlay.forEachChange { offset, bytes in
            rebuilt.replaceSubrange(Int(offset)..<Int(offset) + bytes.byteCount, with: bytes.array(0..<bytes.byteCount))
        }
        #expect(rebuilt == expected)
        #expect(base.bytes == original)
    }

    /// An untrusted log may discard a whole large disk: that must cost neither time nor memory.
    @Test func discardingTerabytesCostsNothing() throws {
        final class Empty: BlockDevice {
            let byteCount: UInt64 = 16 << 40
            let sectorByteCount = 512
            let isReadOnly = true
            func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
                bytes.fill(0..<bytes.byteCount, with: 7)
            }
            func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) { throw .aborted }
            func flush() throws(Ext4Error) {}
        }
        let overlay = OverlayDevice(over: Empty())
        try put([UInt8](repeating: 1, count: 512), on: overlay, at: 8 << 40)
        try overlay.discard(at: 512, count: (16 << 40) - 512)
        let buffer = AlignedBuffer(byteCount: 1024)
        try overlay.read(into: buffer, at: 0)
        let half = [UInt8](repeating: 7, count: 512) + [UInt8](repeating: 0, count: 512)
        #expect(buffer.withBytes { $0.array(0..<1024) } == half)
        try overlay.read(into: buffer, at: 8 << 40)
        #expect(buffer.withBytes { $0.array(0..<1024) } == [UInt8](repeating: 0, count: 1024))
        #expect(overlay.memoryByteCount == 0)
        #expect(throws: Ext4Error.self) { try overlay.discard(at: 512, count: 16 << 40) }
        #expect(throws: Ext4Error.self) { try overlay.discard(at: UInt64.max - 511, count: 1024) }
    }

    /// A range past the end is refused and touches nothing, as on every device.
    @Test func aWriteAcrossTheEndIsRefused() throws {
        let overlay = OverlayDevice(over: MemoryDevice(byteCount: 4096))
        #expect(throws: Ext4Error.io(errno: 22, operation: "write", offset: 3584, count: 1024)) {
            try put([UInt8](repeating: 1, count: 1024), on: overlay, at: 3584)
        }
        #expect(try contents(overlay) == [UInt8](repeating: 0, count: 4096))
    }
}
