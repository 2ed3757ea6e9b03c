internal import Ext4Format
internal import Journal
internal import Synchronization
internal import Threads

/// One inode in memory. There is exactly one object per number while anybody holds it (see `InodeCache`).
///
/// Locks, in order: `lock`, `ranges`, an open handle, `mapping`, the record's own mutex.
final class Inode: Sendable {
    let number: InodeNumber
    let generation: UInt32
    /// The seed of the inode's checksum, and of its directory and extent blocks.
    let checksum: InodeChecksum
    /// The inode lock: names in a directory, extended attributes, owner and mode, link count.
    let lock = ReaderWriterLock()
    /// Keeps overlapping I/O apart, and truncate away from I/O in flight.
    let ranges = RangeLock()
    /// The mapping lock: the extent tree.
    let mapping = ReaderWriterLock()
    let places = KnownPlaces()
    private let place: (block: FSBlock, bytes: Range<Int>)
    private let state: Mutex<State>

    private struct State {
        var record: InodeRecord
        /// The last transaction that changed anything of the inode, and the last that fdatasync must wait for.
        var lastTransaction: TransactionID?
        var lastDataTransaction: TransactionID?
        var isDeleted = false
        var fixedByteCount: UInt64
        var batch: Batch?
        var outOfPlaceChoice: OutOfPlaceChoice?
        weak var delegation: Delegation?
    }

    /// Reads the inode from its table. `.corrupt` on a bad checksum or number; free inodes decode as well.
    init(reading number: InodeNumber, _ volume: Volume) throws(Ext4Error) {
        let place = try Self.place(of: number, volume)
        if !volume.cache.contains(place.block) { try Self.readAhead(number, volume) }
        let block = try volume.cache.block(place.block)
        let (record, checksum) = try block.withBytes { bytes throws(Ext4Error) in
            let slot = bytes.extracting(place.bytes)
            let record = try InodeRecord(decoding: slot)
            let checksum = InodeChecksum(
                volumeSeed: volume.superBlock.checksumSeed, inode: number, generation: record.generation)
            guard !volume.hasChecksums || checksum.isRight(slot) else {
                throw .corrupt("inode checksum", where: "inode \(number.rawValue)")
            }
            // All arithmetic on sizes counts on this.
            guard record.size <= FileData.maximumSize(volume) else {
                throw .corrupt("inode", where: "inode \(number.rawValue): size \(record.size)")
            }
            guard !volume.superBlock.hasClusters || !record.isBlockMapped else {
                throw .corrupt("inode", where: "inode \(number.rawValue): a block map on a volume with clusters")
            }
            return (record, checksum)
        }
        self.number = number
        self.place = place
        self.checksum = checksum
        generation = record.generation
        state = Mutex(State(record: record, fixedByteCount: record.size))
    }

    /// An inode that is known from elsewhere than its table: to look for its blocks, and nothing else.
    init(_ number: InodeNumber, remembered record: InodeRecord, _ volume: Volume) {
        self.number = number
        place = (FSBlock(0), 0..<0)
        checksum = InodeChecksum(
            volumeSeed: volume.superBlock.checksumSeed, inode: number, generation: record.generation)
        generation = record.generation
        state = Mutex(State(record: record, fixedByteCount: record.size))
    }

    /// Writes a new inode over whatever its slot held. 1 credit.
    init(
        creating number: InodeNumber, _ record: InodeRecord, _ volume: Volume, in handle: borrowing Handle
    ) throws(Ext4Error) {
        self.number = number
        place = try Self.place(of: number, volume)
        checksum = InodeChecksum(
            volumeSeed: volume.superBlock.checksumSeed, inode: number, generation: record.generation)
        generation = record.generation
        // A new inode inherits ACLs and no other attribute.
        state = Mutex(State(record: record, fixedByteCount: 0, outOfPlaceChoice: .mount))
        let block = try volume.cache.block(place.block)
        try handle.modify(block) { bytes throws(Ext4Error) in bytes.fill(place.bytes, with: 0) }
        try update(in: handle, volume) { _ in }
    }

    /// Writes zeros over a slot that was never in use. 1 credit.
    static func clearSlot(_ number: InodeNumber, _ volume: Volume, in handle: borrowing Handle) throws(Ext4Error) {
        let place = try place(of: number, volume)
        try handle.modify(try volume.cache.block(place.block)) { bytes throws(Ext4Error) in
            bytes.fill(place.bytes, with: 0)
        }
    }

