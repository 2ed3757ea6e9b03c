package import BlockIO
package import Ext4Format
internal import Glibc
internal import Synchronization

/// Writes a dm-log-writes log of what goes through a `RecordingDevice`, as the kernel's log-writes target would.
///
/// A completed write waits in memory until a flush that was submitted after its completion has completed; then it is
/// logged, in order of completion, before the flush. A write through to the medium is logged at once, behind those
/// waiting writes that it overlaps: so that a replay never ends with the older bytes. Failed requests are not logged.
///
/// An error of the log file ends the recording and nothing else; `close` reports it. Calls may come from many threads.
package final class WriteLogWriter: DeviceRecorder {
    private struct State {
        var isOpen = true
        var failure: Ext4Error?
        var entryCount: UInt64 = 0
        /// Where the next entry goes, in bytes.
        var end: UInt64
        var nextTicket: UInt64 = 0
        var inFlight: [UInt64: DeviceRequest] = [:]
        /// What a flush in flight will make durable, by its ticket.
        var covered: [UInt64: [DeviceRequest]] = [:]
        /// Completed and not flushed, in order of completion.
        var unflushed: [DeviceRequest] = []
    }

    private let descriptor: CInt
    private let claim: ImageClaim
    private let sectorByteCount: Int
    private let state: Mutex<State>

    /// Creates or empties the file at `path`, or takes the block device. `.refused` when it is in use as an image or as
    /// another log, by anybody; it is then as it was. `sectorByteCount` is that of the recorded device.
    package init(path: String, sectorByteCount: Int) throws(Ext4Error) {
        precondition(WriteLogFormat.sectorByteCounts.contains(sectorByteCount))
        descriptor = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw .refused("cannot open \(path): \(systemText(errno))") }
        do throws(Ext4Error) {
            claim = try ImageClaim(path, readOnly: false, lockFile: nil, keepsMountsOff: true)
        } catch {
            Glibc.close(descriptor)
            throw error
        }
        self.sectorByteCount = sectorByteCount
        state = Mutex(State(end: UInt64(sectorByteCount)))
        guard claim.isBlockDevice || ftruncate(descriptor, 0) == 0 else {
            throw .refused("cannot empty \(path): \(systemText(errno))")
        }
        try state.withLock { state throws(Ext4Error) in try writeSuper(state.entryCount) }
    }

    deinit {
        claim.release()
        Glibc.close(descriptor)
    }

    package func submitted(_ request: DeviceRequest) -> UInt64 {
        state.withLock { state in
            let ticket = state.nextTicket
            state.nextTicket += 1
            guard state.isOpen else { return ticket }
            state.inFlight[ticket] = request
            if case .flush = request {
                state.covered[ticket] = state.unflushed
                state.unflushed = []
            }
            return ticket
        }
    }

    package func completed(_ ticket: UInt64, succeeded: Bool) {
        state.withLock { state in
            guard let request = state.inFlight.removeValue(forKey: ticket), state.isOpen else { return }
            switch request {
            case .flush:
                let covered = state.covered.removeValue(forKey: ticket) ?? []
                guard succeeded else {
                    state.unflushed = covered + state.unflushed
                    return
                }
                record(&state) { state throws(Ext4Error) in
                    for request in covered { try log(request, &state) }
                    try log(.flush, &state)
                }
            case .write(let offset, let bytes, .throughToMedia):
                guard succeeded else { return }
                record(&state) { state throws(Ext4Error) in
                    for older in Self.take(overlapping: offset..<offset + UInt64(bytes.count), from: &state) {
                        try log(older, &state)
                    }
                    try log(request, &state)
                    try writeSuper(state.entryCount)
                }
            case .write, .discard:
                if succeeded { state.unflushed.append(request) }
            }
        }
    }

    package func marked(_ label: String) {
        state.withLock { state in
            guard state.isOpen else { return }
            record(&state) { state throws(Ext4Error) in try logMark(label, &state) }
        }
    }

    /// Logs a request at once, as it is.
    func submit(_ request: DeviceRequest) {
        state.withLock { state in
            guard state.isOpen else { return }
            record(&state) { state throws(Ext4Error) in try log(request, &state) }
        }
    }

    /// Logs what was never flushed and the end mark. Throws the first error of the log file, once and later again.
    package func close() throws(Ext4Error) {
        try state.withLock { state throws(Ext4Error) in
            if state.isOpen {
                record(&state) { state throws(Ext4Error) in
                    for (_, covered) in state.covered.sorted(by: { $0.key < $1.key }) {
                        for request in covered { try log(request, &state) }
                    }
                    for request in state.unflushed { try log(request, &state) }
                    try logMark(WriteLogFormat.endLabel, &state)
                    guard fsync(descriptor) == 0 else {
                        throw .io(errno: errno, operation: "fsync of the write log", offset: 0, count: 0)
                    }
                }
                state.isOpen = false
            }
            if let failure = state.failure { throw failure }
        }
    }

    // MARK: - Under the lock

    /// Runs `body`; its error ends the recording.
    private func record(_ state: inout State, _ body: (inout State) throws(Ext4Error) -> Void) {
        do throws(Ext4Error) {
            try body(&state)
        } catch {
            state.failure = error
            state.isOpen = false
            state.unflushed = []
            state.covered = [:]
        }
    }

    /// Takes out the waiting requests that share bytes with `range`, and those that share bytes with a later one taken:
    /// the order among them decides what a replay leaves.
    private static func take(overlapping range: Range<UInt64>, from state: inout State) -> [DeviceRequest] {
        var ranges = [range]
        var taken: [DeviceRequest] = []
        func sift(_ requests: inout [DeviceRequest]) {
            var left: [DeviceRequest] = []
            for request in requests.reversed() {
                let own = request.range
                if ranges.contains(where: { $0.overlaps(own) }) {
                    ranges.append(own)
                    taken.append(request)
                } else {
                    left.append(request)
                }
            }
            requests = left.reversed()
        }
        sift(&state.unflushed)
        // What a flush in flight covers completed before all that is still without one.
        for ticket in state.covered.keys.sorted(by: >) { sift(&state.covered[ticket, default: []]) }
        return taken.reversed()
    }

    private func log(_ request: DeviceRequest, _ state: inout State) throws(Ext4Error) {
        switch request {
        case .flush:
            try append(.flush, &state)
        case .discard(let offset, let count):
            guard count > 0 else { return }
            try append(.discard, at: offset, byteCount: count, &state)
        case .write(let offset, let bytes, let mode):
            guard !bytes.isEmpty else { return }
            let flags: WriteLogFlags = mode == .throughToMedia ? .throughToMedia : []
            try append(flags, at: offset, byteCount: UInt64(bytes.count), payload: bytes, &state)
        }
    }

    private func logMark(_ label: String, _ state: inout State) throws(Ext4Error) {
        let bytes = label.utf8.prefix { $0 != 0 }.prefix(WriteLogFormat.labelLimit(sectorByteCount))
        try append(.mark, label: Array(bytes), &state)
        try writeSuper(state.entryCount)
    }

    private func append(
        _ flags: WriteLogFlags, at offset: UInt64 = 0, byteCount: UInt64 = 0, payload: [UInt8] = [],
        label: [UInt8] = [], _ state: inout State
    ) throws(Ext4Error) {
        var header = [UInt8](repeating: 0, count: sectorByteCount)
        do {
            var span = header.mutableSpan
            var raw = unsafe span.mutableBytes
            raw[WriteLogFormat.Header.sector] = offset / UInt64(sectorByteCount)
            raw[WriteLogFormat.Header.sectorCount] = byteCount / UInt64(sectorByteCount)
            raw[WriteLogFormat.Header.flags] = flags.rawValue
            raw[WriteLogFormat.Header.labelByteCount] = UInt64(label.count)
            raw.copy(label, at: WriteLogFormat.Header.label)
        }
        try put(header, at: state.end)
        try put(payload, at: state.end + UInt64(sectorByteCount))
        state.end += UInt64(sectorByteCount + payload.count)
        state.entryCount += 1
    }

    private func writeSuper(_ entryCount: UInt64) throws(Ext4Error) {
        var sector = [UInt8](repeating: 0, count: sectorByteCount)
        do {
            var span = sector.mutableSpan
            var raw = unsafe span.mutableBytes
            raw[WriteLogFormat.Super.magic] = WriteLogFormat.magic
            raw[WriteLogFormat.Super.version] = WriteLogFormat.version
            raw[WriteLogFormat.Super.entryCount] = entryCount
            raw[WriteLogFormat.Super.sectorByteCount] = UInt32(sectorByteCount)
        }
        try put(sector, at: 0)
    }

    private func put(_ bytes: [UInt8], at offset: UInt64) throws(Ext4Error) {
        try unsafe bytes.span.bytes.withUnsafeBytes { memory throws(Ext4Error) in
            guard let base = memory.baseAddress else { return }
            var done = 0
            while done < memory.count {
                let result = unsafe pwrite(descriptor, base + done, memory.count - done, off_t(offset) + off_t(done))
                if result < 0 && errno == EINTR { continue }
                guard result > 0 else {
                    let code = result < 0 ? errno : EIO
                    throw .io(errno: code, operation: "write of the log", offset: offset, count: memory.count)
                }
                done += result
            }
        }
    }
}

extension DeviceRequest {
    /// The bytes of the device that the request may change; empty for a flush.
    package var range: Range<UInt64> {
        switch self {
        case .flush: 0..<0
        case .write(let offset, let bytes, _): offset..<offset + UInt64(bytes.count)
        case .discard(let offset, let count): offset..<offset + count
        }
    }
}
