internal import BlockIO
internal import Ext4Format
internal import Threads

/// One device flush for all who ask while another is under way.
///
/// A flush covers only what was complete before it began, so whoever comes during one waits for the next.
final class SharedFlush: Sendable {
    private struct State {
        var begun: UInt64 = 0
        var finished: UInt64 = 0
        var failure: Ext4Error?
    }
    private let device: any BlockDevice
    private let state = Monitor(State())

    init(device: any BlockDevice) { self.device = device }

    /// Returns when a flush that began after this call has succeeded. A failure stays: what it was to cover is lost.
    func flush() throws(Ext4Error) {
        let wanted = state.withLock { $0.begun + 1 }
        let isLeader = try state.wait { state throws(Ext4Error) in
            if let failure = state.failure { throw failure }
            if state.finished >= wanted { return false }
            guard state.begun == state.finished else { return nil }
            state.begun += 1
            return true
        }
        guard isLeader else { return }
        var failure: Ext4Error?
        do throws(Ext4Error) {
            try device.flush()
        } catch {
            failure = error
        }
        state.withLock { state in
            state.finished = state.begun
            state.failure = failure
        }
        state.notifyAll()
        if let failure { throw failure }
    }
}
