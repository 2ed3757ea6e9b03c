import Testing

/// `fuse_iomap_io`, and the checks that the kernel makes of it.
struct Mapping: Equatable {
    var offset: UInt64, length: UInt64, address: UInt64
    var type: UInt16, flags: UInt16
    var device: UInt32

    static let hole: UInt16 = 0, delayed: UInt16 = 1, mapped: UInt16 = 2, unwritten: UInt16 = 3
    static let pureOverwrite: UInt16 = 65535
    static let new: UInt16 = 1, dirty: UInt16 = 2, shared: UInt16 = 4, atomic: UInt16 = 64

    var end: UInt64 { offset + length }
    var hasAddress: Bool { type == Self.mapped || type == Self.unwritten }
    var isShared: Bool { flags & Self.shared != 0 }
    /// Whether a part of a block that is not written has to become zeros.
    var readsAsZeros: Bool { type != Self.mapped || flags & Self.new != 0 }

    init(_ message: Message, at start: Int) {
        offset = message.get(start)
        length = message.get(start + 8)
        address = message.get(start + 16)
        type = message.get(start + 24)
        flags = message.get(start + 26)
        device = message.get(start + 28)
    }

    var bytes: [UInt8] {
        var message = Message(count: 32)
        message.put(offset, 0)
        message.put(length, 8)
        message.put(address, 16)
        message.put(type, 24)
        message.put(flags, 26)
        message.put(device, 28)
        return message.bytes
    }

    /// Where a byte of the file lies on the device.
    func place(of position: UInt64) -> UInt64 { address + (position - offset) }

    /// A mapping that the kernel would refuse is EFSCORRUPTED to whoever asked.
    func check(_ position: UInt64, unit: UInt64, deviceByteCount: UInt64, isWriteHalf: Bool) {
        let known: UInt16 = Self.new | Self.dirty | Self.shared | 8 | 16 | Self.atomic | 128
        #expect(flags & ~known == 0, "\(self)")
        #expect(length > 0 && offset % unit == 0 && length % unit == 0, "\(self)")
        #expect(!offset.addingReportingOverflow(length).overflow, "\(self)")
        #expect(offset <= position && position < end, "\(self) is not about byte \(position)")
        switch type {
        case Self.mapped, Self.unwritten:
            #expect(device == ScriptedKernel.device, "\(self)")
            #expect(address % 512 == 0 && address + length <= deviceByteCount, "\(self)")
        case Self.hole, Self.delayed: #expect(device == 0 && address == .max, "\(self)")
        case Self.pureOverwrite: #expect(isWriteHalf && device == 0 && address == .max && flags == 0, "\(self)")
        default: Issue.record("unknown type: \(self)")
        }
    }
}

/// `opflags` of BEGIN and END.
struct Use: OptionSet {
    let rawValue: UInt32
    static let write = Self(rawValue: 1), zero = Self(rawValue: 2), report = Self(rawValue: 4)
    static let fault = Self(rawValue: 8), direct = Self(rawValue: 16), atomic = Self(rawValue: 512)
    static let writeback = Self(rawValue: 2048), swap = Self(rawValue: 1 << 31)

    var isFileWrite: Bool { !isDisjoint(with: [.write, .zero, .writeback, .swap]) }
}

/// What a BEGIN gave: where to write or look, and what lies under a write.
struct Found {
    var map: Mapping
    var source: Mapping
}

/// Flags of IOEND.
enum Ended {
    static let shared: UInt32 = 1, unwritten: UInt32 = 2, direct: UInt32 = 8, append: UInt32 = 16
    static let writeback: UInt32 = 32
}
