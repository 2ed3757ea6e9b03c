import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Journal
import Testing

/// A volume of 8 MiB in a file of 16 MiB whose log holds all that resize2fs changes to fill it.
private struct GrowingImage {
    let image: ImageFile
    /// What the log makes of it, as resize2fs does.
    let grown: [UInt8]
    let homes: [UInt64]

    init() throws {
        image = try ImageFile.make(["-t", "ext4", "-b", "1024", "-J", "size=1"], size: "8M")
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: image.path))
        try file.truncate(atOffset: 16 << 20)
        try file.close()
        let other = try image.copy()
        let resize = try E2fsprogs.run(["resize2fs", "-f", other.path])
        try #require(resize.status == 0, "\(resize.output)")
        // As in a log of Linux, where the bit is set as long as the volume is mounted.
        for each in [image, other] { _ = try each.debugfs(["feature needs_recovery"]) }
        let (old, new) = (try image.bytes(), try other.bytes())
        grown = new
        homes = (0..<UInt64(new.count >> 10)).filter { home in
            let range = Int(home) << 10..<Int(home + 1) << 10
            return old[range] != new[range]
        }
        try #require(homes.contains(1) && homes.contains { $0 > 8192 })
        try log()
    }

    private func log() throws {
        let device = try FileDevice(path: image.path, readOnly: false)
        let log = try image.log(on: device, blockByteCount: 1024)
        let superBlock = try log.readSuperBlock()
        var author = LogAuthor(
            LogAuthor.Format(isWide: false), end: log.blockCount, sequence: 7, uuid: superBlock.uuid)
        var rest = homes[...]
        while !rest.isEmpty {
            author.log(
                rest.prefix(author.tagsPerDescriptor).map {
                    LogAuthor.Item(home: $0, content: Array(grown[Int($0) << 10..<Int($0 + 1) << 10]))
                })
            rest = rest.dropFirst(author.tagsPerDescriptor)
        }
        author.commit()
        try author.write(to: log)
        try device.flush()
    }
}

/// A crash during an online resize: the log holds metadata of groups that the super block at home does not know yet.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func aLogThatEnlargesItsVolumeIsReplayed() throws {
    // The super block that covers them lies in the same log: to call it damaged keeps people from a sound volume.
    let growing = try GrowingImage()
    let theirs = try growing.image.copy(), ours = try growing.image.copy()
    let replay = try theirs.fsck(["-fy", "-E", "journal_only"])
    #expect(replay.status <= 1 && replay.output.contains("recovering journal"), "\(replay.output)")
    let device = try FileDevice(path: ours.path, readOnly: false)
    let volume = try OfflineVolume(on: device)
    let journal = try #require(volume.journal)
    let plan = try volume.plan(journal)
    #expect(plan.end == .clean && plan.copies.count == growing.homes.count)
    _ = try volume.apply(plan, journal)
    let (a, b) = (try ours.bytes(), try theirs.bytes())
    // The super block has what e2fsck and we note in it.
    for home in growing.homes where home != 1 {
        let range = Int(home) << 10..<Int(home + 1) << 10
        #expect(a[range] == growing.grown[range] && b[range] == growing.grown[range], "block \(home)")
    }
    let check = try ours.fsck(["-fn"])
    #expect(check.status == 0, "\(check.output)")

    let mounted = MemoryDevice(try growing.image.bytes())
    let system = try FileSystem.mount(on: mounted, options: MountOptions())
    let superBlock = try SuperBlock(
        decoding: Array(mounted.bytes[1024..<2048]).span.bytes, deviceByteCount: mounted.byteCount)
    #expect(superBlock.blockCount == 16 << 10)
    try system.unmount()
    try Data(mounted.bytes).write(to: URL(fileURLWithPath: ours.path))
    let after = try ours.fsck(["-fn"])
    #expect(after.status == 0, "\(after.output)")
}
