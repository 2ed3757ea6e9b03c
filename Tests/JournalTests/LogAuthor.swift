import BlockIO
import Ext4Format
import Journal
import Testing

/// Writes logs block by block, in every format that jbd2 has had. It shares nothing with the journal's own encoder but
/// the checksum functions: what that one gets wrong must not be right here too.
struct LogAuthor {
    struct Format: Sendable, CustomTestStringConvertible {
        var version: UInt8 = 2
        var checksums = JournalFormat.ChecksumKind.v3
        var isWide = true
        var isAsync = false
        /// Whether each tag is followed by the UUID, and not only the first.
        var hasManyUUIDs = false
        var blockByteCount = 1024

        var testDescription: String {
            "version \(version), checksums \(checksums), \(isWide ? "64" : "32") bits, "
                + "\(isAsync ? "async, " : "")\(hasManyUUIDs ? "a UUID per tag, " : "")\(blockByteCount) bytes"
        }
    }

    /// A logged block: its content as it is to be at home.
    struct Item {
        var home: UInt64
        var content: [UInt8]
    }

    let format: Format
    let uuid: [UInt8]
    /// What was written, by log block.
    private(set) var blocks: [UInt32: [UInt8]] = [:]
    private(set) var position: UInt32
    private(set) var sequence: UInt32
    private let first: UInt32
    private let end: UInt32
    private let start: UInt32
    private let startSequence: UInt32
    private var payload = UInt32.max

    private static let magic: UInt32 = 0xC03B_3998
    private var size: Int { format.blockByteCount }
    private var hasTail: Bool { format.checksums == .v2 || format.checksums == .v3 }
    private var seed: UInt32 { CRC32C.of(uuid.span.bytes) }

    /// A log that uses blocks `first` ..< `end`, begins at `start` and goes round.
    init(
        _ format: Format, first: UInt32 = 1, end: UInt32, start: UInt32 = 1, sequence: UInt32 = 1,
        uuid: [UInt8] = Array(1...16)
    ) {
        self.format = format
        self.uuid = uuid
        self.first = first
        self.end = end
        self.start = start
        self.sequence = sequence
        startSequence = sequence
        position = start
    }

    static func put(_ value: some FixedWidthInteger, at offset: Int, in block: inout [UInt8]) {
        withUnsafeBytes(of: value.bigEndian) { block.replaceSubrange(offset..<offset + $0.count, with: $0) }
    }

    // MARK: Blocks

