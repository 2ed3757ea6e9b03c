package import BlockIO
package import Ext4Format
package import Threads

/// A device whose transfers take their time: before and after each the scheduler may let other threads go on.
///
/// Below a `RecordingDevice` it brings several requests into flight at once.
package final class ScheduledDevice: BlockDevice {
    private let base: any BlockDevice
    private let scheduler: any Scheduler
    private let turns: Int

    package var byteCount: UInt64 { base.byteCount }
    package var sectorByteCount: Int { base.sectorByteCount }
    package var isReadOnly: Bool { base.isReadOnly }

    /// `scheduler` is that of the threads that use the device. So many `turns` it has before and after each transfer:
    /// the more, the further others get meanwhile.
    package init(_ base: any BlockDevice, scheduler: any Scheduler, turns: Int = 1) {
        self.base = base
        self.scheduler = scheduler
        self.turns = turns
    }

    private func pass() {
        for _ in 0..<turns { scheduler.yield() }
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        pass()
        defer { pass() }
        try base.read(into: &bytes, at: offset)
    }

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        pass()
        defer { pass() }
        try base.write(bytes, at: offset, mode: mode)
    }

    package func write(gathering parts: [BufferPart], at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        pass()
        defer { pass() }
        try base.write(gathering: parts, at: offset, mode: mode)
    }

    package func flush() throws(Ext4Error) {
        pass()
        defer { pass() }
        try base.flush()
    }

    package func discard(at offset: UInt64, count: UInt64) throws(Ext4Error) {
        pass()
        defer { pass() }
        try base.discard(at: offset, count: count)
    }

    package func mark(_ label: String) { base.mark(label) }
}
