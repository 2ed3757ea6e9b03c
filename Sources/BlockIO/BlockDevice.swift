package import Ext4Format

/// What a write must have reached when it returns.
package enum WriteMode: Sendable {
    /// Accepted by the device; durable after the next flush.
    case cached
    /// Durable itself (FUA). Says nothing about earlier writes.
    case throughToMedia
}

/// A range of addressable bytes with the promises of a disk.
///
/// All calls may come from many threads. Offsets and counts are bytes and multiples of `sectorByteCount`; a range past
/// the end is `Ext4Error.io` with EINVAL and touches nothing. A write is complete (visible to reads) when it returns
/// and durable as `WriteMode` says. A flush makes durable every write that completed before the flush was called.
package protocol BlockDevice: AnyObject, Sendable {
    var byteCount: UInt64 { get }
    /// The unit of transfer: 512 or 4096.
    var sectorByteCount: Int { get }
    var isReadOnly: Bool { get }
    func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error)
    func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error)
    /// Writes the parts one behind the other in one transfer where the device can. Each is whole sectors.
    func write(gathering parts: [BufferPart], at offset: UInt64, mode: WriteMode) throws(Ext4Error)
    func flush() throws(Ext4Error)
    /// A hint that the range is not in use; what it reads afterwards is undefined. Devices without discard ignore it.
    func discard(at offset: UInt64, count: UInt64) throws(Ext4Error)
    /// Whether a read of the range is a mere copy in memory, as far as is known.
    func isAtHand(at offset: UInt64, count: Int) -> Bool
    /// A note in the log of a recording device; nothing anywhere else.
    func mark(_ label: String)
}

extension BlockDevice {
    package func read(into buffer: AlignedBuffer, at offset: UInt64) throws(Ext4Error) {
        try buffer.withMutableBytes { bytes throws(Ext4Error) in try read(into: &bytes, at: offset) }
    }
    package func write(_ buffer: AlignedBuffer, at offset: UInt64, mode: WriteMode = .cached) throws(Ext4Error) {
        try buffer.withBytes { bytes throws(Ext4Error) in try write(bytes, at: offset, mode: mode) }
    }
    package func write(gathering parts: [BufferPart], at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        var position = offset
        for part in parts {
            try part.withBytes { bytes throws(Ext4Error) in try write(bytes, at: position, mode: mode) }
            position += UInt64(part.byteCount)
        }
    }
    package func discard(at offset: UInt64, count: UInt64) throws(Ext4Error) {}
    package func isAtHand(at offset: UInt64, count: Int) -> Bool { false }
    package func mark(_ label: String) {}

    /// `.refused` when blocks of `blockByteCount`, a power of two, are no whole sectors: they could not be written.
    package func checkBlocks(of blockByteCount: Int) throws(Ext4Error) {
        guard blockByteCount % sectorByteCount == 0 else {
            throw .refused(
                "blocks of \(blockByteCount) bytes cannot be written to a device with sectors of \(sectorByteCount)")
        }
    }

    /// The check that every device makes before it transfers.
    package func checkRange(_ operation: String, at offset: UInt64, count: Int) throws(Ext4Error) {
        let sector = UInt64(sectorByteCount)
        let (end, overflow) = offset.addingReportingOverflow(UInt64(count))
        guard !overflow, end <= byteCount, offset % sector == 0, UInt64(count) % sector == 0 else {
            throw .io(errno: 22, operation: operation, offset: offset, count: count)
        }
    }
}
