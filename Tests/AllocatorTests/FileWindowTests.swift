import Allocator
import Ext4Format
import Foundation
import Journal
import Synchronization
import Testing
import Threads

/// Blocks kept for files that grow: they keep files apart, and nobody ever misses them.
@Suite struct FileWindowTests {
    private static let first = InodeNumber(20), second = InodeNumber(21)

    /// Grows a file by `count` blocks from `block` on, and publishes them.
    private func grow(
        _ volume: Volume, _ file: InodeNumber, at block: UInt64, by count: UInt32, ahead: UInt32, goal: FSBlock
    ) throws(Ext4Error) -> BlockRun {
        let space = try volume.blocks.reserve(UInt64(count), privileged: true)
        let run = try volume.blocks.stage(
            upTo: count, ahead: ahead, for: file, at: block, goal: goal, from: space)
        try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(run, in: handle) }
        return run
    }

    @Test func filesThatGrowSideBySideAreWhole() throws {
        let volume = try Volume()
        var runs: [[BlockRun]] = [[], []]
        for step in 0..<32 {
            for (index, file) in [Self.first, Self.second].enumerated() {
                let goal = runs[index].last?.end ?? FSBlock(0)
                runs[index].append(
                    try grow(volume, file, at: UInt64(step * 4), by: 4, ahead: step == 0 ? 124 : 0, goal: goal))
            }
        }
        for file in runs {
            #expect(file.allSatisfy { $0.count == 4 })
            #expect(zip(file, file.dropFirst()).allSatisfy { $0.end == $1.start })
        }
        try volume.journal.close()
        #expect(try volume.audit().freeBlocks == volume.blocks.freeBlockCount)
        #expect(try volume.complaints().contains("Block bitmap differences"), "the test's blocks belong to no file")
    }

    @Test func aWindowIsForTheBlockThatFollowsAlone() throws {
        let volume = try Volume()
        let run = try grow(volume, Self.first, at: 0, by: 1, ahead: 63, goal: FSBlock(0))
        let elsewhere = try grow(volume, Self.first, at: 1_000, by: 1, ahead: 0, goal: FSBlock(0))
        #expect(elsewhere.start.rawValue >= run.start.rawValue + 64 || elsewhere.start < run.start)
        #expect(try grow(volume, Self.first, at: 1, by: 1, ahead: 0, goal: FSBlock(0)).start == run.end)
        // Given back, its blocks are anybody's.
        volume.blocks.giveBackWindow(of: Self.first)
        let other = try grow(volume, Self.second, at: 0, by: 1, ahead: 0, goal: run.start + 2)
        #expect(other.start == run.start + 2)
        try volume.journal.close()
    }

    /// All counts have the blocks of windows as free, and so a volume can be filled to its last block.
    @Test func windowsDoNotKeepAVolumeFromBeingFilled() throws {
        let volume = try Volume()
        let free = volume.blocks.freeBlockCount
        var owned: UInt64 = 0
        for file in 0..<20 {
            let number = InodeNumber(UInt32(20 + file))
            owned += UInt64(try grow(volume, number, at: 0, by: 1, ahead: 4_000, goal: FSBlock(0)).count)
        }
        #expect(volume.blocks.freeBlockCount == free - owned)
        let rest = free - owned
        let space = try volume.blocks.reserve(rest, privileged: true)
        var staged: [BlockRun] = []
        while space.remaining > 0 {
            staged.append(try volume.blocks.stage(upTo: 5_000, goal: FSBlock(0), from: space))
        }
        #expect(staged.reduce(0) { $0 + UInt64($1.count) } == rest)
        #expect(throws: Ext4Error.posix(Errno.noSpace)) {
            _ = try volume.blocks.reserve(1, privileged: true)
        }
        for run in staged { volume.blocks.unstage(run) }
        #expect(volume.blocks.freeBlockCount == rest)
        #expect(volume.groups.damage.isEmpty)
        try volume.journal.close()
    }

    /// More files than may have windows: the index of a group must not be kept for each of them.
    @Test func theOldestWindowsGo() throws {
        let volume = try Volume()
        let run = try grow(volume, Self.first, at: 0, by: 1, ahead: 2, goal: FSBlock(0))
        for file in 0..<300 {
            _ = try grow(volume, InodeNumber(UInt32(30 + file)), at: 0, by: 1, ahead: 2, goal: FSBlock(0))
        }
        let other = try grow(volume, Self.second, at: 0, by: 1, ahead: 0, goal: run.start + 1)
        #expect(other.start == run.start + 1)
        try volume.journal.close()
    }

    private final class Tally: Sendable {
        let taken = Mutex<Set<UInt64>>([])
        let problems = Mutex<[String]>([])

        func take(_ run: BlockRun) {
            let range = run.start.rawValue..<run.end!.rawValue
            let isNew = taken.withLock { taken in
                defer { taken.formUnion(range) }
                return taken.isDisjoint(with: range)
            }
            if !isNew { problems.withLock { $0.append("\(run) was given out twice") } }
        }
    }

    /// Every thread stages what it was promised, whoever has windows open meanwhile, until nothing is left.
    @Test func manyThreadsFillAVolumeWithWindowsOpen() throws {
        let volume = try Volume(isManual: false)
        let free = volume.blocks.freeBlockCount
        let tally = Tally()
        let threads = (0..<6).map { number in
            Thread(name: "grow") {
                var random = SeededGenerator(state: UInt64(number + 1)), block: UInt64 = 0
                while true {
                    let count = UInt32.random(in: 1...40, using: &random)
                    do throws(Ext4Error) {
                        let space = try volume.blocks.reserve(UInt64(count), privileged: true)
                        let file = InodeNumber(UInt32(20 + number * 3) + UInt32(block % 3))
                        let run = try volume.blocks.stage(
                            upTo: count, ahead: UInt32.random(in: 0...400, using: &random), for: file, at: block,
                            goal: FSBlock(UInt64.random(in: 0..<20_000, using: &random)), from: space)
                        tally.take(run)
                        block += UInt64(run.count)
                    } catch {
                        if case .posix(Errno.noSpace) = error, count == 1 { return }
                        if case .posix(Errno.noSpace) = error { continue }
                        tally.problems.withLock { $0.append("\(error)") }
                        return
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(tally.problems.withLock { $0 } == [])
        #expect(tally.taken.withLock { UInt64($0.count) } == free)
        #expect(volume.groups.damage.isEmpty)
        try volume.journal.close()
    }
}
