import Allocator
import BlockIO
import Ext4Format
import Foundation
import Journal
import Synchronization
import Testing
import Threads

@Suite struct ConcurrencyTests {
    /// Who has which block, kept by the test: a block given out twice is caught at once.
    private final class Owners: Sendable {
        let taken = Mutex<Set<UInt64>>([])
        let problems = Mutex<[String]>([])

        func take(_ run: BlockRun) {
            let isNew = taken.withLock { taken in
                let range = run.start.rawValue..<run.end!.rawValue
                let isNew = taken.isDisjoint(with: range)
                taken.formUnion(range)
                return isNew
            }
            if !isNew { problems.withLock { $0.append("\(run) was given out twice") } }
        }
        func release(_ run: BlockRun) { taken.withLock { $0.subtract(run.start.rawValue..<run.end!.rawValue) } }
    }

    private final class Flag: Sendable { let value = Atomic(false) }

    private static func work(_ seed: UInt64, _ volume: Volume, _ owners: Owners) throws(Ext4Error) {
        var random = SeededGenerator(state: seed)
        var runs: [BlockRun] = [], inodes: [InodeNumber] = []
        for _ in 0..<120 {
            let count = UInt32.random(in: 1...60, using: &random)
            let space = try volume.blocks.reserve(UInt64(count), privileged: true)
            let goal = FSBlock(UInt64.random(in: 0..<volume.superBlock.blockCount, using: &random))
            let run = try volume.blocks.stage(upTo: count, goal: goal, from: space)
            owners.take(run)
            if Int.random(in: 0..<4, using: &random) == 0 {
                owners.release(run)
                volume.blocks.unstage(run)
            } else {
                try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(run, in: handle) }
                runs.append(run)
            }
            let inode = try volume.change { handle throws(Ext4Error) in
                try volume.inodes.allocate(
                    parent: inodes.last ?? .root, isDirectory: false, isTopLevel: false, in: handle)
            }
            inodes.append(inode)
            guard runs.count > 10 else { continue }
            let old = runs.removeFirst(), number = inodes.removeFirst()
            // Not the test's any more as soon as it may come back.
            owners.release(old)
            try volume.change { handle throws(Ext4Error) in
                try volume.blocks.free(old, in: handle)
                try volume.inodes.free(number, wasDirectory: false, in: handle)
            }
        }
        for run in runs {
            owners.release(run)
            try volume.free(run)
        }
        for inode in inodes {
            try volume.change { handle throws(Ext4Error) in
                try volume.inodes.free(inode, wasDirectory: false, in: handle)
            }
        }
    }

    /// Many threads allocate and free at once while commits run: no block twice, no count lost, e2fsck content.
    @Test func threadsNeverShareABlock() throws {
        let volume = try Volume(.small, isManual: false)
        let before = (volume.blocks.durableFreeBlockCount, volume.inodes.freeInodeCount)
        let owners = Owners()
        let threads = (1...4).map { seed in
            Threads.Thread(name: "worker \(seed)") {
                do throws(Ext4Error) {
                    try Self.work(UInt64(seed), volume, owners)
                } catch {
                    owners.problems.withLock { $0.append("\(error)") }
                }
            }
        }
        let isDone = Flag()
        withExtendedLifetime(threads) {
            let committer = Threads.Thread(name: "committer") {
                while !isDone.value.load(ordering: .relaxed) { try? volume.journal.sync() }
            }
            for thread in threads { thread.join() }
            isDone.value.store(true, ordering: .relaxed)
            committer.join()
        }
        try volume.journal.close()
        #expect(owners.problems.withLock { $0 } == [])
        let sum = try volume.audit()
        #expect(sum.freeBlocks == before.0 && volume.blocks.durableFreeBlockCount == before.0)
        #expect(sum.freeInodes == before.1 && volume.inodes.freeInodeCount == before.1)
        #expect(volume.blocks.pendingFreeCount == 0 && volume.blocks.freeBlockCount == before.0)
        #expect(volume.blocks.reservedBlockCount == 0)
        #expect(try volume.complaints() == "")
    }

    /// Searches that begin together share the first look at the descriptors: whoever comes while another looks waits
    /// for it, and does not call the volume full.
    @Test func searchesThatBeginTogetherAllFind() throws {
        let volume = try Volume()
        while volume.blocks.freeBlockCount > 0 {
            let run = try volume.take(4000)
            guard volume.layout.place(of: run.start)?.group == GroupNumber(0) else { break }
        }
        try #require(try volume.groups.descriptor(GroupNumber(0)).freeBlockCount == 0)
        let problems = Monitor<[Ext4Error]>([])
        for _ in 0..<100 {
            let groups = GroupTable(layout: volume.layout, cache: volume.cache)
            let blocks = BlockAllocator(
                layout: volume.layout, cache: volume.cache, groups: groups,
                freeBlockCount: volume.blocks.durableFreeBlockCount)
            let threads = (0..<4).map { number in
                Threads.Thread(name: "search \(number)") {
                    do throws(Ext4Error) {
                        let space = try blocks.reserve(3, privileged: true)
                        _ = try blocks.stage(upTo: 3, goal: FSBlock(1), from: space)
                    } catch {
                        problems.withLock { $0.append(error) }
                    }
                }
            }
            for thread in threads { thread.join() }
        }
        #expect(problems.withLock { $0 } == [])
    }
}
