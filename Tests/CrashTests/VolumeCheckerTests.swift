import BlockIO
import Checker
import CrashLab
import Ext4Format
import Testing

/// Our checker against e2fsck: what one of them lets pass, so does the other.
@Suite struct VolumeCheckerTests {
    /// Both complain of each damage, ours by the name of the rule.
    @Test(arguments: Damage.all) func bothCheckersSee(_ damage: Damage) throws {
        var image = try DamagedImage(damage.tree.tree())
        try damage.body(&image)
        let findings = VolumeChecker(MemoryDevice(image.bytes)).check()
        #expect(findings.contains { $0.rule == damage.rule }, "\(findings)")
        let file = TemporaryFile("damaged", contents: image.bytes)
        let complaints = Structure.e2fsck(file.path)
        #expect(complaints.isEmpty == (damage.onlyOurs != nil), "e2fsck: \(complaints)")
    }

    /// A rule that no damage breaks may as well not be there.
    @Test func everyRuleIsBrokenOnce() {
        // Of the device, not of the image: below.
        let broken = Set(Damage.all.map(\.rule)).union([.readable])
        #expect(Finding.Rule.allCases.filter { !broken.contains($0) }.isEmpty)
    }

    /// libext2fs, which judges less, sees what it looks at: bitmaps, link counts, names, and the checksums on its way.
    @Test(arguments: Damage.all.filter(\.isOfTheTree)) func theLibrarySees(_ damage: Damage) throws {
        var image = try DamagedImage(damage.tree.tree())
        try damage.body(&image)
        let file = TemporaryFile("damaged", contents: image.bytes)
        #expect(!LibraryCheck.complaints(of: file.path).isEmpty)
    }

    @Test(arguments: ImageTree.Kind.allCases) func anImageOfOthersIsWhole(_ kind: ImageTree.Kind) throws {
        let complaints = try Structure.complaints(of: MemoryDevice(kind.tree().bytes))
        #expect(complaints == [])
    }

    /// An indirect block full of its own number stands for a million others on three levels, and must not be walked as
    /// often. e2fsck is not asked: it goes through all of them.
    @Test func anIndirectBlockThatLeadsToItselfIsWalkedOnce() throws {
        var image = try DamagedImage(ImageTree.Kind.ext3.tree())
        let block = image.field(LE<UInt32>(0x28 + 4 * 12), of: image.inode("/file"))
        try #require(block != 0)
        try image.editInode(image.inode("/file")) { $0[LE<UInt32>(0x28 + 4 * 14)] = block }
        image.editBlock(UInt64(block)) { bytes in
            for slot in 0..<bytes.byteCount / 4 { bytes[LE<UInt32>(4 * slot)] = block }
        }
        let findings = VolumeChecker(MemoryDevice(image.bytes)).check()
        #expect(findings.contains { $0.rule == .blockClaimedTwice } && findings.count < 1000)
    }

    /// A block that cannot be read is a finding, and the rest is checked all the same.
    @Test func anUnreadableBlockIsNamed() throws {
        let image = try DamagedImage(ImageTree.Kind.ext4.tree())
        let block = image.blocks("/many")[1]
        let device = FaultyDevice(MemoryDevice(image.bytes))
        device.arm(.init(.read, ordinal: 1, isPersistent: true, range: block * 1024..<(block + 1) * 1024))
        let findings = VolumeChecker(device).check()
        #expect(findings.first?.rule == .readable && findings.first?.block == FSBlock(block))
    }
}
