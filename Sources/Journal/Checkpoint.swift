internal import BlockIO
package import Ext4Format
internal import Synchronization
internal import Threads

/// Carries committed blocks home, one pass at a time.
final class Checkpointer: Sendable {
    struct Writes {
        var isUnderWay = false
        var batch: UInt64 = 0
        var isStopped = false
    }
    private let writes = Monitor(Writes())
    /// Whether a thread is in a checkpoint.
    let gate = Monitor(false)
    private let blockByteCount: Int
    private let buffer: ReusedBuffer
    private static let bufferByteCount = 1 << 20

    init(blockByteCount: Int) {
        self.blockByteCount = blockByteCount
        buffer = ReusedBuffer(byteLimit: max(Self.bufferByteCount, blockByteCount))
    }

    /// Returns when no home write is under way that had begun before the call.
    func waitForWrites() {
        let batch = writes.withLock { $0.batch }
        writes.wait { $0.isUnderWay && $0.batch == batch ? nil : () }
    }

    /// Lets no home write begin any more, and returns when none is under way.
    func stop() {
        writes.withLock { $0.isStopped = true }
        writes.wait { writes -> Void? in writes.isUnderWay ? nil : () }
    }

    /// A block whose version of transaction `serial` has been written home.
    struct Written {
        let block: CachedBlock
        let serial: UInt64
    }

    /// Writes home what of `blocks` no transaction holds, merged; they are sorted by number, each once. Not flushed.
    func write(_ blocks: [CachedBlock], to device: any BlockDevice) throws(Ext4Error) -> [Written] {
        var written: [Written] = []
        var rest = blocks[...]
        while !rest.isEmpty {
            let batch = rest.prefix(buffer.byteLimit / blockByteCount)
            let buffer = buffer.room(for: batch.count * blockByteCount)
            rest = rest.dropFirst(batch.count)
            try writes.withLock { writes throws(Ext4Error) in
                if writes.isStopped { throw .aborted }
                writes.isUnderWay = true
            }
            let taken = copyOut(batch, to: buffer)
            defer {
                for item in taken { item.block.membership.withLock { $0.isWritingHome = false } }
                writes.withLock {
                    $0.isUnderWay = false
                    $0.batch += 1
                }
                writes.notifyAll()
            }
            try writeRuns(taken, from: buffer, to: device)
            written += taken
        }
        return written
    }

    /// Copies committed contents into the buffer, one behind the other. A block that a transaction took meanwhile is
    /// left out: its content is not committed any more.
    private func copyOut(_ blocks: ArraySlice<CachedBlock>, to buffer: AlignedBuffer) -> [Written] {
        var taken: [Written] = []
        for block in blocks {
            let serial: UInt64 = block.membership.withLock { member in
                guard member.home != 0, member.newest == 0 else { return 0 }
                member.isWritingHome = true
                buffer.withMutableBytes { bytes in
                    block.buffer.withBytes { bytes.copy($0, at: taken.count * blockByteCount) }
                }
                return member.home
            }
            if serial != 0 { taken.append(Written(block: block, serial: serial)) }
        }
        return taken
    }

    private func writeRuns(
        _ items: [Written], from buffer: AlignedBuffer, to device: any BlockDevice
    ) throws(Ext4Error) {
        var start = 0
        while start < items.count {
            let first = items[start].block.number.rawValue
            var end = start + 1
            while end < items.count, items[end].block.number.rawValue == first + UInt64(end - start) { end += 1 }
            try buffer.withBytes { bytes throws(Ext4Error) in
                try device.write(
                    bytes.extracting(start * blockByteCount..<end * blockByteCount),
                    at: first * UInt64(blockByteCount), mode: .cached)
            }
            start = end
        }
    }
}

enum CheckpointGoal {
    /// What can be written home now; nothing is committed for it.
    case background
    /// At least the oldest transaction leaves the log.
    case space
    /// The log becomes empty.
    case everything
}

// Home writes sorted by block, a flush, then the tail: the space below it is reused only after that.

extension Journal {
    /// Writes home all that can be, and moves the tail, committing the running transaction where it is in the way of
    /// emptying the log.
    package func checkpointNow() throws(Ext4Error) { try checkpoint(.everything) }

    /// One checkpoint at a time; an error aborts the journal.
    func checkpoint(_ goal: CheckpointGoal) throws(Ext4Error) {
        checkpointer.gate.wait { isBusy -> Void? in
            if isBusy { return nil }
            isBusy = true
            return ()
        }
        defer {
            checkpointer.gate.withLock { $0 = false }
            checkpointer.gate.notifyAll()
        }
        do throws(Ext4Error) {
            try checkpointLocked(goal)
        } catch {
            abort(error)
            throw error
        }
    }

    private func checkpointLocked(_ goal: CheckpointGoal) throws(Ext4Error) {
        while true {
            let targets = try state.withLock { state throws(Ext4Error) in
                try state.checkUsable()
                return state.committed
            }
            if targets.isEmpty {
                // Nothing to carry home, yet no room: what is running or committing takes it all.
                if goal == .space { try commitNow() }
                return
            }
            let released = try carryHome(targets)
            let isDone =
                switch goal {
                case .background: true
                case .space: released > 0
                case .everything: released == targets.count && state.withLock { $0.committed.isEmpty }
                }
            if isDone { return }
            // The oldest transactions wait for blocks that a later one has taken: once that one is durable, the
            // versions of the older ones need not go home at all.
            try commitNow()
        }
    }

    /// One pass over `targets`, the oldest committed transactions. Answers how many left the log.
    private func carryHome(_ targets: [JournalState.Committed]) throws(Ext4Error) -> Int {
        var candidates: [CachedBlock] = []
        for target in targets {
            let serial = target.transaction.serial
            for block in target.transaction.contents.withLock({ $0.blocks }) {
                if block.membership.withLock({ $0.home == serial && $0.newest == 0 }) { candidates.append(block) }
            }
        }
        candidates.sort { $0.number < $1.number }
        let written = try checkpointer.write(candidates, to: device)
        // Also without a write of our own: a version may have become superfluous, but one that an earlier pass wrote
        // is durable only with a flush, and the tail must not overtake it.
        try flusher.flush()
        for item in written {
            item.block.membership.withLock { if $0.home == item.serial { $0.home = 0 } }
        }
        let released = targets.prefix { isHome($0.transaction) }.count
        try moveTail(past: released)
        state.withLock { state in
            state.counters.checkpoints += 1
            state.counters.homeBlocks += written.count
        }
        return released
    }

    private func isHome(_ transaction: Transaction) -> Bool {
        transaction.contents.withLock { $0.blocks }.allSatisfy { block in
            block.membership.withLock { $0.home != transaction.serial }
        }
    }

    /// Drops the oldest `count` transactions from the log, on the medium first and then here.
    private func moveTail(past count: Int) throws(Ext4Error) {
        guard count > 0 else { return }
        let (start, sequence) = try state.withLock { state throws(Ext4Error) in
            try state.checkUsable()
            if state.committed.count > count {
                let oldest = state.committed[count]
                return (oldest.start, oldest.transaction.id)
            }
            // The next transaction in the log will be this one, and it begins at the head.
            return (state.head, (state.committing?.transaction ?? state.running.transaction).id)
        }
        try superBlock.setTail(start: start, sequence: sequence)
        state.withLock { state in
            state.committed.removeFirst(count)
            // With nothing left the distance is 0, not the whole ring.
            state.used = Int(geometry.distance(from: start, to: state.head))
        }
        state.notifyAll()
    }
}
