import Allocator
import Ext4Format
import Foundation
import Journal
import Testing

@Suite struct BlockAllocatorTests {
    /// The oracle is e2fsck: after any work whose blocks and inodes have all been freed, a volume is as if nothing had
    /// happened, but for bitmaps that are now written. Wrong padding, a missed system block, a wrong count or checksum
    /// would show.
    @Test(arguments: Volume.Shape.all, [UInt64](1...2))
    func randomWorkLeavesAVolumeThatE2fsckAccepts(shape: Volume.Shape, seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        let volume = try Volume(shape)
        let before = (volume.blocks.durableFreeBlockCount, volume.inodes.freeInodeCount)
        #expect(before.0 == volume.superBlock.freeBlockCount)
        var runs: [BlockRun] = [], inodes: [(InodeNumber, Bool)] = []
        for step in 0..<150 {
            switch Int.random(in: 0..<6, using: &random) {
            case 0, 1:
                let goal = UInt64.random(in: 0..<volume.superBlock.blockCount, using: &random)
                let most = 700 / volume.superBlock.clusterBlockCount
                let run = try volume.take(UInt32.random(in: 1...most, using: &random), goal: goal)
                #expect(!volume.blocks.isSystemBlock(run), "seed \(seed), step \(step)")
                runs.append(run)
            case 2:
                guard !runs.isEmpty else { continue }
                try volume.free(runs.remove(at: Int.random(in: 0..<runs.count, using: &random)))
            case 3, 4:
                let isDirectory = Bool.random(using: &random), isTop = Bool.random(using: &random)
                let parent = inodes.last?.0 ?? .root
                let inode = try volume.change { handle throws(Ext4Error) in
                    try volume.inodes.allocate(
                        parent: parent, isDirectory: isDirectory, isTopLevel: isTop, in: handle)
                }
                inodes.append((inode, isDirectory))
            default:
                guard !inodes.isEmpty else { try volume.journal.commitNow(); continue }
                let (inode, wasDirectory) = inodes.remove(at: Int.random(in: 0..<inodes.count, using: &random))
                try volume.change { handle throws(Ext4Error) in
                    try volume.inodes.free(inode, wasDirectory: wasDirectory, in: handle)
                }
            }
            if step % 20 == 0 { try volume.journal.sync() }
        }
        let taken = runs.reduce(0) { $0 + UInt64($1.count) }
        #expect(volume.blocks.durableFreeBlockCount == before.0 - taken, "seed \(seed)")
        #expect(volume.inodes.freeInodeCount == before.1 - UInt32(inodes.count), "seed \(seed)")
        for run in runs { try volume.free(run) }
        for (inode, wasDirectory) in inodes {
            try volume.change { handle throws(Ext4Error) in
                try volume.inodes.free(inode, wasDirectory: wasDirectory, in: handle)
            }
        }
        try volume.journal.close()
        let sum = try volume.audit()
        #expect(sum.freeBlocks == before.0 && volume.blocks.durableFreeBlockCount == before.0, "seed \(seed)")
        #expect(sum.freeInodes == before.1 && volume.blocks.pendingFreeCount == 0, "seed \(seed)")
        #expect(volume.blocks.freeBlockCount == before.0)
        #expect(try volume.complaints() == "", "seed \(seed)")
        #expect(volume.groups.damage.isEmpty)
    }

    /// What the bitmaps on the device say is what was published: no bit more, no bit less.
    @Test(arguments: Volume.Shape.all) func theBitmapsHoldExactlyWhatWasPublished(shape: Volume.Shape) throws {
        let volume = try Volume(shape)
        let old = try volume.audit().used
        var taken: Set<UInt64> = []
        for step in 0..<30 {
            let goal = volume.superBlock.blockCount * UInt64(step) / 30
            let run = try volume.take(UInt32(step * 7 + 1), goal: goal)
            let isNew = taken.isDisjoint(with: run.start.rawValue..<run.end!.rawValue)
            #expect(isNew)
            taken.formUnion(run.start.rawValue..<run.end!.rawValue)
        }
        let space = try volume.blocks.reserve(10, privileged: false)
        let staged = try volume.blocks.stage(upTo: 10, goal: FSBlock(100), from: space)
        try volume.journal.close()
        let sum = try volume.audit()
        #expect(sum.freeBlocks == volume.blocks.durableFreeBlockCount)
        #expect(volume.blocks.freeBlockCount == sum.freeBlocks - UInt64(staged.count))
        #expect(taken.isSubset(of: sum.used) && taken.isDisjoint(with: old))
        #expect(!sum.used.contains(staged.start.rawValue), "a staged block is in a bitmap")
        let others = sum.used.subtracting(old).subtracting(taken)
        let strange = others.filter { !volume.blocks.isSystemBlock(BlockRun(start: FSBlock($0), count: 1)) }
        #expect(strange.isEmpty)
    }

