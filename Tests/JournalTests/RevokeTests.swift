import BlockIO
import Ext4Format
import Journal
import Testing

/// Frees a metadata block in a handle of its own.
extension Bench {
    func free(_ number: UInt64) throws(Ext4Error) {
        try journal.withHandle(credits: 1) { handle throws(Ext4Error) in try handle.revoke(FSBlock(number)) }
    }
    func create(_ number: UInt64, _ byte: UInt8) throws(Ext4Error) {
        try journal.withHandle(credits: 1) { handle throws(Ext4Error) in
            let block = try handle.create(FSBlock(number))
            try handle.modify(block) { $0.fill(0..<$0.byteCount, with: byte) }
        }
    }
    /// What a file would hold in a block: written in place, past the journal.
    func writeData(_ number: UInt64, _ byte: UInt8) throws(Ext4Error) {
        let buffer = AlignedBuffer(byteCount: Self.blockByteCount)
        buffer.withMutableBytes { $0.fill(0..<$0.byteCount, with: byte) }
        try device.write(buffer, at: number * UInt64(Self.blockByteCount))
    }
}

/// Replay does not put a freed metadata block over the data that took its place.
@Test(arguments: [false, true]) func replayLeavesReusedBlocksAlone(isCached: Bool) throws {
    // Without the revoke record an old directory block appears in the middle of a file.
    let bench = try Bench()
    try bench.create(40, 0xD1)
    try bench.journal.commitNow()
    if !isCached {
        try bench.journal.checkpointNow()
        try bench.fill(1, 1)
        try bench.journal.commitNow()
        bench.cache.drop(FSBlock(40), count: 1)
    }
    try bench.free(40)
    try bench.journal.commitNow()
    try bench.writeData(40, 0xFF)
    try bench.fill(2, 2)
    try bench.journal.commitNow()
    let (disk, plan) = try bench.recovered()
    #expect(Bench.uniform(40, disk) == 0xFF)
    #expect(plan.transactions.map(\.revokeCount).reduce(0, +) == 1)
    try bench.journal.close()
    #expect(try Bench.uniform(40, bench.bytes) == 0xFF, "a checkpoint wrote a freed block home")
}

/// A block that is freed and allocated again as metadata in one transaction is replayed.
@Test func reallocationCancelsTheRevoke() throws {
    // A revoke hides copies of its own transaction too: left in place it would lose the new block.
    let bench = try Bench()
    try bench.create(41, 1)
    try bench.journal.commitNow()
    try bench.free(41)
    try bench.create(41, 2)
    try bench.journal.commitNow()
    let (disk, plan) = try bench.recovered()
    #expect(Bench.uniform(41, disk) == 2)
    #expect(plan.transactions.allSatisfy { $0.revokeCount == 0 })
}

/// Freed, allocated again and freed once more in one transaction: the older copy is still revoked.
@Test func theLastFreeWins() throws {
    // The second free must not take the block for one that the log has never held.
    let bench = try Bench()
    try bench.create(42, 1)
    try bench.journal.commitNow()
    try bench.free(42)
    try bench.create(42, 2)
    try bench.free(42)
    try bench.journal.commitNow()
    try bench.writeData(42, 0xFF)
    #expect(try Bench.uniform(42, bench.recovered().disk) == 0xFF)
    try bench.journal.close()
    #expect(try Bench.uniform(42, bench.bytes) == 0xFF)
}

/// A block created and freed within one transaction leaves no trace in the log.
@Test func whatWasNeverLoggedNeedsNoRevoke() throws {
    // Temporary blocks are common in splits; a record for each would fill the log.
    let bench = try Bench()
    try bench.fill(1, 1)
    try bench.create(43, 1)
    try bench.free(43)
    try bench.journal.commitNow()
    let plan = try bench.recovered().plan
    #expect(plan.transactions.map(\.revokeCount) == [0])
    #expect(plan.copies.map(\.home.rawValue) == [1])
}

