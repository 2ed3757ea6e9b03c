import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// Each oracle must be able to say no: it is shown a state that is wrong in the one way that it looks for.
@Suite struct OracleTests {
    /// A volume with a few synced files, its disk after the unmount, and the history of both.
    private struct Recorded {
        let base: [UInt8]
        let disk: MemoryDevice
        let history: ModelHistory
        var last: Int { history.steps.count - 1 }

        func state() throws -> RecoveredState {
            try RecoveredState(recovering: disk, begun: last, returned: last)
        }
    }

    private static func record(_ body: (inout WorkloadBuilder) -> Void) throws -> Recorded {
        var builder = WorkloadBuilder(ModelTree(blockByteCount: 1024))
        body(&builder)
        let base = try TestVolume.small.make()
        let disk = MemoryDevice(base)
        let run = try WorkloadRun(on: disk, tree: ModelTree(blockByteCount: 1024), options: .deterministic())
        for operation in builder.operations { try run.perform(operation) }
        try run.perform(.unmount)
        return Recorded(base: base, disk: disk, history: run.history)
    }

    private static func files(_ work: inout WorkloadBuilder) {
        work.makeDirectory("A")
        work.create("A/foo")
        work.write("A/foo", at: 0, count: 9000)
        work.setAttribute("A/foo", "user.a", count: 30)
        work.sync("A/foo")
        work.link("A/foo", as: "bar")
        work.syncAll()
    }

    private static func oracles(_ recorded: Recorded) throws -> [any Oracle] {
        try [StructureOracle()] + Oracles.ofTree(recorded.history)
            + Oracles.thatRecover(MemoryDevice(recorded.base))
    }

    @Test func aGoodStateSatisfiesAll() throws {
        let recorded = try Self.record(Self.files)
        let state = try recorded.state()
        let complaints = try Self.oracles(recorded).flatMap { try $0.complaints(about: state) }
        #expect(complaints == [])
    }

    /// A disk from before the last syncs, of which they are said to have returned.
    @Test func whatWasAcknowledgedIsMissed() throws {
        let whole = try Self.record(Self.files)
        let early = try Self.record { work in
            work.makeDirectory("A")
            work.create("A/foo")
            work.write("A/foo", at: 0, count: 9000)
            work.syncAll()
        }
        let state = try RecoveredState(recovering: early.disk, begun: whole.last, returned: whole.last)
        let complaints = try DurabilityOracle(whole.history).complaints(about: state)
        #expect(complaints.contains { $0.contains("other names") })
        #expect(complaints.contains { $0.contains("/bar") && $0.contains("no such name") })
        #expect(try !PrefixOracle(whole.history).complaints(about: state).isEmpty)
    }

    /// Each thing that a sync covers is missed by itself.
    @Test(arguments: ["mode", "links", "attributes", "data", "size", "sectors", "names"])
    func eachPartOfWhatASyncCoversIsMissed(part: String) throws {
        let recorded = try Self.record(Self.files)
        let good = try recorded.state()
        var tree = good.tree
        let name = Array(part == "names" ? "A".utf8 : "bar".utf8)
        let inode = try #require(tree.nodes[.root]?.entries[name])
        switch part {
        case "mode": tree.nodes[inode]?.mode ^= 1
        case "links": tree.nodes[inode]?.linkCount += 1
        case "attributes": tree.nodes[inode]?.attributes = [:]
        case "data": tree.nodes[inode]?.content[4000] ^= 1
        case "size": tree.nodes[inode]?.size += 1
        case "sectors": tree.nodes[inode]?.sectorCount = 4
        default: tree.nodes[inode]?.entries[Array("more".utf8)] = inode
        }
        let complaints = try DurabilityOracle(recorded.history).complaints(about: good.showing(tree))
        #expect(!complaints.isEmpty)
    }

    @Test func freeSpaceInAFileIsSeen() throws {
        let recorded = try Self.record(Self.files)
        let system = try FileSystem.mount(on: recorded.disk, options: .deterministic())
        let file = try #require(try system.lookup(try FileName(Array("bar".utf8)), in: .root))
        let poison = [UInt8](repeating: StaleDataOracle.poison, count: 100)
        _ = try system.write(file.inode, at: 3000, poison.span.bytes)
        system.forget(file.inode, count: 1)
        try system.unmount()
        #expect(try StaleDataOracle().complaints(about: recorded.state()).count == 1)
    }

    /// A disk that changes between two recoveries.
    @Test func recoveriesThatDifferAreSeen() throws {
        let recorded = try Self.record(Self.files)
        let state = try recorded.state()
        let data = Operation.pattern(stamp: 1, at: 0, count: 512)
        let image = recorded.disk.bytes
        let place = try #require(
            stride(from: 0, to: image.count, by: 1024).first { image[$0..<$0 + 512].elementsEqual(data) })
        let other = [UInt8](repeating: 0x11, count: 512)
        try recorded.disk.write(other.span.bytes, at: UInt64(place), mode: .cached)
        #expect(try !IdempotenceOracle().complaints(about: state).isEmpty)
        #expect(try !RecoveryCutOracle(depth: 1).complaints(about: state).isEmpty)
    }

    /// A volume that had more room, and one whose bitmap says that a block of nobody is in use.
    @Test func lostSpaceIsSeen() throws {
        let recorded = try Self.record(Self.files)
        let smaller = try Self.record { $0.create("gone") }
        let state = try smaller.state()
        let space = try SpaceOracle(fresh: recorded.disk, MountOptions.deterministic())
        #expect(try space.complaints(about: state).count == 2)

        var image = try DamagedImage(ImageTree.Kind.ext4.tree())
        let leak = try #require(Damage.all.first { $0.rule == .blockLeaked })
        try leak.body(&image)
        let leaked = try RecoveredState(recovering: MemoryDevice(image.bytes), begun: 0, returned: 0)
        #expect(try !StructureOracle().complaints(about: leaked).isEmpty)
        #expect(try !UsabilityOracle().complaints(about: leaked).isEmpty)
    }
}