    /// A block that is reused before the transaction that freed it is durable would hold another file's data after a
    /// crash (P3).
    @Test func freedBlocksAreNotGivenOutBeforeTheirCommit() throws {
        let volume = try Volume()
        let run = try volume.take(500, goal: 9000)
        try volume.journal.commitNow()
        try volume.free(run)
        #expect(volume.blocks.pendingFreeCount == UInt64(run.count))
        let all = try volume.blocks.reserve(volume.blocks.freeBlockCount - UInt64(run.count), privileged: true)
        var staged: [BlockRun] = []
        while all.remaining > 0 { staged.append(try volume.blocks.stage(upTo: 4000, goal: run.start, from: all)) }
        let freed = run.start.rawValue..<run.end!.rawValue
        for other in staged { #expect(!freed.overlaps(other.start.rawValue..<other.end!.rawValue)) }
        try volume.journal.commitNow()
        #expect(volume.blocks.pendingFreeCount == 0)
        let again = try volume.blocks.reserve(UInt64(run.count), privileged: true)
        #expect(try volume.blocks.stage(upTo: run.count, goal: run.start, from: again) == run)
    }

    /// A volume full of pending frees is not full: a commit makes the space, and the caller never hears of it.
    @Test func reserveCommitsWhenPendingFreesWouldHelp() throws {
        let volume = try Volume()
        let free = volume.blocks.freeBlockCount
        let space = try volume.blocks.reserve(free, privileged: true)
        var runs: [BlockRun] = []
        while space.remaining > 0 {
            let run = try volume.blocks.stage(upTo: 30000, goal: FSBlock(0), from: space)
            try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(run, in: handle) }
            runs.append(run)
        }
        #expect(volume.blocks.freeBlockCount == 0 && volume.blocks.durableFreeBlockCount == 0)
        #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.reserve(1, privileged: true) }
        try volume.free(runs[0])
        #expect(volume.blocks.pendingFreeCount > 0)
        let again = try volume.blocks.reserve(UInt64(runs[0].count), privileged: true)
        #expect(again.remaining == UInt64(runs[0].count) && volume.blocks.pendingFreeCount == 0)
        #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.reserve(1, privileged: true) }
    }