/// A block that the committing transaction holds and the running one frees is neither replayed nor checkpointed over
/// what comes after it.
@Test func freeingABlockOfTheCommittingTransaction() throws {
    // Scenario J7: the committing transaction's dirty version outlived the free and was written over new data.
    let shape = Bench.Shape()
    let spy = WriteSpy(try MemoryDevice(Bench.format(shape)))
    let bench = try Bench(shape, on: spy)
    try bench.create(44, 0xE1)
    spy.once = { () throws(Ext4Error) in try bench.free(44) }
    try bench.journal.commitNow()
    // The free is not durable: the block still belongs to the first transaction.
    #expect(try Bench.uniform(44, bench.recovered().disk) == 0xE1)
    try bench.journal.commitNow()
    try bench.writeData(44, 0xFF)
    #expect(try Bench.uniform(44, bench.recovered().disk) == 0xFF)
    try bench.journal.close()
    #expect(try Bench.uniform(44, bench.bytes) == 0xFF)
}

/// A checkpoint between a free and its commit keeps the freed block's last committed version recoverable.
@Test func anUncommittedFreeDoesNotLoseTheBlock() throws {
    // If the free never commits, the block is still in use, and its content must come from somewhere.
    let bench = try Bench()
    try bench.create(45, 0xC5)
    try bench.journal.commitNow()
    try bench.free(45)
    // Fills the log until a checkpoint must have moved the tail; each fill commits with what runs, so stop before.
    let copy = try MemoryDevice(bench.bytes)
    try Bench.recover(Bench.Shape(), copy)
    #expect(Bench.uniform(45, copy.bytes) == 0xC5)
    try bench.journal.checkpointNow()
    try bench.writeData(45, 0xFF)
    #expect(try Bench.uniform(45, bench.recovered().disk) == 0xFF)
}

/// Changing a block after it was freed in the same transaction is an error of the image, not a trap.
@Test func aFreedBlockCannotBeChanged() throws {
    // Two structures of a damaged image may name one block: P6 asks for an error.
    let bench = try Bench()
    let block = try bench.cache.block(FSBlock(46))
    #expect(throws: Ext4Error.self) {
        try bench.journal.withHandle(credits: 4) { handle throws(Ext4Error) in
            try handle.modify(block) { $0.fill(0..<4, with: 1) }
            try handle.revoke(FSBlock(46))
            try handle.modify(block) { $0.fill(0..<4, with: 2) }
        }
    }
    #expect(bench.journal.isAborted)
}

/// Revokes that fill several blocks are all written and all honoured.
@Test(arguments: [[.checksumV3], [.checksumV2, .wide], []] as [JournalIncompatibleFeatures])
func manyRevokesFitTheirBlocks(_ features: JournalIncompatibleFeatures) throws {
    // The count of a revoke block leaves out the checksum behind the records: one too many is an overrun in a replayer.
    var shape = Bench.Shape()
    shape.homeBlocks = 2048
    shape.logBlocks = 4096
    shape.incompatible = features
    let bench = try Bench(shape)
    for first in stride(from: UInt64(100), to: 1000, by: 100) {
        try bench.journal.withHandle(credits: 100) { handle throws(Ext4Error) in
            for number in first..<first + 100 {
                let block = try handle.create(FSBlock(number))
                try handle.modify(block) { $0.fill(0..<$0.byteCount, with: 0xDD) }
            }
        }
    }
    try bench.journal.commitNow()
    try bench.journal.withHandle(credits: 900) { handle throws(Ext4Error) in
        for number in UInt64(100)..<1000 { try handle.revoke(FSBlock(number)) }
    }
    try bench.journal.commitNow()
    for number in UInt64(100)..<1000 { try bench.writeData(number, 0xFF) }
    let (disk, plan) = try bench.recovered(shape)
    #expect(plan.transactions.last?.revokeCount == 900)
    #expect((UInt64(100)..<1000).allSatisfy { Bench.uniform($0, disk) == 0xFF })
}
