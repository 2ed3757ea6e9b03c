import BlockIO
import Ext4Format
import Synchronization
import Threads

/// Runs a closure once, just before the next write that is not to block 0 of the log: the moment in a commit when
/// another thread may act.
final class WriteSpy: BlockDevice {
    private let base: any BlockDevice
    private let pending = Mutex<(@Sendable () throws(Ext4Error) -> Void)?>(nil)

    init(_ base: any BlockDevice) { self.base = base }

    var once: (@Sendable () throws(Ext4Error) -> Void)? {
        get { pending.withLock { $0 } }
        set { pending.withLock { $0 = newValue } }
    }

    var byteCount: UInt64 { base.byteCount }
    var sectorByteCount: Int { base.sectorByteCount }
    var isReadOnly: Bool { false }

    func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try base.read(into: &bytes, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        let action = pending.withLock { pending in
            defer { pending = nil }
            return pending
        }
        try action?()
        try base.write(bytes, at: offset, mode: mode)
    }
    func flush() throws(Ext4Error) { try base.flush() }
}

/// A device whose flush takes a while, as a real one's does.
final class SlowDevice: BlockDevice {
    private let base: any BlockDevice
    private let flushMilliseconds: Int
    private let clock = Monitor(())

    init(_ base: any BlockDevice, flushMilliseconds: Int) {
        self.base = base
        self.flushMilliseconds = flushMilliseconds
    }

    var byteCount: UInt64 { base.byteCount }
    var sectorByteCount: Int { base.sectorByteCount }
    var isReadOnly: Bool { false }

    func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try base.read(into: &bytes, at: offset)
    }
    func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        try base.write(bytes, at: offset, mode: mode)
    }
    func flush() throws(Ext4Error) {
        _ = clock.wait(milliseconds: flushMilliseconds) { _ -> Bool? in nil }
        try base.flush()
    }
}
