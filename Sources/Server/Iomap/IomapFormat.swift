internal import Ext4Format

// What is spoken with a kernel that has fuse-iomap: the layouts of protocol 7.99. All numbers are in the byte order of
// the machine.

/// One run of a file, `fuse_iomap_io`.
struct IomapRun: Equatable {
    static var byteCount: Int { 32 }
    /// `addr` of what has no place.
    static var noAddress: UInt64 { .max }

    var offset: UInt64
    var count: UInt64
    /// Bytes from the start of the device.
    var address = Self.noAddress
    var type: Kind
    var flags: Flags = []
    /// What the kernel calls the device; 0 for none.
    var device: UInt32 = 0

    struct Kind: Equatable {
        let rawValue: UInt16
        static var hole: Self { Self(rawValue: 0) }
        static var delayed: Self { Self(rawValue: 1) }
        static var mapped: Self { Self(rawValue: 2) }
        static var unwritten: Self { Self(rawValue: 3) }
        /// In what the kernel is to remember: nothing of this half.
        static var notRemembered: Self { Self(rawValue: 65533) }
        /// As the half for writes: these go where reads come from.
        static var pureOverwrite: Self { Self(rawValue: 65535) }
    }

    struct Flags: OptionSet {
        let rawValue: UInt16
        /// Not all that leads to the data is stable: O_DSYNC needs an fsync.
        static var dirty: Self { Self(rawValue: 2) }
        static var shared: Self { Self(rawValue: 4) }
        /// For writes that are whole or not at all.
        static var atomic: Self { Self(rawValue: 64) }
    }

    private enum Layout {
        static var offset: Host<UInt64> { Host(0) }
        static var count: Host<UInt64> { Host(8) }
        static var address: Host<UInt64> { Host(16) }
        static var type: Host<UInt16> { Host(24) }
        static var flags: Host<UInt16> { Host(26) }
        static var device: Host<UInt32> { Host(28) }
    }

    /// `bytes` are `byteCount` long.
    func encode(into bytes: inout MutableRawSpan) {
        bytes[Layout.offset] = offset
        bytes[Layout.count] = count
        bytes[Layout.address] = address
        bytes[Layout.type] = type.rawValue
        bytes[Layout.flags] = flags.rawValue
        bytes[Layout.device] = device
    }

    /// A run for reads and one for writes: the answer to BEGIN.
    static func pair(_ read: IomapRun, _ write: IomapRun) -> [UInt8] {
        var answer = [UInt8](repeating: 0, count: 2 * byteCount)
        var span = answer.mutableSpan
        var bytes = unsafe span.mutableBytes
        for (run, start) in [(read, 0), (write, byteCount)] {
            var part = bytes._mutatingExtracting(start..<start + byteCount)
            run.encode(into: &part)
        }
        return answer
    }
}

/// What the kernel is told without having asked.
enum IomapNotice {
    /// FUSE_NOTIFY_IOMAP_UPSERT_MAPPINGS and FUSE_NOTIFY_IOMAP_INVAL_MAPPINGS.
    static var remember: Int32 { 100 }
    static var forget: Int32 { 101 }
    private static var node: Host<UInt64> { Host(0) }
    private static var inode: Host<UInt64> { Host(8) }
    private static var rest: Int { 16 }

    /// Where reads of a part of a file come from. Of writes nothing, so that they go there as well.
    static func remember(_ read: IomapRun, node: UInt64, inode: UInt64) -> [UInt8] {
        let nothing = IomapRun(offset: read.offset, count: read.count, type: .notRemembered)
        return notice(node, inode, IomapRun.pair(read, nothing))
    }

    /// Of both halves, from `position` to the end of the file.
    static func forget(from position: UInt64, node: UInt64, inode: UInt64) -> [UInt8] {
        var ranges = [UInt8](repeating: 0, count: 32)
        var span = ranges.mutableSpan
        var bytes = unsafe span.mutableBytes
        for start in [0, 16] {
            bytes[Host<UInt64>(start)] = position
            bytes[Host<UInt64>(start + 8)] = .max
        }
        return notice(node, inode, ranges)
    }

