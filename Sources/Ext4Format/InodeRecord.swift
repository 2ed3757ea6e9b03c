/// A time of an inode: seconds since 1970 in 34 bits (to 2446) and nanoseconds, with 256-byte inodes; else 32 bits.
package struct Timestamp: Equatable, Comparable, Hashable, Sendable {
    package var seconds: Int64
    /// 0 ..< 10^9
    package var nanoseconds: UInt32
    package init(seconds: Int64, nanoseconds: UInt32) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }
    package static func < (a: Self, b: Self) -> Bool {
        (a.seconds, a.nanoseconds) < (b.seconds, b.nanoseconds)
    }
    package static let zero = Self(seconds: 0, nanoseconds: 0)
}

/// `struct ext4_inode`, without the extended attributes that may follow it in its slot.
package struct InodeRecord: Sendable {
    /// Type and permissions, `S_IF*`.
    package var mode: UInt16
    package var uid: UInt32
    package var gid: UInt32
    /// Bytes.
    package var size: UInt64
    package var access: Timestamp
    package var change: Timestamp
    package var modification: Timestamp
    package var creation: Timestamp
    /// Deletion time; while an orphan is on the list, the number of the next one.
    package var deletionTime: UInt32
    package var linkCount: UInt16
    /// Units of 512 bytes, or of blocks with `.hugeFile`.
    package var blockCount: UInt64
    package var flags: Flags
    /// `i_block`: extent root, block map, device number or short symlink.
    package var blockArea: InlineArray<60, UInt8>
    package var generation: UInt32
    /// `i_file_acl`: the extended attribute block, 0 for none.
    package var attributeBlock: UInt64
    package var version: UInt64
    /// Bytes of the fields past 128 that are in use: `i_extra_isize`. 0 with 128-byte inodes.
    package var extraSize: UInt16
    package var project: UInt32

    /// Whether the slot has room for the project.
    package var hasProject: Bool { Layout.project.offset + 4 <= 128 + Int(extraSize) }

    package static let areaByteCount = 60

    /// `EXT4_*_FL`; to lsattr(1), chattr(1) and FS_IOC_GETFLAGS the same bits.
    package struct Flags: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static var sync: Self { Self(rawValue: 0x8) }
        package static var immutable: Self { Self(rawValue: 0x10) }
        package static var appendOnly: Self { Self(rawValue: 0x20) }
        package static var noDump: Self { Self(rawValue: 0x40) }
        package static var noAccessTime: Self { Self(rawValue: 0x80) }
        package static var encrypted: Self { Self(rawValue: 0x800) }
        /// The directory has a hash index: `EXT4_INDEX_FL`.
        package static var index: Self { Self(rawValue: 0x1000) }
        package static var journalData: Self { Self(rawValue: 0x4000) }
        package static var noTail: Self { Self(rawValue: 0x8000) }
        package static var directorySync: Self { Self(rawValue: 0x10000) }
        package static var topDirectory: Self { Self(rawValue: 0x20000) }
        package static var hugeFile: Self { Self(rawValue: 0x40000) }
        package static var extents: Self { Self(rawValue: 0x80000) }
        package static var verity: Self { Self(rawValue: 0x100000) }
        package static var attributeInode: Self { Self(rawValue: 0x200000) }
        package static var pastEnd: Self { Self(rawValue: 0x400000) }
        package static var directAccess: Self { Self(rawValue: 0x200_0000) }
        package static var inlineData: Self { Self(rawValue: 0x1000_0000) }
        package static var projectInherit: Self { Self(rawValue: 0x2000_0000) }
        package static var casefold: Self { Self(rawValue: 0x4000_0000) }

        /// What lsattr shows: `EXT4_FL_USER_VISIBLE`.
        package static var visible: Self { Self(rawValue: 0x725B_DFFF) }
        /// What chattr may name: `EXT4_FL_USER_MODIFIABLE`. The low eight bits are all of it: secure deletion,
        /// undeletion and compression are kept and do nothing.
        package static var modifiable: Self {
            [
                Self(rawValue: 0xFF), journalData, noTail, directorySync, topDirectory, extents, pastEnd, directAccess,
                projectInherit, casefold,
            ]
        }
    }

    enum Layout {
        static var mode: LE<UInt16> { LE(0x0) }
        static var uidLow: LE<UInt16> { LE(0x2) }
        static var sizeLow: LE<UInt32> { LE(0x4) }
        static var access: LE<UInt32> { LE(0x8) }
        static var change: LE<UInt32> { LE(0xC) }
        static var modification: LE<UInt32> { LE(0x10) }
        static var deletion: LE<UInt32> { LE(0x14) }
        static var gidLow: LE<UInt16> { LE(0x18) }
        static var links: LE<UInt16> { LE(0x1A) }
        static var blocksLow: LE<UInt32> { LE(0x1C) }
        static var flags: LE<UInt32> { LE(0x20) }
        static var versionLow: LE<UInt32> { LE(0x24) }
        static var area: Range<Int> { 0x28..<0x64 }
        static var generation: LE<UInt32> { LE(0x64) }
        static var attributeBlockLow: LE<UInt32> { LE(0x68) }
        static var sizeHigh: LE<UInt32> { LE(0x6C) }
        static var blocksHigh: LE<UInt16> { LE(0x74) }
        static var attributeBlockHigh: LE<UInt16> { LE(0x76) }
        static var uidHigh: LE<UInt16> { LE(0x78) }
        static var gidHigh: LE<UInt16> { LE(0x7A) }
        static var checksumLow: LE<UInt16> { LE(0x7C) }
        static var extraSize: LE<UInt16> { LE(0x80) }
        static var checksumHigh: LE<UInt16> { LE(0x82) }
        static var changeExtra: LE<UInt32> { LE(0x84) }
        static var modificationExtra: LE<UInt32> { LE(0x88) }
        static var accessExtra: LE<UInt32> { LE(0x8C) }
        static var creation: LE<UInt32> { LE(0x90) }
        static var creationExtra: LE<UInt32> { LE(0x94) }
        static var versionHigh: LE<UInt32> { LE(0x98) }
        static var project: LE<UInt32> { LE(0x9C) }
    }

    /// `bytes` is one whole slot of the inode table: `s_inode_size` bytes. Checks `i_extra_isize` and nothing else.
    package init(decoding bytes: RawSpan) throws(Ext4Error) {
        let extra = bytes.byteCount > 128 ? bytes[Layout.extraSize] : 0
        guard Int(extra) <= bytes.byteCount - 128, extra % 4 == 0 else {
            throw .corrupt("inode", where: "i_extra_isize \(extra)")
        }
        func has(_ field: LE<UInt32>) -> Bool { field.offset + 4 <= 128 + Int(extra) }
        func time(_ seconds: LE<UInt32>, _ more: LE<UInt32>) -> Timestamp {
            Self.time(Int32(bitPattern: bytes[seconds]), has(more) ? bytes[more] : 0)
        }
        extraSize = extra
        mode = bytes[Layout.mode]
        uid = UInt32(bytes[Layout.uidLow]) | UInt32(bytes[Layout.uidHigh]) << 16
        gid = UInt32(bytes[Layout.gidLow]) | UInt32(bytes[Layout.gidHigh]) << 16
        size = UInt64(bytes[Layout.sizeLow]) | UInt64(bytes[Layout.sizeHigh]) << 32
        access = time(Layout.access, Layout.accessExtra)
        change = time(Layout.change, Layout.changeExtra)
        modification = time(Layout.modification, Layout.modificationExtra)
        creation = has(Layout.creation) ? time(Layout.creation, Layout.creationExtra) : .zero
        deletionTime = bytes[Layout.deletion]
        linkCount = bytes[Layout.links]
        blockCount = UInt64(bytes[Layout.blocksLow]) | UInt64(bytes[Layout.blocksHigh]) << 32
        flags = Flags(rawValue: bytes[Layout.flags])
        blockArea = InlineArray { bytes[LE<UInt8>(Layout.area.lowerBound + $0)] }
        generation = bytes[Layout.generation]
        attributeBlock =
            UInt64(bytes[Layout.attributeBlockLow]) | UInt64(bytes[Layout.attributeBlockHigh]) << 32
        version =
            UInt64(bytes[Layout.versionLow])
            | (has(Layout.versionHigh) ? UInt64(bytes[Layout.versionHigh]) << 32 : 0)
        project = has(Layout.project) ? bytes[Layout.project] : 0
    }

    /// A new inode with nothing in it.
    package init(mode: UInt16, uid: UInt32, gid: UInt32, now: Timestamp, extraSize: UInt16, generation: UInt32) {
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.extraSize = extraSize
        self.generation = generation
        size = 0
        access = now
        change = now
        modification = now
        creation = now
        deletionTime = 0
        linkCount = 1
        blockCount = 0
        flags = []
        blockArea = InlineArray(repeating: 0)
        attributeBlock = 0
        version = 1
        project = 0
    }

    /// Writes every field that the slot has room for; what follows `extraSize` stays. Then the checksum, if there is
    /// one.
    package func encode(into bytes: inout MutableRawSpan, checksum: InodeChecksum?) {
        let extra = bytes.byteCount > 128 ? Int(extraSize) : 0
        func put(_ value: UInt32, _ field: LE<UInt32>) {
            if field.offset + 4 <= 128 + extra { bytes[field] = value }
        }
        func put(_ time: Timestamp, _ seconds: LE<UInt32>, _ more: LE<UInt32>) {
            let (low, high) = Self.encoded(time, isWide: more.offset + 4 <= 128 + extra)
            put(low, seconds)
            put(high, more)
        }
        bytes[Layout.mode] = mode
        bytes[Layout.uidLow] = UInt16(truncatingIfNeeded: uid)
        bytes[Layout.uidHigh] = UInt16(truncatingIfNeeded: uid >> 16)
        bytes[Layout.gidLow] = UInt16(truncatingIfNeeded: gid)
        bytes[Layout.gidHigh] = UInt16(truncatingIfNeeded: gid >> 16)
        bytes[Layout.sizeLow] = UInt32(truncatingIfNeeded: size)
        bytes[Layout.sizeHigh] = UInt32(truncatingIfNeeded: size >> 32)
        put(access, Layout.access, Layout.accessExtra)
        put(change, Layout.change, Layout.changeExtra)
        put(modification, Layout.modification, Layout.modificationExtra)
        put(creation, Layout.creation, Layout.creationExtra)
        bytes[Layout.deletion] = deletionTime
        bytes[Layout.links] = linkCount
        bytes[Layout.blocksLow] = UInt32(truncatingIfNeeded: blockCount)
        bytes[Layout.blocksHigh] = UInt16(truncatingIfNeeded: blockCount >> 32)
        bytes[Layout.flags] = flags.rawValue
        for index in 0..<Self.areaByteCount { bytes[LE<UInt8>(Layout.area.lowerBound + index)] = blockArea[index] }
        bytes[Layout.generation] = generation
        bytes[Layout.attributeBlockLow] = UInt32(truncatingIfNeeded: attributeBlock)
        bytes[Layout.attributeBlockHigh] = UInt16(truncatingIfNeeded: attributeBlock >> 32)
        bytes[Layout.versionLow] = UInt32(truncatingIfNeeded: version)
        put(UInt32(truncatingIfNeeded: version >> 32), Layout.versionHigh)
        put(project, Layout.project)
        if bytes.byteCount > 128 { bytes[Layout.extraSize] = extraSize }
        checksum?.update(&bytes)
    }

    /// Cuts times to what the slot can hold, so that memory never shows what a remount would not.
    package mutating func roundTimes() {
        func rounded(_ time: Timestamp, _ more: LE<UInt32>) -> Timestamp {
            let isWide = more.offset + 4 <= 128 + Int(extraSize)
            let (low, high) = Self.encoded(time, isWide: isWide)
            return Self.time(Int32(bitPattern: low), isWide ? high : 0)
        }
        access = rounded(access, Layout.accessExtra)
        change = rounded(change, Layout.changeExtra)
        modification = rounded(modification, Layout.modificationExtra)
    }

    /// The two low bits of the extra word extend the signed 32-bit seconds; the rest are nanoseconds.
    private static func time(_ seconds: Int32, _ extra: UInt32) -> Timestamp {
        Timestamp(seconds: Int64(seconds) + Int64(extra & 3) << 32, nanoseconds: min(extra >> 2, 999_999_999))
    }

    private static func encoded(_ time: Timestamp, isWide: Bool) -> (UInt32, UInt32) {
        let lowest = Int64(Int32.min), highest = isWide ? Int64(Int32.max) + 3 << 32 : Int64(Int32.max)
        let seconds = min(max(time.seconds, lowest), highest)
        // As in Linux, where the range ends so do the nanoseconds.
        let nanoseconds = seconds == lowest || seconds == highest ? 0 : time.nanoseconds
        let low = Int32(truncatingIfNeeded: seconds)
        let epoch = UInt32(truncatingIfNeeded: (seconds - Int64(low)) >> 32) & 3
        return (UInt32(bitPattern: low), epoch | nanoseconds << 2)
    }
}

