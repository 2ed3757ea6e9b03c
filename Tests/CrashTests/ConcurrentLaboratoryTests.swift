import BlockIO
import CrashLab
import Testing

/// Threads that change what a commit is about while it is on its way, in every state of every epoch: what
/// `scripts/mutants.py --laboratory` finds those mutants with that take two threads.
///
/// The lives are short and many, as much of what threads can do to one another happens in the first commit of a mount;
/// and the disk is slow, so that they get far while it writes.
@Suite struct ConcurrentLaboratoryTests {
    private static func campaign(_ seed: UInt64, operations: Int = 6) -> ConcurrentCampaign {
        var campaign = ConcurrentCampaign(
            volume: .small, ConcurrentWorkload(seed: seed, threadCount: 3, profile: .syncs(operations)))
        campaign.transferTurns = 4
        return campaign
    }

    /// P1 and P2: what a sync covered is there, and the tree is that of an order of the calls.
    @Test func everyStateIsThatOfSomeOrderOfTheCalls() throws {
        var result = Exploration("threads")
        for seed in 1...12 as ClosedRange<UInt64> where !result.isDamaged {
            try result.explore(Self.campaign(seed).record())
        }
        let isClean = result.isClean()
        #expect(isClean)
    }

    /// P5: threads wait for a commit that fails. Each is told, or what it waited for is there.
    @Test func everyStateHoldsWhatWaitersWereTold() throws {
        var result = Exploration("errors beside threads")
        // The first write and the first flush are those of the mount.
        for operation in [.flush, .write] as [FaultyDevice.Operation] {
            for ordinal in 2...6 {
                for seed in 1...2 as ClosedRange<UInt64> where !result.isDamaged {
                    var campaign = Self.campaign(seed)
                    campaign.faults = [.init(operation, ordinal: ordinal)]
                    try result.explore(campaign.record())
                }
            }
        }
        let isClean = result.isClean()
        #expect(isClean)
    }
}
