package import Ext4Format
internal import Threads

/// Free blocks that are kept for the next writes of a growing file, so that files which grow side by side do not share
/// out the volume block by block.
///
/// A window is a preference and no promise: its blocks are missing from the in-core map, but every count still has them
/// as free, and when nothing else is left all windows are given back. So ENOSPC does not know of them.
struct FileWindows: Sendable {
    struct Window {
        /// The block of the file that the first block of the run is for.
        var next: UInt64
        var run: BlockRun
        fileprivate var lastUse: UInt64 = 0

        init(next: UInt64, run: BlockRun) {
            self.next = next
            self.run = run
        }
    }
    private var byFile: [UInt32: Window] = [:]
    private var clock: UInt64 = 0

    /// Each keeps the index of its group in memory.
    private static let limit = 256

    /// Up to `count` blocks from the front of the file's window, when it goes on at `block`.
    mutating func take(_ count: UInt32, of file: InodeNumber, at block: UInt64) -> BlockRun? {
        guard var window = byFile[file.rawValue], window.next == block else { return nil }
        let taken = BlockRun(start: window.run.start, count: min(count, window.run.count))
        window.run = BlockRun(start: taken.start + UInt64(taken.count), count: window.run.count - taken.count)
        window.next += UInt64(taken.count)
        clock += 1
        window.lastUse = clock
        byFile[file.rawValue] = window.run.count > 0 ? window : nil
        return taken
    }

    mutating func remove(of file: InodeNumber) -> BlockRun? { byFile.removeValue(forKey: file.rawValue)?.run }

    /// The file has no window. Answers one that is to be given back for it.
    mutating func insert(_ window: Window, of file: InodeNumber) -> BlockRun? {
        let oldest = byFile.count < Self.limit ? nil : byFile.min { $0.value.lastUse < $1.value.lastUse }
        let dropped = oldest.flatMap { remove(of: InodeNumber($0.key)) }
        clock += 1
        var window = window
        window.lastUse = clock
        byFile[file.rawValue] = window
        return dropped
    }

    mutating func removeAll() -> [BlockRun] {
        defer { byFile = [:] }
        return byFile.values.map(\.run)
    }
}

extension BlockAllocator {
    /// As `stage`, for a file that grows: `block` is the block of the file that the run is for, the first of a cluster.
    /// What the file's window has comes first; otherwise up to `ahead` clusters behind the run are kept for the file,
    /// fewer where the volume fills up.
    package func stage(
        upTo count: UInt32, ahead: UInt32, for file: InodeNumber, at block: UInt64, goal: FSBlock,
        from reservation: BlockReservation
    ) throws(Ext4Error) -> BlockRun {
        try stage(upTo: count, from: reservation) { claimed throws(Ext4Error) in
            let wanted = claimed << layout.clusterShift
            if let run = windows.withLock({ $0.take(wanted, of: file, at: block) }) { return run }
            let kept = min(ahead, UInt32(clamping: unpromisedBlockCount / Self.windowShare))
            if kept > 0, let run = try open(kept, behind: claimed, for: file, at: block, goal) { return run }
            return try findAndTake(claimed, near: goal)
        }
    }

    /// A window is no more than this part of what is free.
    private static let windowShare: UInt64 = 32

    /// Ends a file's window: the file is gone or goes on elsewhere. Takes group locks.
    package func giveBackWindow(of file: InodeNumber) {
        windowGate.withReadLock {
            if let run = windows.withLock({ $0.remove(of: file) }) { giveBack(run) }
        }
    }

    /// `ahead` and `count` in clusters.
    private func open(
        _ ahead: UInt32, behind count: UInt32, for file: InodeNumber, at block: UInt64, _ goal: FSBlock
    ) throws(Ext4Error) -> BlockRun? {
        try windowGate.withReadLock { () throws(Ext4Error) -> BlockRun? in
            if let run = windows.withLock({ $0.remove(of: file) }) { giveBack(run) }
            guard let found = try search(count + ahead, near: goal) else { return nil }
            let count = count << layout.clusterShift
            guard found.count > count else { return found }
            let run = BlockRun(start: found.start, count: count)
            let rest = BlockRun(start: found.start + UInt64(count), count: found.count - count)
            let window = FileWindows.Window(next: block + UInt64(count), run: rest)
            if let dropped = windows.withLock({ $0.insert(window, of: file) }) { giveBack(dropped) }
            return run
        }
    }

    /// Nobody is between taking blocks and keeping them while `body` runs, and nobody has a window when it begins.
    func withoutWindows<R>(_ body: () throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        try windowGate.withWriteLock { () throws(Ext4Error) in
            for run in windows.withLock({ $0.removeAll() }) { giveBack(run) }
            return try body()
        }
    }

    private func giveBack(_ run: BlockRun) {
        for part in Self.parts(of: run, layout) { putBack(part) }
    }
}