    private func header(_ type: UInt32) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: size)
        Self.put(Self.magic, at: 0, in: &block)
        Self.put(type, at: 4, in: &block)
        Self.put(sequence, at: 8, in: &block)
        return block
    }

    private mutating func append(_ block: [UInt8]) {
        blocks[position] = block
        position = position + 1 == end ? first : position + 1
    }

    private func sealed(_ block: [UInt8]) -> [UInt8] {
        guard hasTail else { return block }
        var block = block
        Self.put(CRC32C.of(block.span.bytes, seed: seed), at: size - 4, in: &block)
        return block
    }

    private var tagByteCount: Int {
        switch format.checksums {
        case .v3: 16
        case .v2: format.isWide ? 14 : 10
        default: format.isWide ? 12 : 8
        }
    }
    /// How many tags fit one descriptor.
    var tagsPerDescriptor: Int {
        let room = size - 12 - (hasTail ? 4 : 0)
        return format.hasManyUUIDs ? room / (tagByteCount + 16) : (room - 16) / tagByteCount
    }

    /// One descriptor with its blocks.
    mutating func log(_ items: [Item]) {
        precondition(items.count <= tagsPerDescriptor)
        var descriptor = header(1)
        var offset = 12
        var logged: [[UInt8]] = []
        for (index, item) in items.enumerated() {
            var content = item.content
            var flags: UInt32 = index > 0 && !format.hasManyUUIDs ? 2 : 0
            if index == items.count - 1 { flags |= 8 }
            if content[0..<4] == [0xC0, 0x3B, 0x39, 0x98] {
                content.replaceSubrange(0..<4, with: [0, 0, 0, 0])
                flags |= 1
            }
            var crc = CRC32C(seed: seed)
            crc.update(bigEndian: sequence)
            crc.update(content)
            Self.put(UInt32(truncatingIfNeeded: item.home), at: offset, in: &descriptor)
            if format.checksums == .v3 {
                Self.put(flags, at: offset + 4, in: &descriptor)
                Self.put(crc.value, at: offset + 12, in: &descriptor)
            } else {
                if format.checksums == .v2 { Self.put(UInt16(crc.value & 0xFFFF), at: offset + 4, in: &descriptor) }
                Self.put(UInt16(flags), at: offset + 6, in: &descriptor)
            }
            if format.isWide { Self.put(UInt32(item.home >> 32), at: offset + 8, in: &descriptor) }
            offset += tagByteCount
            if flags & 2 == 0 {
                descriptor.replaceSubrange(offset..<offset + 16, with: uuid)
                offset += 16
            }
            logged.append(content)
        }
        descriptor = sealed(descriptor)
        for block in [descriptor] + logged {
            payload = crc32BE(block.span.bytes, seed: payload)
            append(block)
        }
    }

    /// How many records fit one revoke block.
    var revokesPerBlock: Int { (size - 16 - (hasTail ? 4 : 0)) / (format.isWide ? 8 : 4) }

    /// One block of revoke records.
    mutating func revoke(_ homes: [UInt64]) {
        precondition(homes.count <= revokesPerBlock)
        var block = header(5)
        let width = format.isWide ? 8 : 4
        Self.put(UInt32(16 + homes.count * width), at: 12, in: &block)
        for (index, home) in homes.enumerated() {
            if format.isWide {
                Self.put(home, at: 16 + index * width, in: &block)
            } else {
                Self.put(UInt32(home), at: 16 + index * width, in: &block)
            }
        }
        append(sealed(block))
    }

    mutating func commit(at seconds: UInt64 = 1_700_000_000) {
        var block = header(2)
        Self.put(seconds, at: 0x30, in: &block)
        if format.checksums == .v1 {
            block[0xC] = 1
            block[0xD] = 4
            Self.put(payload, at: 0x10, in: &block)
        } else if hasTail {
            Self.put(CRC32C.of(block.span.bytes, seed: seed), at: 0x10, in: &block)
        }
        append(block)
        sequence &+= 1
        payload = .max
    }

    /// As a power cut leaves it: nothing of this transaction but what is there.
    mutating func replaceLast(_ change: (inout [UInt8]) -> Void) {
        let last = position == first ? end - 1 : position - 1
        if var block = blocks[last] {
            change(&block)
            blocks[last] = block
        }
    }

    // MARK: The whole

    /// The super block over the bytes of an existing one, which is kept where it names the length and the users.
    func superBlock(over old: [UInt8]) -> [UInt8] {
        var block = old
        Self.put(Self.magic, at: 0, in: &block)
        Self.put(UInt32(format.version == 1 ? 3 : 4), at: 4, in: &block)
        Self.put(UInt32(size), at: 0xC, in: &block)
        Self.put(first, at: 0x14, in: &block)
        Self.put(startSequence, at: 0x18, in: &block)
        Self.put(start, at: 0x1C, in: &block)
        guard format.version == 2 else {
            block.replaceSubrange(0x24..<1024, with: [UInt8](repeating: 0, count: 1024 - 0x24))
            return block
        }
        Self.put(UInt32(format.checksums == .v1 ? 1 : 0), at: 0x24, in: &block)
        var features: UInt32 = 1
        if format.isWide { features |= 2 }
        if format.isAsync { features |= 4 }
        if format.checksums == .v2 { features |= 8 }
        if format.checksums == .v3 { features |= 0x10 }
        Self.put(features, at: 0x28, in: &block)
        block.replaceSubrange(0x30..<0x40, with: uuid)
        block[0x50] = hasTail ? 4 : 0
        Self.put(UInt32(0), at: 0xFC, in: &block)
        if hasTail { Self.put(CRC32C.of(block[0..<1024].span.bytes), at: 0xFC, in: &block) }
        return block
    }

    /// Puts the log and its super block where they belong.
    func write(to log: LogArea) throws(Ext4Error) {
        let buffer = AlignedBuffer(byteCount: size)
        try log.read(log.superBlockPosition, count: 1, into: buffer)
        let old = buffer.withBytes { $0.array(0..<size) }
        try log.write(superBlock(over: old).span.bytes, at: log.superBlockPosition, mode: .cached)
        for (position, block) in blocks { try log.write(block.span.bytes, at: position, mode: .cached) }
    }
}