    /// Whoever looks at one inode of a directory looks at its neighbours next: the table is read in large pieces.
    private static func readAhead(_ number: InodeNumber, _ volume: Volume) throws(Ext4Error) {
        guard let (group, index) = volume.layout.place(of: number) else { return }
        let descriptor = try volume.groups.descriptor(group)
        let window = UInt64(readAheadByteCount / volume.blockByteCount)
        let block = UInt64(index) * UInt64(volume.superBlock.inodeByteCount) / UInt64(volume.blockByteCount)
        let first = block / window * window
        let count = min(window, UInt64(volume.layout.inodeTableBlockCount) - first)
        volume.cache.prefetch(descriptor.inodeTable + first, count: Int(count))
    }
    private static let readAheadByteCount = 128 << 10

    private static func place(
        of number: InodeNumber, _ volume: Volume
    ) throws(Ext4Error) -> (block: FSBlock, bytes: Range<Int>) {
        guard let (group, index) = volume.layout.place(of: number) else {
            throw .corrupt("inode number", where: "\(number.rawValue) of \(volume.superBlock.inodeCount)")
        }
        let table = try volume.groups.descriptor(group).inodeTable
        let byte = Int(index) * volume.superBlock.inodeByteCount
        let start = byte % volume.blockByteCount
        return (
            table + UInt64(byte / volume.blockByteCount), start..<start + volume.superBlock.inodeByteCount
        )
    }

    /// A snapshot of the fields.
    var record: InodeRecord { state.withLock { $0.record } }

    /// One field of the record, without copying the rest.
    func field<R: Sendable>(_ path: (borrowing InodeRecord) -> R) -> R { state.withLock { path($0.record) } }

    /// Changes fields and writes them into the inode table through the handle. 1 credit. `isData` says that fdatasync
    /// must wait for this change: all but times.
    func update<R: Sendable>(
        in handle: borrowing Handle, _ volume: Volume, isData: Bool = true,
        _ body: (inout InodeRecord) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        let block = try volume.cache.block(place.block)
        let transaction = handle.transaction
        return try state.withLock { state throws(Ext4Error) in
            let result = try body(&state.record)
            state.record.roundTimes()
            try handle.modify(block) { bytes throws(Ext4Error) in
                var slot = bytes._mutatingExtracting(place.bytes)
                state.record.encode(into: &slot, checksum: volume.hasChecksums ? checksum : nil)
            }
            state.lastTransaction = transaction
            if isData { state.lastDataTransaction = transaction }
            return result
        }
    }

    /// The inode's slot in the table: `s_inode_size` bytes.
    func withSlot<R>(
        _ volume: Volume, _ body: (RawSpan) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        let block = try volume.cache.block(place.block)
        return try block.withBytes { bytes throws(Ext4Error) in try body(bytes.extracting(place.bytes)) }
    }

    /// Changes the bytes behind the fixed fields (extended attributes in the inode) and refreshes the checksum. 1
    /// credit.
    func modifySlot<R: Sendable>(
        in handle: borrowing Handle, _ volume: Volume, _ body: (inout MutableRawSpan) throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        let block = try volume.cache.block(place.block)
        let transaction = handle.transaction
        return try state.withLock { state throws(Ext4Error) in
            let result = try handle.modify(block) { bytes throws(Ext4Error) in
                var slot = bytes._mutatingExtracting(place.bytes)
                let result = try body(&slot)
                state.record.encode(into: &slot, checksum: volume.hasChecksums ? checksum : nil)
                return result
            }
            state.lastTransaction = transaction
            state.lastDataTransaction = transaction
            return result
        }
    }

    /// The transaction that fsync (or fdatasync) must see committed; nil when nothing changed since the inode was read.
    func lastTransaction(dataOnly: Bool) -> TransactionID? {
        state.withLock { dataOnly ? $0.lastDataTransaction : $0.lastTransaction }
    }

    /// Everything up to `transaction` is durable, and what changed the inode before it was read anew is among it.
    func noteDurable(_ transaction: TransactionID) {
        state.withLock {
            if $0.lastTransaction == nil { $0.lastTransaction = transaction }
            if $0.lastDataTransaction == nil { $0.lastDataTransaction = transaction }
        }
    }

    /// What changes blocks of the inode without touching its fields (a directory entry) calls this for fsync.
    func noteChange(in handle: borrowing Handle) {
        let transaction = handle.transaction
        state.withLock {
            $0.lastTransaction = transaction
            $0.lastDataTransaction = transaction
        }
    }

    /// The number has been freed: who still holds the object must not use it.
    var isDeleted: Bool { state.withLock { $0.isDeleted } }
    func markDeleted() { state.withLock { $0.isDeleted = true } }

    /// What is written to the file goes to it. Changed with the range lock of the whole file and the inode lock held.
    var batch: Batch? {
        get { state.withLock { $0.batch } }
        set { state.withLock { $0.batch = newValue } }
    }