    /// Maps of 32-bit numbers cannot name what lies behind: such blocks are promised to them only while there are some,
    /// and nobody else gets what has been promised.
    @Test func blocksBelowALimitArePromisedWhereTheyAre() throws {
        let volume = try Volume()
        let free = volume.blocks.freeBlockCount, perGroup = UInt64(volume.superBlock.blocksPerGroup)
        let limit = 2 * perGroup + 1
        let low = try volume.blocks.reserve(1500, privileged: true, below: limit)
        let other = try volume.blocks.reserve(free - 1500, privileged: true)
        while other.remaining > 0 {
            let run = try volume.blocks.stage(upTo: 4000, goal: FSBlock(perGroup), from: other)
            try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(run, in: handle) }
        }
        #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.reserve(1, privileged: true, below: limit) }
        let first = try volume.blocks.stage(upTo: 700, goal: FSBlock(9 * perGroup), from: low)
        #expect(first.end!.rawValue <= limit && low.remaining == 1500 - UInt64(first.count))
        volume.blocks.unstage(first)
        let rest = low.remaining
        let more = try volume.blocks.reserve(UInt64(first.count), privileged: true, below: limit)
        more.absorb(low)
        #expect(more.remaining == 1500 && low.remaining == 0 && rest + UInt64(first.count) == 1500)
    }

    /// What has been promised below a limit and was not used is free again, and frees that are pending are waited for.
    @Test func promisesBelowALimitGoBack() throws {
        let volume = try Volume()
        let free = volume.blocks.freeBlockCount, limit = UInt64(volume.superBlock.blocksPerGroup) + 1
        var count: UInt64 = 1
        while (try? volume.blocks.reserve(count, privileged: true, below: limit)) != nil { count += 1 }
        #expect(count > 100 && count < limit)
        #expect(volume.blocks.freeBlockCount == free && volume.blocks.reservedBlockCount == 0)
        let run = try volume.take(UInt32(count) - 1)
        try #require(run.end!.rawValue <= limit)
        try volume.free(run)
        let again = try volume.blocks.reserve(count - 1, privileged: true, below: limit)
        #expect(again.remaining == count - 1 && volume.blocks.pendingFreeCount == 0)
    }

    /// The last blocks are root's, and a reservation that is dropped gives back exactly what it did not use.
    @Test func reservationsKeepTheirPromiseAndTheReserve() throws {
        let volume = try Volume()
        let keep = volume.superBlock.reservedBlockCount, free = volume.blocks.freeBlockCount
        #expect(keep > 0)
        #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.reserve(free - keep + 1, privileged: false) }
        #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.reserve(.max, privileged: false) }
        do {
            let most = try volume.blocks.reserve(free - keep, privileged: false)
            #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.reserve(1, privileged: false) }
            #expect(try volume.blocks.reserve(keep, privileged: true).remaining == keep)
            let run = try volume.blocks.stage(upTo: 8, goal: FSBlock(3000), from: most)
            #expect(most.remaining == free - keep - UInt64(run.count))
            volume.blocks.unstage(run)
        }
        #expect(volume.blocks.reservedBlockCount == 0 && volume.blocks.freeBlockCount == free)
        let none = try volume.blocks.reserve(0, privileged: false)
        #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.stage(upTo: 1, goal: FSBlock(0), from: none) }
    }

    /// A corrupt extent must not free a bitmap or somebody's block twice: refused by name, and nothing changes.
    @Test func freeingWhatIsNotInUseOrNotAFilesIsCorrupt() throws {
        let volume = try Volume(Volume.Shape.all[1])
        let run = try volume.take(20, goal: 5000)
        let end = volume.superBlock.blockCount
        let table = try volume.groups.descriptor(GroupNumber(5))
        let count = volume.blocks.durableFreeBlockCount
        let wrong = [
            BlockRun(start: FSBlock(0), count: 1), BlockRun(start: FSBlock(1), count: 1),
            BlockRun(start: table.blockBitmap, count: 1), BlockRun(start: table.inodeBitmap, count: 1),
            BlockRun(start: FSBlock(table.inodeTable.rawValue + 1), count: 1), BlockRun(start: FSBlock(end), count: 1),
            BlockRun(start: FSBlock(end - 1), count: 2), BlockRun(start: FSBlock(.max), count: 7),
            BlockRun(start: FSBlock(run.start.rawValue + 1), count: run.count),
            BlockRun(start: FSBlock(run.end!.rawValue), count: 1),
            BlockRun(start: run.start, count: 3 * 2048), BlockRun(start: FSBlock(end - 100), count: 50),
        ]
        for one in wrong {
            do {
                try volume.free(one)
                Issue.record("freed \(one)")
            } catch {
                guard case Ext4Error.corrupt = error else { Issue.record("\(error)"); continue }
            }
        }
        #expect(volume.blocks.durableFreeBlockCount == count && volume.blocks.pendingFreeCount == 0)
        #expect(!volume.journal.isAborted)
        try volume.free(run)
        #expect(throws: Ext4Error.self) { try volume.free(run) }
        try volume.journal.close()
        #expect(try volume.complaints() == "")
    }

    /// Runs may be joined by the caller and then lie in many groups.
    @Test func aRunOverManyGroupsIsPublishedAndFreedWhole() throws {
        let volume = try Volume(.init("-b 1024 -g 1024 -G 16 -N 512 -O ^resize_inode,sparse_super", kilobytes: 16_000))
        let space = try volume.blocks.reserve(4000, privileged: true)
        var runs: [BlockRun] = [], goal = FSBlock(11 * 1024 + 1)
        while space.remaining > 0 {
            let run = try volume.blocks.stage(upTo: UInt32(space.remaining), goal: goal, from: space)
            goal = run.end!
            if let last = runs.last, last.end == run.start {
                runs[runs.count - 1].count += run.count
            } else {
                runs.append(run)
            }
        }
        #expect(runs.contains { $0.count > 1024 })
        for run in runs { try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(run, in: handle) } }
        try volume.journal.sync()
        for run in runs { try volume.free(run) }
        try volume.journal.close()
        #expect(try volume.complaints() == "")
    }
}