/// The checksum of one inode (`i_checksum_lo`, `i_checksum_hi`), and the seed of what belongs to it: extent blocks,
/// directory blocks, orphan file blocks.
package struct InodeChecksum: Sendable {
    /// The volume's seed continued by inode number and generation.
    package let seed: UInt32

    package init(volumeSeed: UInt32, inode: InodeNumber, generation: UInt32) {
        var crc = CRC32C(seed: volumeSeed)
        crc.update(littleEndian: inode.rawValue)
        crc.update(littleEndian: generation)
        seed = crc.value
    }

    package func isRight(_ slot: RawSpan) -> Bool {
        let crc = value(of: slot)
        guard Self.hasHigh(slot) else { return slot[InodeRecord.Layout.checksumLow] == UInt16(truncatingIfNeeded: crc) }
        return UInt32(slot[InodeRecord.Layout.checksumLow]) | UInt32(slot[InodeRecord.Layout.checksumHigh]) << 16 == crc
    }

    package func update(_ slot: inout MutableRawSpan) {
        let (crc, hasHigh) = (value(of: slot.bytes), Self.hasHigh(slot.bytes))
        slot[InodeRecord.Layout.checksumLow] = UInt16(truncatingIfNeeded: crc)
        if hasHigh { slot[InodeRecord.Layout.checksumHigh] = UInt16(truncatingIfNeeded: crc >> 16) }
    }

    private static func hasHigh(_ slot: RawSpan) -> Bool {
        slot.byteCount > 128 && slot[InodeRecord.Layout.extraSize] >= 4
    }

    private func value(of slot: RawSpan) -> UInt32 {
        var crc = CRC32C(seed: seed)
        crc.update(slot.extracting(0..<0x7C))
        crc.update(littleEndian: UInt16(0))
        crc.update(slot.extracting(0x7E..<128))
        guard slot.byteCount > 128 else { return crc.value }
        crc.update(slot.extracting(128..<0x82))
        if Self.hasHigh(slot) {
            crc.update(littleEndian: UInt16(0))
            crc.update(slot.extracting(0x84..<slot.byteCount))
        } else {
            crc.update(slot.extracting(0x82..<slot.byteCount))
        }
        return crc.value
    }
}