    /// What a kernel that moves the data itself was promised; nil when it was nothing so far. The volume owns it.
    var delegation: Delegation? {
        get { state.withLock { $0.delegation } }
        set { state.withLock { $0.delegation = newValue } }
    }

    /// What its attribute says; nil until somebody has read it. Changed with the inode lock held.
    var outOfPlaceChoice: OutOfPlaceChoice? {
        get { state.withLock { $0.outOfPlaceChoice } }
        set { state.withLock { $0.outOfPlaceChoice = newValue } }
    }

    /// Of an append-only file: the bytes that it had when it was read or became one. Nothing else knows it.
    var fixedByteCount: UInt64 { state.withLock { $0.fixedByteCount } }
    var remembersItsEnd: Bool { field { $0.flags.contains(.appendOnly) } }
    func fixContent() { state.withLock { $0.fixedByteCount = $0.record.size } }

    var type: FileType? { FileType(mode: field { $0.mode }) }
    var isDirectory: Bool { type == .directory }
    /// Bytes, with what a batch has appended.
    var size: UInt64 { batch?.size ?? field { $0.size } }
    var hasExtents: Bool { field { $0.flags.contains(.extents) } }

    /// Its content lies inside of it: see `InlineData`. It never comes to be so again.
    var isInline: Bool { field { $0.flags.contains(.inlineData) } }

    /// Directory and symlink blocks have been in the journal: each is revoked when it is freed.
    var holdsMetadata: Bool { type != .regular }

    /// Whether `i_block` is a map, and neither the numbers of a device nor the target of a symlink.
    var hasMap: Bool {
        let record = record
        return record.flags.contains(.extents) && !record.flags.contains(.inlineData) || record.isBlockMapped
    }

    /// Whether directories made in it start neighbourhoods of their own: the root, and what chattr(1) says is like it.
    var holdsTopLevel: Bool { number == .root || field { $0.flags.contains(.topDirectory) } }

    /// EPERM for what chattr(1) has made immutable, or append-only unless the change only adds.
    func checkChangeable(adding: Bool = false) throws(Ext4Error) {
        let flags = field { $0.flags }
        if flags.contains(.immutable) || flags.contains(.appendOnly) && !adding { throw .posix(Errno.notPermitted) }
    }

    /// EBUSY for what would change the blocks of a file behind a batch.
    func requireNoBatch() throws(Ext4Error) {
        if batch != nil { throw .posix(Errno.busy) }
    }

    func requireDirectory() throws(Ext4Error) {
        guard isDirectory else { throw .posix(Errno.notDirectory) }
    }
}

extension Inode {
    func attributes(_ volume: Volume) -> Attributes {
        let record = record
        let isDevice = type == .characterDevice || type == .blockDevice
        let device = isDevice ? record.deviceNumbers : (0, 0)
        let units = record.flags.contains(.hugeFile) ? UInt64(volume.blockByteCount / 512) : 1
        return Attributes(
            inode: number, generation: generation, mode: record.mode, linkCount: UInt32(record.linkCount),
            uid: record.uid, gid: record.gid, size: size, sectorCount: record.blockCount &* units,
            access: record.access, modification: record.modification, change: record.change, creation: record.creation,
            deviceMajor: device.0, deviceMinor: device.1, flags: record.flags.rawValue)
    }
}

extension InodeRecord {
    /// Whether `i_block` holds the numbers of blocks.
    var isBlockMapped: Bool {
        guard flags.isDisjoint(with: [.extents, .inlineData]) else { return false }
        switch FileType(mode: mode) {
        case .directory, .regular: return true
        case .symlink: return !isFastSymlink
        default: return false
        }
    }

    /// Of a device node: the old 16-bit form in the first word of `i_block`, or the new 32-bit form in the second.
    var deviceNumbers: (major: UInt32, minor: UInt32) {
        let (old, new) = withArea { ($0[LE<UInt32>(0)], $0[LE<UInt32>(4)]) }
        if old != 0 { return (old >> 8 & 0xFF, old & 0xFF) }
        return (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)
    }

    mutating func setDevice(major: UInt32, minor: UInt32) {
        withMutableArea { area in
            if major < 256 && minor < 256 {
                area[LE<UInt32>(0)] = major << 8 | minor
            } else {
                area[LE<UInt32>(4)] = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
            }
        }
    }

    func withArea<R>(_ body: (RawSpan) throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        try body(unsafe blockArea.span.bytes)
    }
    func withArea<R>(_ body: (RawSpan) -> R) -> R { body(unsafe blockArea.span.bytes) }

    mutating func withMutableArea<R>(_ body: (inout MutableRawSpan) -> R) -> R {
        var span = blockArea.mutableSpan
        var bytes = unsafe span.mutableBytes
        return body(&bytes)
    }
}
