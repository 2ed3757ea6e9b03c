import BlockIO
import CrashLab
import Testing

/// The order of writes and flushes is the protocol's: nothing is left to what a device happens to do.
@Test(arguments: [21, 22, 23] as [UInt64]) func theTraceObeysTheProtocol(_ seed: UInt64) throws {
    // Scenario J2 and its kin need rare states to show; their cause shows in every trace.
    var shape = Bench.Shape()
    shape.homeBlocks = 32
    shape.logBlocks = 40
    var plan = JournalLife.Plan(seed: seed, steps: 200, base: try Bench.format(shape))
    plan.isClosed = true
    let logStart = UInt64(shape.homeBlocks) * 1024
    // Cached writes that no flush has covered: to homes, and anywhere.
    var homes = 0, all = 0, commits = 0, tails = 0
    for case .submitted(_, let request) in try JournalLife(shape, plan).events {
        switch request {
        case .flush: (homes, all) = (0, 0)
        case .discard: continue
        case .write(let offset, _, .throughToMedia) where offset == logStart:
            #expect(homes == 0, "the tail moved before the homes were flushed")
            tails += 1
        case .write(let offset, let bytes, .throughToMedia):
            #expect(offset > logStart && bytes.count == 1024)
            #expect(all == 0, "a commit block before the flush of what it commits")
            commits += 1
        case .write(let offset, _, .cached):
            #expect(offset != logStart, "the journal's super block was written through a cache")
            all += 1
            if offset < logStart { homes += 1 }
        }
    }
    #expect(commits > 10 && tails > 3)
}
