/// What a volume remembers of its errors: how many there were, the first and the last of them (`struct
/// ext4_super_block` from `s_error_count` at 0x194 on; kernel doc: ext4, "The Super Block").
package struct VolumeErrors: Equatable, Sendable {
    /// `s_first_error_errcode` and `s_last_error_errcode`: ext4's own numbers, the same on every machine.
    package struct Code: RawRepresentable, Hashable, Sendable {
        package let rawValue: UInt8
        package init(rawValue: UInt8) { self.rawValue = rawValue }
        package static var none: Self { Self(rawValue: 0) }
        package static var unknown: Self { Self(rawValue: 1) }
        package static var io: Self { Self(rawValue: 2) }
        package static var badChecksum: Self { Self(rawValue: 4) }
        package static var corrupted: Self { Self(rawValue: 5) }
    }

    package struct Event: Equatable, Sendable {
        /// Seconds since 1970; 40 bits are kept.
        package var seconds: UInt64
        /// 0 when no inode is known to be concerned.
        package var inode: UInt32
        /// 0 when no block is.
        package var block: UInt64
        /// Where it was met: 31 bytes are kept, of the last error 27.
        package var function: String
        package var line: UInt32
        package var code: Code

        package init(
            seconds: UInt64, inode: UInt32 = 0, block: UInt64 = 0, function: String, line: UInt32 = 0, code: Code
        ) {
            self.seconds = seconds
            self.inode = inode
            self.block = block
            self.function = function
            self.line = line
            self.code = code
        }
    }

    /// `s_error_count`: since the last full check.
    package var count: UInt32 = 0
    package var first: Event?
    package var last: Event?

    package init() {}

    package mutating func add(_ event: Event) {
        // A count that wraps would say that all is well.
        if count < .max { count += 1 }
        first = first ?? event
        last = event
    }

    /// Where the parts of one record lie.
    private struct Place {
        let seconds: LE<UInt32>, secondsHigh: LE<UInt8>, inode: LE<UInt32>, block: LE<UInt64>, line: LE<UInt32>
        let code: LE<UInt8>
        /// A NUL follows.
        let function: Range<Int>
    }
    private enum Layout {
        static var count: LE<UInt32> { LE(0x194) }
        static var first: Place {
            Place(
                seconds: LE(0x198), secondsHigh: LE(0x278), inode: LE(0x19C), block: LE(0x1A0), line: LE(0x1C8),
                code: LE(0x27A), function: 0x1A8..<0x1C7)
        }
        static var last: Place {
            Place(
                seconds: LE(0x1CC), secondsHigh: LE(0x279), inode: LE(0x1D0), block: LE(0x1D8), line: LE(0x1D4),
                code: LE(0x27B), function: 0x1E0..<0x1FB)
        }
        /// The end of the last name's field: behind its NUL nobody reads it.
        static var seal: LE<UInt32> { LE(0x1FC) }
        /// The sector that ends with the seal, and the one that ends with the checksum.
        static var half: Int { 512 }
    }

    /// `bytes` are the 1,024 of a super block. A record without a time is none.
    package init(decoding bytes: RawSpan) {
        count = bytes[Layout.count]
        first = Self.event(bytes, Layout.first)
        last = Self.event(bytes, Layout.last)
    }

    private static func event(_ bytes: RawSpan, _ place: Place) -> Event? {
        let seconds = UInt64(bytes[place.seconds]) | UInt64(bytes[place.secondsHigh]) << 32
        guard seconds != 0 else { return nil }
        let name = bytes.array(place.function).prefix { $0 != 0 }
        return Event(
            seconds: seconds, inode: bytes[place.inode], block: bytes[place.block],
            function: String(decoding: name, as: UTF8.self), line: bytes[place.line],
            code: Code(rawValue: bytes[place.code]))
    }

    /// Writes the records, and the error flag of `s_state` when there are any. The checksum is the caller's matter.
    package func encode(into bytes: inout MutableRawSpan) {
        bytes[Layout.count] = count
        if let first { Self.put(first, Layout.first, &bytes) }
        if let last { Self.put(last, Layout.last, &bytes) }
        if count > 0 { Self.raiseFlag(in: &bytes) }
    }

    /// Sets `EXT4_ERROR_FS`: the next e2fsck makes a full check.
    package static func raiseFlag(in bytes: inout MutableRawSpan) {
        bytes[SuperBlock.Layout.state] |= SuperBlock.State.hasErrors.rawValue
    }

    private static func put(_ event: Event, _ place: Place, _ bytes: inout MutableRawSpan) {
        bytes[place.seconds] = UInt32(truncatingIfNeeded: event.seconds)
        bytes[place.secondsHigh] = UInt8(truncatingIfNeeded: event.seconds >> 32)
        bytes[place.inode] = event.inode
        bytes[place.block] = event.block
        bytes[place.line] = event.line
        bytes[place.code] = event.code.rawValue
        bytes.fill(place.function.lowerBound..<place.function.upperBound + 1, with: 0)
        bytes.copy(Array(event.function.utf8.prefix(place.function.count)), at: place.function.lowerBound)
    }

    // MARK: Outside of the journal

    /// The two sectors of a super block, as ranges of its bytes.
    package static var sectors: (first: Range<Int>, second: Range<Int>) {
        (0..<Layout.half, Layout.half..<SuperBlock.byteCount)
    }

    // A super block written in place gets the records in two writes, of one sector each: after each the whole has a
    // right checksum, so that a power cut finds the old, the middle or the new, and never a torn one. All but the codes
    // and the high bits of the times lies in the first sector, the checksum in the second.

    /// The first write: changes the first sector alone. The checksum stays what it is, as the last four bytes of the
    /// sector make up for what has changed.
    package func encodeFirstSector(into bytes: inout MutableRawSpan, hasChecksum: Bool) {
        encode(into: &bytes, keeping: Self.sectors.second)
        guard hasChecksum else { return }
        let seal = Self.seal(bytes.bytes)
        bytes[Layout.seal] = seal
    }

    /// What makes the checksum of the super block come out as its last field says.
    private static func seal(_ bytes: RawSpan) -> UInt32 {
        let behind = bytes.extracting(Layout.half..<SuperBlock.checksumOffset)
        let wanted = CRC32C.rewind(bytes[LE<UInt32>(SuperBlock.checksumOffset)], over: behind)
        let before = CRC32C.of(bytes.extracting(0..<Layout.seal.offset))
        return CRC32C.word(from: before, to: wanted)
    }

    /// The second write: changes the second sector alone, and brings the checksum of both.
    package func encodeSecondSector(into bytes: inout MutableRawSpan, hasChecksum: Bool) {
        encode(into: &bytes, keeping: Self.sectors.first)
        if hasChecksum { SuperBlock.updateChecksum(&bytes) }
    }

    private func encode(into bytes: inout MutableRawSpan, keeping range: Range<Int>) {
        let kept = bytes.bytes.array(range)
        encode(into: &bytes)
        bytes.copy(kept, at: range.lowerBound)
    }
}
