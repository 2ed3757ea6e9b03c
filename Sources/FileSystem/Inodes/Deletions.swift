internal import Ext4Format
internal import Synchronization
internal import Threads

/// The room of what has lost its last name comes back when the last reference goes. A kernel gives references back a
/// moment after the call that removed the name, unasked: who finds no room meanwhile waits for that.
final class Deletions: Sendable {
    private struct State {
        var doneCount: UInt64 = 0
        /// When a name was last removed whose inode somebody still referred to.
        var lastExpected: UInt64?
    }
    private let state = Monitor(State())
    private let isAwaited: Bool

    /// A kernel is seldom later than that; what stays open stays for long.
    private static let patienceMilliseconds = 50
    private static let tryLimit = 8

    /// `isAwaited`: somebody else gives references back, while a call waits here.
    init(isAwaited: Bool) { self.isAwaited = isAwaited }

    func expectOne() {
        guard isAwaited else { return }
        state.withLock { $0.lastExpected = monotonicNanoseconds() }
    }

    func noteOne() {
        guard isAwaited else { return }
        state.withLock { $0.doneCount += 1 }
        state.notifyAll()
    }

    /// Repeats `body` as long as it says ENOSPC and something is deleted meanwhile. No handle may be open.
    func retry<R>(_ body: () throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        for _ in 0..<Self.tryLimit {
            let before = state.withLock { $0.doneCount }
            do throws(Ext4Error) { return try body() } catch {
                guard case .posix(Errno.noSpace) = error, hasMore(than: before) else { throw error }
            }
        }
        return try body()
    }

    /// Whether more has been deleted, or is within a moment.
    private func hasMore(than count: UInt64) -> Bool {
        let patience = UInt64(Self.patienceMilliseconds) * 1_000_000
        let mayCome = state.withLock { state in
            state.lastExpected.map { monotonicNanoseconds() - $0 < 2 * patience } ?? false
        }
        guard isAwaited, mayCome else { return false }
        return state.wait(milliseconds: Self.patienceMilliseconds) { $0.doneCount > count ? true : nil } ?? false
    }
}
