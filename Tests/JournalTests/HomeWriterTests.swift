import BlockIO
import Ext4Format
import Journal
import Synchronization
import Testing

/// A device whose medium can be read, but for one block.
private final class MediumDevice: BlockDevice {
    let base: MemoryDevice
    private let bad: UInt64?
    private let written = Mutex(0)
    init(_ bytes: [UInt8], bad: UInt64? = nil) {
        base = MemoryDevice(bytes)
        self.bad = bad
    }

    var writtenByteCount: Int { written.withLock { $0 } }
    var byteCount: UInt64 { base.byteCount }
    var sectorByteCount: Int { base.sectorByteCount }
    var isReadOnly: Bool { false }

    func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try base.read(into: &bytes, at: offset)
    }
    func readMedium(into buffer: AlignedBuffer, count: Int, at offset: UInt64) -> Bool {
        if let bad, (offset..<offset + UInt64(count)).contains(bad * UInt64(Bench.blockByteCount)) { return false }
        do throws(Ext4Error) {
            try buffer.withMutableBytes { bytes throws(Ext4Error) in
                var part = bytes._mutatingExtracting(0..<count)
                try base.read(into: &part, at: offset)
            }
            return true
        } catch {
            return false
        }
    }
    func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        written.withLock { $0 += bytes.byteCount }
        try base.write(bytes, at: offset, mode: mode)
    }
    func flush() throws(Ext4Error) { try base.flush() }
}

/// A log with more than is written without a look, and one block in it that begins as a block of a log does.
private func fullLog() throws -> (shape: Bench.Shape, disk: [UInt8]) {
    var shape = Bench.Shape()
    shape.homeBlocks = 6000
    shape.logBlocks = 8000
    shape.cacheBytes = 16 << 20
    let bench = try Bench(shape)
    for number in 0..<5000 as Range<UInt64> {
        // Two runs of homes.
        try bench.fill(number < 2500 ? number : number + 100, UInt8(truncatingIfNeeded: number | 1))
        if number % 500 == 499 { try bench.journal.commitNow() }
    }
    let block = try bench.cache.block(FSBlock(700))
    try bench.journal.withHandle(credits: 1) { handle throws(Ext4Error) in
        try handle.modify(block) { bytes in
            for (index, byte) in ([0xC0, 0x3B, 0x39, 0x98] as [UInt8]).enumerated() {
                bytes.fill(index..<index + 1, with: byte)
            }
        }
    }
    try bench.journal.commitNow()
    return (shape, try bench.bytes)
}

private func apply(_ shape: Bench.Shape, to device: MediumDevice) throws -> ReplayCounters {
    let log = try LogArea(device: device, blockByteCount: Bench.blockByteCount, runs: shape.runs)
    return try Bench.scan(shape, device, detail: .copies).apply(from: log, to: device)
}

/// What a replay that was cut short has written is not written again, and all else is.
@Test func whatLiesAtHomeIsNotWritten() throws {
    // Equal must mean equal as it is to be at home: with the first bytes of an escaped block put back.
    let (shape, disk) = try fullLog()
    let device = MediumDevice(disk)
    let first = try apply(shape, to: device)
    #expect(first.blocks == 5000)
    #expect(first.unchanged == 0, "nothing was at home")
    let replayed = device.base.bytes
    let again = MediumDevice(replayed)
    let second = try apply(shape, to: again)
    #expect(second.unchanged == 5000)
    #expect(second.writes == 0)
    #expect(again.writtenByteCount == 0)
    #expect(again.base.bytes == replayed)
}

/// One byte that differs, anywhere in a run, and one sector that cannot be read: both runs are written whole.
@Test(arguments: [0, 1_023, 1_024, 700_000, 2_559_999])
func whatDiffersAtHomeIsWritten(_ place: Int) throws {
    // A home that is taken for equal is lost with the log.
    let (shape, disk) = try fullLog()
    let whole = MediumDevice(disk)
    _ = try apply(shape, to: whole)
    var replayed = whole.base.bytes
    replayed[place] ^= 1
    let device = MediumDevice(replayed, bad: 4000)
    let counters = try apply(shape, to: device)
    #expect(device.base.bytes == whole.base.bytes)
    #expect(counters.blocks == 5000)
    #expect(counters.writes == 2)
    #expect(counters.unchanged == 5000 - device.writtenByteCount / Bench.blockByteCount)
}
