package import Ext4Format
internal import Synchronization

/// A device that fails where a test says so: the n-th read, write or flush, once or from then on.
package final class FaultyDevice: BlockDevice {
    package enum Operation: Hashable, Sendable { case read, write, flush, discard }

    package struct Fault: Sendable {
        package var operation: Operation
        /// Which of the matching requests fails, from 1, counted from when the fault was armed.
        package var ordinal: Int
        /// Whether every later matching request fails as well.
        package var isPersistent: Bool
        /// Only requests that touch these bytes match; nil: all. Flushes touch no byte and match only nil.
        package var range: Range<UInt64>?
        /// EIO unless told otherwise.
        package var errno: Int32
        /// How many bytes of a failing write reach the device all the same; a multiple of the sector size.
        package var tornByteCount: Int

        package init(
            _ operation: Operation, ordinal: Int, isPersistent: Bool = false, range: Range<UInt64>? = nil,
            errno: Int32 = 5, tornByteCount: Int = 0
        ) {
            precondition(ordinal >= 1 && tornByteCount >= 0)
            self.operation = operation
            self.ordinal = ordinal
            self.isPersistent = isPersistent
            self.range = range
            self.errno = errno
            self.tornByteCount = tornByteCount
        }
    }

    private struct State {
        var armed: [(fault: Fault, seen: Int)] = []
        var requests: [Operation: Int] = [:]
        var failures = 0
    }

    private let base: any BlockDevice
    private let state: Mutex<State>

    package var byteCount: UInt64 { base.byteCount }
    package var sectorByteCount: Int { base.sectorByteCount }
    package var isReadOnly: Bool { base.isReadOnly }

    package init(_ base: any BlockDevice, faults: [Fault] = []) {
        self.base = base
        state = Mutex(State(armed: faults.map { ($0, 0) }))
    }

    package func arm(_ fault: Fault) { state.withLock { $0.armed.append((fault, 0)) } }

    /// From now on nothing fails.
    package func disarm() { state.withLock { $0.armed.removeAll() } }

    /// How many requests of this kind came, failed ones included. A gathered write is one request.
    package func requestCount(_ operation: Operation) -> Int { state.withLock { $0.requests[operation] ?? 0 } }

    /// How many requests were failed on purpose.
    package var failureCount: Int { state.withLock { $0.failures } }

    /// Counts the request; the fault that it meets, if any.
    private func meet(_ operation: Operation, _ range: Range<UInt64>?) -> Fault? {
        state.withLock { state in
            state.requests[operation, default: 0] += 1
            var met: Fault?
            for index in state.armed.indices {
                let fault = state.armed[index].fault
                guard fault.operation == operation else { continue }
                if let wanted = fault.range {
                    guard let range, range.overlaps(wanted) else { continue }
                }
                state.armed[index].seen += 1
                let seen = state.armed[index].seen
                if seen == fault.ordinal || fault.isPersistent && seen > fault.ordinal { met = met ?? fault }
            }
            if met != nil { state.failures += 1 }
            return met
        }
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try checkRange("read", at: offset, count: bytes.byteCount)
        if let fault = meet(.read, offset..<offset + UInt64(bytes.byteCount)) {
            throw .io(errno: fault.errno, operation: "read", offset: offset, count: bytes.byteCount)
        }
        try base.read(into: &bytes, at: offset)
    }

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try checkRange("write", at: offset, count: bytes.byteCount)
        if let fault = meet(.write, offset..<offset + UInt64(bytes.byteCount)) {
            let landed = min(fault.tornByteCount, bytes.byteCount)
            if landed > 0 { try base.write(bytes.extracting(first: landed), at: offset, mode: .cached) }
            throw .io(errno: fault.errno, operation: "write", offset: offset, count: bytes.byteCount)
        }
        try base.write(bytes, at: offset, mode: mode)
    }

    package func write(gathering parts: [BufferPart], at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        let count = parts.reduce(0) { $0 + $1.byteCount }
        try checkRange("write", at: offset, count: count)
        if let fault = meet(.write, offset..<offset + UInt64(count)) {
            try writeTorn(parts, at: offset, limit: fault.tornByteCount)
            throw .io(errno: fault.errno, operation: "write", offset: offset, count: count)
        }
        try base.write(gathering: parts, at: offset, mode: mode)
    }

    private func writeTorn(_ parts: [BufferPart], at offset: UInt64, limit: Int) throws(Ext4Error) {
        var left = limit
        var position = offset
        for part in parts where left > 0 {
            let landed = min(left, part.byteCount)
            try part.withBytes { bytes throws(Ext4Error) in
                try base.write(bytes.extracting(first: landed), at: position, mode: .cached)
            }
            left -= landed
            position += UInt64(landed)
        }
    }

    package func flush() throws(Ext4Error) {
        if let fault = meet(.flush, nil) { throw .io(errno: fault.errno, operation: "flush", offset: 0, count: 0) }
        try base.flush()
    }

    package func discard(at offset: UInt64, count: UInt64) throws(Ext4Error) {
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard !overflow else { throw .io(errno: 22, operation: "discard", offset: offset, count: 0) }
        if let fault = meet(.discard, offset..<end) {
            throw .io(
                errno: fault.errno, operation: "discard", offset: offset, count: Int(truncatingIfNeeded: count))
        }
        try base.discard(at: offset, count: count)
    }

    package func mark(_ label: String) { base.mark(label) }
}
