package import BlockIO
package import Ext4Format
internal import Synchronization
internal import Threads

/// The metadata blocks of one volume in memory.
///
/// ARC is the pin count: a block is evictable when only the cache holds it. A block in a transaction, or waiting to be
/// written home, is held by that transaction, so the capacity bounds clean blocks and the log bounds dirty ones. The
/// number decides the shard; a shard's lock is held for a look into its table, never during a transfer.
package final class MetadataCache: Sendable {
    package let blockByteCount: Int
    package let blockCount: UInt64
    private let device: any BlockDevice
    /// What nobody may need is not decided: see `UndecidedDevice`.
    private let readsAhead: Bool
    private let shards: [Monitor<CacheShard>]
    private let onReadFailure: Mutex<FailureHook?> = Mutex(nil)
    private static let shardCount = 32
    /// The most that one prefetch reads.
    private static let prefetchByteCount = 1 << 20

    /// `blockCount` is the length of the volume; `capacityBytes` bounds the clean blocks, at least one for each shard.
    package init(device: any BlockDevice, blockByteCount: Int, blockCount: UInt64, capacityBytes: Int) {
        precondition(blockByteCount >= 1024 && blockByteCount % device.sectorByteCount == 0)
        self.device = device
        readsAhead = !(device is any UndecidedDevice)
        self.blockByteCount = blockByteCount
        self.blockCount = blockCount
        let capacity = max(1, capacityBytes / blockByteCount / Self.shardCount)
        shards = (0..<Self.shardCount).map { _ in Monitor(CacheShard(capacity: capacity)) }
    }

    package func setOnReadFailure(_ body: @escaping ReadFailureHook) {
        onReadFailure.withLock { $0 = FailureHook(body: body) }
    }

    private func shard(of number: UInt64) -> Monitor<CacheShard> {
        // Neighbours go to different shards: group metadata lies in runs that many threads use at once.
        shards[Int(truncatingIfNeeded: (number &* 0x9E37_79B9_7F4A_7C15) >> 59)]
    }

    private func checkRange(_ number: FSBlock) throws(Ext4Error) {
        guard number.rawValue < blockCount else {
            throw .corrupt("block number", where: "block \(number.rawValue) of \(blockCount)")
        }
    }

    private enum Found {
        case ready(CachedBlock)
        case loading(CachedBlock)
        /// Inserted now: the caller must load it and then call `finish`.
        case mine(CachedBlock)
    }

    private func find(_ number: FSBlock) -> Found {
        shard(of: number.rawValue).withLock { shard in
            if let block = shard.lookUp(number.rawValue) {
                return block.phase.load(ordering: .acquiring) == CachedBlock.Phase.ready
                    ? .ready(block) : .loading(block)
            }
            let block = CachedBlock(number: number, byteCount: blockByteCount, isReady: false)
            shard.insert(block)
            return .mine(block)
        }
    }

    /// Cached, or read from the device now. A number past the end is `.corrupt`. Readers of one block read it once.
    package func block(_ number: FSBlock) throws(Ext4Error) -> CachedBlock {
        try checkRange(number)
        while true {
            switch find(number) {
            case .ready(let block): return block
            case .loading(let block):
                // A failed load has left the table; the next turn reads it again and has an error of its own.
                if waitForLoad(block) { return block }
            case .mine(let block):
                do throws(Ext4Error) {
                    try device.read(into: block.buffer, at: number.rawValue * UInt64(blockByteCount))
                } catch {
                    finish(block, succeeded: false)
                    onReadFailure.withLock { $0 }?.body(number, error)
                    throw error
                }
                finish(block, succeeded: true)
                return block
            }
        }
    }

    private func waitForLoad(_ block: CachedBlock) -> Bool {
        shard(of: block.number.rawValue).wait { _ in
            switch block.phase.load(ordering: .acquiring) {
            case CachedBlock.Phase.ready: true
            case CachedBlock.Phase.failed: false
            default: nil
            }
        }
    }

    private func finish(_ block: CachedBlock, succeeded: Bool) {
        let monitor = shard(of: block.number.rawValue)
        monitor.withLock { shard in
            if !succeeded { shard.remove(block.number.rawValue) }
            let phase = succeeded ? CachedBlock.Phase.ready : CachedBlock.Phase.failed
            block.phase.store(phase, ordering: .releasing)
        }
        monitor.notifyAll()
    }

    /// Whether a read would find the block in memory: a hint, as it may leave at any time.
    package func contains(_ number: FSBlock) -> Bool {
        shard(of: number.rawValue).withLock { $0.lookUp(number.rawValue) != nil }
    }

    /// The block when it is cached, waiting for a load under way; never reads.
    func cached(_ number: FSBlock) -> CachedBlock? {
        let block = shard(of: number.rawValue).withLock { $0.lookUp(number.rawValue) }
        guard let block, waitForLoad(block) else { return nil }
        return block
    }

    /// The block for new content: cached, or in the table now with zeros and not read.
    func blockForNewContent(_ number: FSBlock) throws(Ext4Error) -> CachedBlock {
        try checkRange(number)
        while true {
            let block = shard(of: number.rawValue).withLock { shard in
                if let block = shard.lookUp(number.rawValue) { return block }
                let block = CachedBlock(number: number, byteCount: blockByteCount, isReady: true)
                shard.insert(block)
                return block
            }
            if waitForLoad(block) { return block }
        }
    }

    /// Reads what is missing of a run in one transfer: a hint, errors are dropped (they come again at `block`).
    package func prefetch(_ first: FSBlock, count: Int) {
        guard readsAhead, count > 0, first.rawValue < blockCount else { return }
        let most = min(UInt64(count), blockCount - first.rawValue, UInt64(Self.prefetchByteCount / blockByteCount))
        var mine: [CachedBlock] = []
        for number in first.rawValue..<first.rawValue + max(1, most) {
            if case .mine(let block) = find(FSBlock(number)) {
                mine.append(block)
            } else if !mine.isEmpty {
                load(mine)
                mine.removeAll(keepingCapacity: true)
            }
        }
        load(mine)
    }

    /// Loads blocks with consecutive numbers that this thread has put into the table.
    private func load(_ blocks: [CachedBlock]) {
        guard let first = blocks.first else { return }
        let offset = first.number.rawValue * UInt64(blockByteCount)
        let run = AlignedBuffer(byteCount: blocks.count * blockByteCount)
        let succeeded: Bool
        do throws(Ext4Error) {
            try device.read(into: run, at: offset)
            succeeded = true
        } catch {
            succeeded = false
        }
        for (index, block) in blocks.enumerated() {
            if succeeded {
                let start = index * blockByteCount
                run.withBytes { source in
                    block.buffer.withMutableBytes {
                        $0.copy(source.extracting(start..<start + blockByteCount), at: 0)
                    }
                }
            }
            finish(block, succeeded: succeeded)
        }
    }

    /// Forgets clean cached copies: the range was freed and will hold file data. What a transaction holds stays.
    package func drop(_ first: FSBlock, count: UInt64) {
        let end = min(blockCount, first.rawValue.addingReportingOverflow(count).partialValue)
        guard first.rawValue < end else { return }
        if end - first.rawValue <= 4096 {
            for number in first.rawValue..<end { shard(of: number).withLock { $0.removeUnused(number) } }
        } else {
            for shard in shards { shard.withLock { $0.removeUnused(in: first.rawValue..<end) } }
        }
    }

    /// Takes a block out of the table although others may still hold it: it was freed, and the free is durable.
    func forget(_ block: CachedBlock) {
        shard(of: block.number.rawValue).withLock { shard in
            guard shard.lookUp(block.number.rawValue) === block else { return }
            // Created again meanwhile: then it is in use.
            guard block.membership.withLock({ $0.newest == 0 && $0.home == 0 }) else { return }
            shard.remove(block.number.rawValue)
        }
    }

    /// How many blocks are held, for tests and status.
    package var residentCount: Int { shards.reduce(0) { $0 + $1.withLock { $0.count } } }
}
