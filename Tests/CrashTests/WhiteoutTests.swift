import CrashLab
import Ext4Format
import FileSystem
import Testing

/// P1 and P2 for RENAME_WHITEOUT: at every moment the old name stands for what was moved, or for a device 0:0 while the
/// new one stands for what was moved.
@Suite struct WhiteoutTests {
    @Test(arguments: [TestVolume.small, .orphanList]) func everyStateIsBeforeOrAfter(volume: TestVolume) throws {
        var work = WorkloadBuilder(ModelTree(blockByteCount: volume.blockByteCount))
        work.makeDirectory("a")
        work.makeDirectory("b")
        for name in ["a/within", "a/across", "a/over", "b/target"] { work.create(name) }
        work.write("a/over", at: 0, count: 3000)
        work.write("b/target", at: 0, count: 9000)
        work.makeDirectory("a/folder")
        work.syncAll()
        work.whiteout("a/within", movingTo: "a/moved")
        work.sync("a")
        work.whiteout("a/across", movingTo: "b/across")
        work.whiteout("a/over", movingTo: "b/target")
        work.sync("b")
        work.whiteout("a/folder", movingTo: "b/folder")
        // Over a whiteout, as an overlay does when the name comes back.
        work.whiteout("b/across", movingTo: "a/across")
        work.sync("a")
        var campaign = CrashCampaign(seed: 1100, volume: volume, operations: work.operations)
        campaign.name = "whiteout"
        try campaign.runThroughAllStates(moreThan: 20)
    }
}
