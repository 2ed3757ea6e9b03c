package import Ext4Format

/// One request that changes a device, as its caller asked for it.
package enum DeviceRequest: Sendable {
    /// `offset` and the count of `bytes` are whole sectors. The bytes are those at submission.
    case write(offset: UInt64, bytes: [UInt8], mode: WriteMode)
    case flush
    case discard(offset: UInt64, count: UInt64)
}

/// Who hears of every change of a `RecordingDevice`. Calls come from many threads at once.
package protocol DeviceRecorder: AnyObject, Sendable {
    /// The request is about to go to the device. What is answered names it in `completed`.
    func submitted(_ request: DeviceRequest) -> UInt64
    /// The device has answered, and the caller does not know it yet.
    func completed(_ ticket: UInt64, succeeded: Bool)
    func marked(_ label: String)
}

/// Passes everything on, and tells a recorder what was asked for and what came of it.
///
/// Each write is reported as the caller made it: a gathered write is one request. What is reported is what the caller
/// asked for, not what the device below made of it: a flush is a flush even where the device has no cache.
package final class RecordingDevice: BlockDevice {
    private let base: any BlockDevice
    private let recorder: any DeviceRecorder

    package var byteCount: UInt64 { base.byteCount }
    package var sectorByteCount: Int { base.sectorByteCount }
    package var isReadOnly: Bool { base.isReadOnly }

    package init(_ base: any BlockDevice, recorder: any DeviceRecorder) {
        self.base = base
        self.recorder = recorder
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try base.read(into: &bytes, at: offset)
    }

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try checkRange("write", at: offset, count: bytes.byteCount)
        let copy = bytes.array(0..<bytes.byteCount)
        try report(.write(offset: offset, bytes: copy, mode: mode)) { () throws(Ext4Error) in
            try base.write(bytes, at: offset, mode: mode)
        }
    }

    package func write(gathering parts: [BufferPart], at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        let count = parts.reduce(0) { $0 + $1.byteCount }
        try checkRange("write", at: offset, count: count)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        for part in parts { bytes += part.withBytes { $0.array(0..<part.byteCount) } }
        try report(.write(offset: offset, bytes: bytes, mode: mode)) { () throws(Ext4Error) in
            try base.write(gathering: parts, at: offset, mode: mode)
        }
    }

    package func flush() throws(Ext4Error) {
        try report(.flush) { () throws(Ext4Error) in try base.flush() }
    }

    package func discard(at offset: UInt64, count: UInt64) throws(Ext4Error) {
        let sector = UInt64(sectorByteCount)
        guard count <= byteCount, offset <= byteCount - count, offset % sector == 0, count % sector == 0 else {
            throw .io(errno: 22, operation: "discard", offset: offset, count: Int(truncatingIfNeeded: count))
        }
        try report(.discard(offset: offset, count: count)) { () throws(Ext4Error) in
            try base.discard(at: offset, count: count)
        }
    }

    private func report(_ request: DeviceRequest, _ perform: () throws(Ext4Error) -> Void) throws(Ext4Error) {
        let ticket = recorder.submitted(request)
        do throws(Ext4Error) {
            try perform()
        } catch {
            recorder.completed(ticket, succeeded: false)
            throw error
        }
        recorder.completed(ticket, succeeded: true)
    }

    package func mark(_ label: String) {
        recorder.marked(label)
        base.mark(label)
    }
}
