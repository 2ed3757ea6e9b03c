import BlockIO
import Ext4Format
import Journal
import Testing

/// What was committed is home after a checkpoint, and close leaves an empty log with a later sequence.
@Test func aCheckpointCarriesCommittedBlocksHome() throws {
    // The shortest way of a block through the log: if this fails, nothing else means anything.
    let bench = try Bench()
    try bench.fill(7, 0xA7)
    try bench.fill(8, 0xA8)
    try bench.journal.commitNow()
    let disk = try #require(bench.device as? MemoryDevice)
    #expect(Bench.uniform(7, disk.bytes) == 0, "a block went home before its checkpoint")
    try bench.journal.close()
    #expect(Bench.uniform(7, disk.bytes) == 0xA7)
    #expect(Bench.uniform(8, disk.bytes) == 0xA8)
    let buffer = AlignedBuffer(byteCount: 1024)
    try bench.log.read(0, count: 1, into: buffer)
    let superBlock = try buffer.withBytes { bytes throws(Ext4Error) in try JournalSuperBlock(decoding: bytes) }
    #expect(superBlock.start == 0)
    #expect(superBlock.sequence == TransactionID(2))
}
