import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing
import Threads

/// Threads that work on the same directories and files, in interleavings that a seed chooses.
@Suite struct ConcurrentWorkloadTests {
    private static func campaign(_ seed: UInt64, threads: Int = 3, operations: Int = 25) -> ConcurrentCampaign {
        ConcurrentCampaign(
            volume: .small, ConcurrentWorkload(seed: seed, threadCount: threads, profile: .shared(operations)))
    }

    private static func lines(_ events: [Trace.Event]) -> [String] { events.map { "\($0)" } }

    /// A seed is all that a failure needs to be met again: it decides every byte and the place of every request.
    @Test func aSeedGivesTheSameTraceEveryTime() throws {
        let first = try Self.campaign(1).record(), again = try Self.campaign(1).record()
        #expect(Self.lines(first.events) == Self.lines(again.events))
        let other = try Self.campaign(2).record()
        #expect(Self.lines(first.events) != Self.lines(other.events))
    }

    /// P1 and P2 where calls overlap: what a sync covered is there, and the tree is that of an order of the calls.
    @Test(arguments: 1...3) func everyCutLeavesWhatSomeOrderOfTheCallsDoes(seed: Int) throws {
        let found = try Self.campaign(UInt64(seed)).failures()
        #expect(found.list.isEmpty && found.stateCount > 20, "\(found.list.joined(separator: "\n"))")
    }

    /// On volumes of all kinds nobody waits for ever, and every answer is that of some order of the calls.
    @Test func noInterleavingIsADeadlockOrAnswersWrongly() throws {
        for seed in 1...20 as ClosedRange<UInt64> {
            #expect(throws: Never.self, "seed \(seed)") {
                _ = try ConcurrentCampaign.swarm(seed: seed, operations: 10...40).record()
            }
        }
    }

    /// Runs `work` on a fresh volume in the order of each seed.
    private func inOrders(
        of seeds: ClosedRange<UInt64>, _ work: @escaping @Sendable (FileSystem) throws -> Void
    ) throws {
        let base = MemoryDevice(try TestVolume.small.make())
        for seed in seeds {
            let scheduler = SeededScheduler(seed: seed, switchRate: 2)
            let device = ScheduledDevice(OverlayDevice(over: base), scheduler: scheduler)
            try scheduler.run {
                #expect(throws: Never.self) {
                    let system = try FileSystem.mount(on: device, options: .deterministic(manual: false))
                    try work(system)
                    try system.unmount()
                }
            }
        }
    }

    /// An exchange locks a file and a directory, and so does a link of that file into the directory: in one order.
    @Test func anExchangeAndALinkDoNotWaitForEachOther() throws {
        @Sendable func name(_ text: String) throws -> FileName { try FileName(Array(text.utf8)) }
        try inOrders(of: 1...40) { system in
            let file = try system.createFile(name("file"), in: .root, mode: 0o600, caller: .root)
            let folder = try system.makeDirectory(name("folder"), in: .root, mode: 0o700, caller: .root)
            #expect(file.inode < folder.inode)
            let exchange = Thread(name: "exchange") {
                #expect(throws: Never.self) {
                    try system.rename(name("file"), in: .root, to: name("folder"), in: .root, flags: .exchange)
                }
            }
            #expect(throws: Never.self) { try system.link(file.inode, as: name("link"), in: folder.inode) }
            exchange.join()
        }
    }

    /// Directories are locked by number only by a rename across directories, and one at a time: here number, number
    /// and tree would otherwise make a circle.
    @Test func renamesOfSiblingsAndBelowThemDoNotWaitForEachOther() throws {
        @Sendable func name(_ text: String) throws -> FileName { try FileName(Array(text.utf8)) }
        try inOrders(of: 1...3000) { system in
            let directories = try ["low", "x", "y"].map {
                try system.makeDirectory(name($0), in: .root, mode: 0o700, caller: .root).inode
            }
            let (low, x, y) = (directories[0], directories[1], directories[2])
            try system.rename(name("low"), in: .root, to: name("q"), in: y, flags: [])
            _ = try system.createFile(name("f"), in: low, mode: 0o600, caller: .root)
            #expect(low < x && x < y)
            let across = Thread(name: "across") {
                #expect(throws: Never.self) { try system.rename(name("f"), in: low, to: name("g"), in: x, flags: []) }
            }
            let siblings = Thread(name: "siblings") {
                #expect(throws: Never.self) {
                    try system.rename(name("x"), in: .root, to: name("y"), in: .root, flags: .exchange)
                }
            }
            #expect(throws: Never.self) { try system.rename(name("q"), in: y, to: name("z"), in: y, flags: []) }
            across.join()
            siblings.join()
        }
    }

    // MARK: - The judge can say no

    /// A device that promises to flush and does not loses calls that a sync covered.
    @Test func aDeviceThatIgnoresFlushesIsCaught() throws {
        let campaign = Self.campaign(1)
        var disk = DiskModel()
        disk.honoursFlush = false
        let failures = try campaign.check(try campaign.record(), disk, stopAfter: 3).failures
        #expect(failures.count == 3)
    }

    private static let name = Array("name".utf8)

    /// Of two threads that make one name, one succeeds, whichever it is.
    @Test(arguments: [true, false]) func calledTogetherOneOfTwoSucceeds(isFirst: Bool) {
        var history = ConcurrentHistory(ModelTree(blockByteCount: 1024), threadCount: 2)
        let calls = (0..<2).map { history.begin(.create(.root, Self.name, mode: 0o600), thread: $0) }
        let isExplained = history.finish(calls[0], failure: isFirst ? nil : 17)
        var other = history
        let isSameExplained = other.finish(calls[1], failure: isFirst ? nil : 17)
        let isOtherExplained = history.finish(calls[1], failure: isFirst ? 17 : nil)
        #expect(isExplained && !isSameExplained && isOtherExplained)
    }

    /// One after the other there is only one order: the second cannot succeed.
    @Test func calledInTurnTheSecondFails() {
        var history = ConcurrentHistory(ModelTree(blockByteCount: 1024), threadCount: 2)
        let first = history.begin(.create(.root, Self.name, mode: 0o600), thread: 0)
        let isExplained = history.finish(first, failure: nil)
        let second = history.begin(.create(.root, Self.name, mode: 0o600), thread: 1)
        let isSecondExplained = history.finish(second, failure: nil)
        #expect(isExplained && !isSecondExplained)
    }
}