    private static func notice(_ node: UInt64, _ inode: UInt64, _ body: [UInt8]) -> [UInt8] {
        var notice = [UInt8](repeating: 0, count: rest + body.count)
        var span = notice.mutableSpan
        var bytes = unsafe span.mutableBytes
        bytes[Self.node] = node
        bytes[Self.inode] = inode
        bytes.copy(body, at: rest)
        return notice
    }
}

/// What an operation of the kernel wants: `opflags` of BEGIN and END.
struct IomapUse: OptionSet {
    let rawValue: UInt32
    static var write: Self { Self(rawValue: 1 << 0) }
    static var zero: Self { Self(rawValue: 1 << 1) }
    static var report: Self { Self(rawValue: 1 << 2) }
    static var fault: Self { Self(rawValue: 1 << 3) }
    static var direct: Self { Self(rawValue: 1 << 4) }
    static var noWait: Self { Self(rawValue: 1 << 5) }
    static var overwriteOnly: Self { Self(rawValue: 1 << 6) }
    static var unshare: Self { Self(rawValue: 1 << 7) }
    static var atomic: Self { Self(rawValue: 1 << 9) }
    static var dontCache: Self { Self(rawValue: 1 << 10) }
    static var writeback: Self { Self(rawValue: 1 << 11) }
    /// What we can serve; not DAX, and not swapping, which would have the blocks of a file stay.
    static var known: Self {
        [
            .write, .zero, .report, .fault, .direct, .noWait, .overwriteOnly, .unshare, .atomic, .dontCache, .writeback,
        ]
    }
}

/// `fuse_iomap_begin_in`.
struct IomapBegin {
    let use: IomapUse
    let inode: UInt64
    let position: UInt64, count: UInt64

    private enum Layout {
        static var use: Host<UInt32> { Host(0) }
        static var inode: Host<UInt64> { Host(8) }
        static var position: Host<UInt64> { Host(16) }
        static var count: Host<UInt64> { Host(24) }
        static var byteCount: Int { 32 }
    }

    /// Nil when it is cut off.
    init?(decoding bytes: RawSpan) {
        guard bytes.byteCount >= Layout.byteCount else { return nil }
        use = IomapUse(rawValue: bytes[Layout.use])
        inode = bytes[Layout.inode]
        position = bytes[Layout.position]
        count = bytes[Layout.count]
    }
}

/// `fuse_iomap_end_in`, as far as we need it: the mapping follows.
struct IomapEnd {
    let use: IomapUse
    let inode: UInt64
    let position: UInt64, count: UInt64
    /// Bytes, or a negative errno.
    let written: Int64

    private enum Layout {
        static var use: Host<UInt32> { Host(0) }
        static var inode: Host<UInt64> { Host(8) }
        static var position: Host<UInt64> { Host(16) }
        static var count: Host<UInt64> { Host(24) }
        static var written: Host<Int64> { Host(32) }
        static var byteCount: Int { 72 }
    }

    init?(decoding bytes: RawSpan) {
        guard bytes.byteCount >= Layout.byteCount else { return nil }
        use = IomapUse(rawValue: bytes[Layout.use])
        inode = bytes[Layout.inode]
        position = bytes[Layout.position]
        count = bytes[Layout.count]
        written = bytes[Layout.written]
    }
}

/// `fuse_iomap_ioend_in`.
struct IomapCompletion {
    let flags: Flags
    /// 0, or a negative errno.
    let failure: Int32
    let inode: UInt64
    let position: UInt64, written: UInt64
    /// Where the first byte went, in bytes; by some kernels in sectors of 512 bytes. `IomapRun.noAddress` after direct
    /// writes.
    let address: UInt64

    struct Flags: OptionSet {
        let rawValue: UInt32
        static var shared: Self { Self(rawValue: 1) }
        static var unwritten: Self { Self(rawValue: 2) }
        static var direct: Self { Self(rawValue: 8) }
        static var append: Self { Self(rawValue: 16) }
        static var writeback: Self { Self(rawValue: 32) }
    }

