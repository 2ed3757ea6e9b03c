import Allocator
import Ext4Format
import Foundation
import Journal
import Testing

/// What is free is told to the device, and is nobody's meanwhile.
@Suite struct TrimTests {
    private func trimAll(
        _ volume: Volume, least: Int = 1, _ body: (BlockRun) throws(Ext4Error) -> Void
    ) throws(Ext4Error) -> UInt64 {
        var count: UInt64 = 0
        for number in 0..<volume.layout.groupCount {
            let group = GroupNumber(number)
            count += try volume.blocks.trim(
                group, 0..<Int(volume.layout.clusterCount(of: group)), least: least, body)
        }
        return count
    }

    @Test(arguments: Volume.Shape.all) func whatIsTrimmedIsWhatIsFree(shape: Volume.Shape) throws {
        let volume = try Volume(shape)
        for step in 1..<40 { _ = try volume.take(UInt32(step), goal: UInt64(step) * 331) }
        try volume.journal.close()
        let audit = try volume.audit()
        var trimmed: Set<UInt64> = []
        let count = try trimAll(volume) { run in trimmed.formUnion(run.start.rawValue..<run.end!.rawValue) }
        #expect(count << UInt64(volume.layout.clusterShift) == audit.freeBlocks)
        #expect(UInt64(trimmed.count) == audit.freeBlocks)
        #expect(trimmed.isDisjoint(with: audit.used))
        #expect(volume.blocks.freeBlockCount == audit.freeBlocks)
    }

    /// Blocks that a transaction on its way has freed may still be needed after a crash.
    @Test func whatIsFreedAndNotDurableIsNotTrimmed() throws {
        let volume = try Volume()
        let run = try volume.take(100)
        try volume.journal.commitNow()
        try volume.free(run)
        func trims() throws -> Bool {
            var isHit = false
            _ = try trimAll(volume) { trimmed in
                isHit = isHit || (trimmed.start <= run.start && trimmed.end! > run.start)
            }
            return isHit
        }
        #expect(try !trims())
        try volume.journal.commitNow()
        #expect(try trims())
        try volume.journal.close()
    }

    @Test func nobodyIsGivenWhatIsBeingTrimmed() throws {
        let volume = try Volume()
        var trimmedCount = 0
        _ = try trimAll(volume) { run throws(Ext4Error) in
            trimmedCount += 1
            let taken = try volume.take(3, goal: run.start.rawValue)
            #expect(taken.end! <= run.start || taken.start >= run.end!)
        }
        #expect(trimmedCount > 3)
        try volume.journal.close()
    }

    @Test func shortRunsAreLeft() throws {
        let volume = try Volume()
        var runs: [BlockRun] = []
        _ = try trimAll(volume, least: 1_000) { runs.append($0) }
        #expect(!runs.isEmpty && runs.allSatisfy { $0.count >= 1_000 })
        // An error of the device ends it, and what was being trimmed is free again.
        let free = volume.blocks.freeBlockCount
        #expect(throws: Ext4Error.posix(Errno.ioError)) {
            _ = try trimAll(volume) { _ throws(Ext4Error) in throw .posix(Errno.ioError) }
        }
        let space = try volume.blocks.reserve(free, privileged: true)
        while space.remaining > 0 { _ = try volume.blocks.stage(upTo: 9_999, goal: FSBlock(0), from: space) }
        try volume.journal.close()
    }
}
