import BlockIO
import Ext4Format
import Journal

/// A small volume with a log, in memory, and a journal over it in manual mode.
///
/// Blocks 0 ..< `home` hold "metadata", the log follows. There is no file system: the journal does not know one.
struct Bench {
    static let blockByteCount = 1024
    let device: any BlockDevice
    let cache: MetadataCache
    let log: LogArea
    let journal: Journal

    struct Shape {
        var homeBlocks: UInt32 = 512
        var logBlocks: UInt32 = 64
        var sequence: UInt32 = 1
        var incompatible: JournalIncompatibleFeatures = [.checksumV3]
        var compatible: JournalCompatibleFeatures = []
        var isManual = true
        var cacheBytes = 1 << 20
        /// The log in two runs, the later half first on the device.
        var isSplit = false

        var runs: [(start: FSBlock, count: UInt32)] {
            guard isSplit else { return [(FSBlock(UInt64(homeBlocks)), logBlocks)] }
            let first = logBlocks / 3
            return [
                (FSBlock(UInt64(homeBlocks + logBlocks - first)), first),
                (FSBlock(UInt64(homeBlocks)), logBlocks - first),
            ]
        }
        var byteCount: Int { Int(homeBlocks + logBlocks) * Bench.blockByteCount }
    }

    /// A zeroed disk with an empty journal.
    static func format(_ shape: Shape) throws -> [UInt8] {
        let device = MemoryDevice(byteCount: shape.byteCount)
        let log = try LogArea(device: device, blockByteCount: blockByteCount, runs: shape.runs)
        var block = [UInt8](repeating: 0, count: blockByteCount)
        func put(_ value: UInt32, at offset: Int) {
            for index in 0..<4 { block[offset + index] = UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * index)) }
        }
        put(0xC03B_3998, at: 0)
        put(4, at: 4)
        put(UInt32(blockByteCount), at: 0xC)
        put(shape.logBlocks, at: 0x10)
        put(1, at: 0x14)
        put(shape.sequence, at: 0x18)
        put(shape.compatible.rawValue, at: 0x24)
        put(shape.incompatible.rawValue, at: 0x28)
        for index in 0..<16 { block[0x30 + index] = UInt8(index + 1) }
        put(1, at: 0x40)
        if !shape.incompatible.isDisjoint(with: [.checksumV2, .checksumV3]) {
            block[0x50] = 4
            put(CRC32C.of(block.span.bytes), at: 0xFC)
        }
        try log.write(block.span.bytes, at: 0, mode: .cached)
        return device.bytes
    }

    init(
        _ shape: Shape = Shape(), on device: (any BlockDevice)? = nil, hook: BeforeCommit? = nil,
        clock: @escaping CommitClock = { CommitTime(seconds: 1_700_000_000, nanoseconds: 5) },
        adjust: (inout JournalOptions) -> Void = { _ in }
    ) throws {
        let device = try device ?? MemoryDevice(Self.format(shape))
        self.device = device
        log = try LogArea(device: device, blockByteCount: Self.blockByteCount, runs: shape.runs)
        cache = MetadataCache(
            device: device, blockByteCount: Self.blockByteCount, blockCount: UInt64(shape.homeBlocks),
            capacityBytes: shape.cacheBytes)
        var options = JournalOptions()
        options.isManual = shape.isManual
        options.hookCredits = 1
        adjust(&options)
        journal = try Journal(
            device: device, log: log, cache: cache, superBlock: log.readSuperBlock(), options: options,
            clock: clock, beforeCommit: hook)
    }

    /// Fills one block with `byte` in a handle of its own.
    func fill(_ number: UInt64, _ byte: UInt8) throws(Ext4Error) {
        let block = try cache.block(FSBlock(number))
        try journal.withHandle(credits: 1) { handle throws(Ext4Error) in
            try handle.modify(block) { $0.fill(0..<$0.byteCount, with: byte) }
        }
    }

    /// Everything on the disk now: what a crash that loses nothing leaves.
    var bytes: [UInt8] { get throws { try device.contents } }

    /// Scans the log on a device.
    static func scan(
        _ shape: Shape, _ device: any BlockDevice, detail: RecoveryPlan.Detail = .everything
    ) throws(Ext4Error) -> RecoveryPlan {
        let log = try LogArea(device: device, blockByteCount: blockByteCount, runs: shape.runs)
        return try RecoveryPlan.scan(
            log, for: ReplayTarget(blockCount: UInt64(shape.homeBlocks), sharesDeviceWithLog: true), detail: detail)
    }

    /// What a mount does with a dirty disk: scan, replay, flush, mark empty. Answers a plan that lists everything.
    @discardableResult
    static func recover(_ shape: Shape, _ device: any BlockDevice) throws(Ext4Error) -> RecoveryPlan {
        let log = try LogArea(device: device, blockByteCount: blockByteCount, runs: shape.runs)
        let listed = try scan(shape, device)
        let plan = try scan(shape, device, detail: .copies)
        try plan.apply(from: log, to: device)
        try plan.markEmpty(log)
        return listed
    }

    /// A disk after a crash now and its recovery.
    func recovered(_ shape: Shape = Shape()) throws -> (disk: [UInt8], plan: RecoveryPlan) {
        let copy = try MemoryDevice(bytes)
        let plan = try Self.recover(shape, copy)
        return (copy.bytes, plan)
    }

    /// The byte that fills a block on a disk; nil when the block is not uniform.
    static func uniform(_ number: UInt64, _ disk: [UInt8]) -> UInt8? {
        let block = disk.span.bytes.extracting(Int(number) * blockByteCount..<(Int(number) + 1) * blockByteCount)
        let word = block[LE<UInt64>(0)]
        guard word == UInt64(truncatingIfNeeded: word & 0xFF) &* 0x0101_0101_0101_0101 else { return nil }
        for offset in stride(from: 8, to: blockByteCount, by: 8) where block[LE<UInt64>(offset)] != word { return nil }
        return UInt8(word & 0xFF)
    }
}

extension BlockDevice {
    var contents: [UInt8] {
        get throws {
            let buffer = AlignedBuffer(byteCount: Int(byteCount))
            try read(into: buffer, at: 0)
            return buffer.withBytes { $0.array(0..<buffer.byteCount) }
        }
    }
}