    private enum Layout {
        static var flags: Host<UInt32> { Host(0) }
        static var failure: Host<Int32> { Host(4) }
        static var inode: Host<UInt64> { Host(8) }
        static var position: Host<UInt64> { Host(16) }
        static var address: Host<UInt64> { Host(24) }
        static var written: Host<UInt64> { Host(32) }
        static var byteCount: Int { 48 }
    }

    init?(decoding bytes: RawSpan) {
        guard bytes.byteCount >= Layout.byteCount else { return nil }
        flags = Flags(rawValue: bytes[Layout.flags])
        failure = bytes[Layout.failure]
        inode = bytes[Layout.inode]
        position = bytes[Layout.position]
        written = bytes[Layout.written]
        address = bytes[Layout.address]
    }

    /// The answer: the size of the file on disk.
    static func answer(size: UInt64) -> [UInt8] {
        var answer = [UInt8](repeating: 0, count: 8)
        var span = answer.mutableSpan
        var bytes = unsafe span.mutableBytes
        bytes[Host<UInt64>(0)] = size
        return answer
    }
}

/// `fuse_iomap_config_out`: what the kernel is to know of the volume.
struct IomapConfiguration {
    var name: [UInt8]
    var uuid: [UInt8]
    var blockByteCount: UInt32
    var maximumLinks: UInt32
    /// Nanoseconds.
    var timeGranularity: UInt32
    /// Seconds.
    var times: ClosedRange<Int64>
    var maximumByteCount: Int64

    /// Which fields are given.
    private struct Fields: OptionSet {
        let rawValue: UInt64
        static var name: Self { Self(rawValue: 1) }
        static var uuid: Self { Self(rawValue: 2) }
        static var blockByteCount: Self { Self(rawValue: 4) }
        static var maximumLinks: Self { Self(rawValue: 8) }
        static var times: Self { Self(rawValue: 16) }
        static var maximumByteCount: Self { Self(rawValue: 32) }
        static var ours: Self { [.name, .uuid, .blockByteCount, .maximumLinks, .times, .maximumByteCount] }
    }

    private enum Layout {
        static var flags: Host<UInt64> { Host(0) }
        static var name: Int { 8 }
        static var nameByteCount: Int { 32 }
        static var uuid: Int { 40 }
        static var uuidByteCount: Host<UInt8> { Host(56) }
        static var blockByteCount: Host<UInt32> { Host(60) }
        static var maximumLinks: Host<UInt32> { Host(64) }
        static var timeGranularity: Host<UInt32> { Host(68) }
        static var firstTime: Host<Int64> { Host(72) }
        static var lastTime: Host<Int64> { Host(80) }
        static var maximumByteCount: Host<Int64> { Host(88) }
        static var byteCount: Int { 104 }
    }

    /// The flags and the largest file of `fuse_iomap_config_in`; nil when it is cut off.
    static func request(_ bytes: RawSpan) -> (accepted: UInt64, maximumByteCount: Int64)? {
        bytes.byteCount >= 16 ? (bytes[Host<UInt64>(0)], bytes[Host<Int64>(8)]) : nil
    }

    /// As far as the kernel accepts it.
    func encoded(accepted: UInt64) -> [UInt8] {
        var answer = [UInt8](repeating: 0, count: Layout.byteCount)
        var span = answer.mutableSpan
        var bytes = unsafe span.mutableBytes
        bytes[Layout.flags] = Fields.ours.intersection(Fields(rawValue: accepted)).rawValue
        // One byte less: a text with its end.
        bytes.copy(Array(name.prefix(Layout.nameByteCount - 1)), at: Layout.name)
        bytes.copy(uuid, at: Layout.uuid)
        bytes[Layout.uuidByteCount] = UInt8(uuid.count)
        bytes[Layout.blockByteCount] = blockByteCount
        bytes[Layout.maximumLinks] = maximumLinks
        bytes[Layout.timeGranularity] = timeGranularity
        bytes[Layout.firstTime] = times.lowerBound
        bytes[Layout.lastTime] = times.upperBound
        bytes[Layout.maximumByteCount] = maximumByteCount
        return answer
    }
}
