import CrashLab
import Ext4Format
import FileSystem
import Testing

/// P2 and P3 for each mode of fallocate: whatever a power cut leaves, the call has happened as a whole or not at all,
/// and blocks that nobody has written read as zeros.
@Suite struct FallocateTests {
    enum Mode: CaseIterable {
        case allocate, keepSize, punch, collapse, insert, insertAtTheStart

        func append(to work: inout WorkloadBuilder, _ unit: Int) {
            switch self {
            case .allocate: work.allocate("f", at: 3 * unit, count: 20 * unit, keepsSize: false)
            case .keepSize: work.allocate("f", at: 3 * unit, count: 30 * unit, keepsSize: true)
            case .punch: work.punch("f", at: 2 * unit + 100, count: 6 * unit)
            case .collapse: work.shift("f", at: 3 * unit, by: -4 * unit)
            case .insert: work.shift("f", at: 5 * unit, by: 3 * unit)
            case .insertAtTheStart: work.shift("f", at: 0, by: 2 * unit)
            }
        }
    }

    /// The call alone and after another that is not durable yet; then growth behind it, which is not written in place.
    @Test(arguments: Mode.allCases) func everyStateIsBeforeOrAfter(mode: Mode) throws {
        let volume = TestVolume.small
        let unit = volume.blockByteCount
        var work = WorkloadBuilder(ModelTree(blockByteCount: unit))
        work.create("f")
        work.write("f", at: 0, count: 9 * unit + 321)
        // An extent of its own, and a hole before it.
        work.write("f", at: 12 * unit, count: 2 * unit)
        work.syncAll()
        mode.append(to: &work, unit)
        work.sync("f")
        work.shift("f", at: unit, by: -unit)
        // Its edges are zeroed in place.
        if mode == .punch { work.sync("f") }
        mode.append(to: &work, unit)
        work.sync("f")
        let size = work.node("f")?.content.count ?? 0
        work.write("f", at: (size + unit - 1) / unit * unit + unit, count: 3 * unit)
        work.create("g")
        work.sync("g")
        var campaign = CrashCampaign(seed: 900, volume: volume, operations: work.operations)
        campaign.name = "fallocate: \(mode)"
        try campaign.runThroughAllStates(moreThan: 10)
    }
}
