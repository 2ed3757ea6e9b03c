import BlockIO
import Foundation
import Testing

/// show and plan write nothing and tell what apply then does; a second apply has nothing to do.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func theCommandReplays() throws {
    // The exit status is what scripts go by, and a look must never change an image.
    let (image, homes, _) = try dirtyImage()
    let before = try image.bytes()
    let show = try replay("show", "--blocks", "--json", image.path)
    #expect(show.status == 0)
    #expect(show.output.contains("\"type\":\"block\""))
    let plan = try replay("plan", "--json", image.path)
    #expect(plan.status == 0)
    #expect(plan.output.contains("{\"type\":\"plan\",\"transactions\":2,\"blocks\":3,\"changes\":3,\"revoked\":0,"))
    for line in (show.output + plan.output).split(separator: "\n") {
        #expect(throws: Never.self) { try JSONSerialization.jsonObject(with: Data(line.utf8)) }
    }
    #expect(try image.bytes() == before)
    #expect(try replay("apply", image.path).status == 1)
    let after = try image.bytes()
    for home in homes[0..<3] { #expect(after[Int(home) * 1024] == 0xC3) }
    #expect(after[Int(homes[3]) * 1024] == 0x5A)
    #expect(try replay("apply", image.path).status == 0)
    let check = try image.fsck(["-fn"])
    #expect(check.status == 0 && !check.output.contains("journal"), "\(check.output)")
}

/// A log with a bad block before a valid commit is left alone until its owner says otherwise.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func theCommandKeepsItsHandsOffDamage() throws {
    // What lies behind the damage may be recovered by other means, once.
    let (image, homes, log) = try dirtyImage()
    // The logged copy of the second transaction: super block, descriptor, two blocks, commit, descriptor, block.
    try image.put([0], at: log[6] * 1024 + 100)
    let before = try image.bytes()
    #expect(try replay("show", image.path).status == 4)
    let refused = try replay("apply", image.path)
    #expect(refused.status == 4 && refused.output.contains("--up-to-damage applies what precedes that"))
    #expect(try image.bytes() == before)
    #expect(try replay("apply", "--up-to-damage", image.path).status == 5)
    let after = try image.bytes()
    #expect(after[Int(homes[0]) * 1024] == 0xC3 && after[Int(homes[2]) * 1024] == 0x5A)
}

/// Nothing precedes damage in the first transaction: who applies "up to it" loses the log, and is told so.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func damageInTheFirstTransactionIsCalledThat() throws {
    let (image, _, log) = try dirtyImage()
    try image.put([0], at: log[2] * 1024 + 100)
    let refused = try replay("apply", image.path)
    #expect(refused.status == 4 && refused.output.contains("would throw all of the log away"), "\(refused.output)")
}

/// Nobody reads a manual first: each command shows how it is used, and a shell can complete it.
@Test func theCommandExplainsItself() throws {
    for command in ["show", "plan", "apply", "undo", "extract"] {
        let help = try replay(command, "--help")
        #expect(help.status == 0 && help.output.contains("Example"), "\(help.output)")
        #expect(help.output.contains("  jext4-replay \(command) "), "\(help.output)")
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = try replay("--generate-completion-script", shell)
        #expect(script.status == 0 && script.output.contains("extract"))
    }
}

/// Bad command lines, missing images and things that are no ext4 have statuses of their own.
@Test func theCommandTellsItsFailuresApart() throws {
    // fsck's callers decide by these bits whether to mount.
    #expect(try replay("apply").status == 16)
    #expect(try replay("polish", "image").status == 16)
    #expect(try replay("show", "/nonexistent/image").status == 8)
    #expect(try replay("--version").status == 0)
    let image = ImageFile()
    try Data(count: 1 << 20).write(to: URL(fileURLWithPath: image.path))
    let result = try replay("show", image.path)
    #expect(result.status == 8 && result.output.contains("not an ext4 file system"))
}

/// Two programs that write one volume destroy it: what anybody has mounted or claimed is refused, at any offset.
@Test(.enabled(if: E2fsprogs.hasLoopMounts && E2fsprogs.isPresent, "needs root and loop devices"))
func theCommandRefusesImagesInUse() throws {
    let (image, _, _) = try dirtyImage()
    try E2fsprogs.run(["e2fsck", "-fy", image.path])
    let disk = ImageFile()
    try (Data(count: 1 << 20) + Data(try image.bytes())).write(to: URL(fileURLWithPath: disk.path))
    let folder = NewPath()
    try FileManager.default.createDirectory(atPath: folder.path, withIntermediateDirectories: false)
    let mounted = try E2fsprogs.run(["mount", "-o", "loop,offset=1048576", disk.path, folder.path])
    try #require(mounted.status == 0, "\(mounted.output)")
    defer { _ = try? E2fsprogs.run(["umount", folder.path]) }
    let device = try E2fsprogs.run(["findmnt", "-no", "SOURCE", folder.path]).output.trimmingCharacters(in: .newlines)
    for arguments in [["--offset", "1048576", disk.path], [device]] {
        for command in ["show", "plan", "apply"] {
            let result = try replay([command] + arguments)
            #expect(result.status == 8 && result.output.contains("in use"), "\(command): \(result.output)")
        }
    }
    let undo = NewPath()
    #expect(try replay("apply", "--undo", undo.path, image.path).status == 0)
    // Held as a server holds it.
    let held = open(image.path, O_RDWR)
    defer { close(held) }
    #expect(flock(held, LOCK_EX | LOCK_NB) == 0)
    #expect(try replay("apply", image.path).status == 8)
    #expect(try replay("show", image.path).status == 8)
}

/// fuse2fs takes no lock: only the mount table tells.
@Test(.enabled(if: E2fsprogs.hasFuse2fs && E2fsprogs.isPresent, "needs fuse2fs and root"))
func theCommandRefusesWhatFuse2fsHasMounted() throws {
    let image = try ImageFile.make(["-t", "ext4", "-b", "1024"], size: "4M")
    let folder = NewPath()
    try FileManager.default.createDirectory(atPath: folder.path, withIntermediateDirectories: false)
    let mounted = try E2fsprogs.run(["fuse2fs", image.path, folder.path])
    try #require(mounted.status == 0, "\(mounted.output)")
    defer { _ = try? E2fsprogs.run(["umount", folder.path]) }
    let result = try replay("apply", image.path)
    #expect(result.status == 8 && result.output.contains(folder.path), "\(result.output)")
}

/// A script that reads a short answer must not be told that all was well; a reader that has had enough is no error.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func whatCannotBePrintedIsAnError() throws {
    let image = try dirtyImage().image
    for command in ["show", "plan --json", "--help"] {
        let full = try E2fsprogs.run(["sh", "-c", "'\(replayCommand)' \(command) '\(image.path)' > /dev/full"])
        #expect(full.status == 8 && full.output.contains("standard output"), "\(command): \(full.output)")
    }
    let line = "{ sleep 0.3; '\(replayCommand)' show '\(image.path)'; echo status $? >&2; } | true"
    #expect(try E2fsprogs.run(["sh", "-c", line]).output.contains("status 0"))
}

/// Half a file under the name that was asked for would be taken for the whole.
@Test(.enabled(if: E2fsprogs.hasLoopMounts && E2fsprogs.isPresent, "needs root"))
func extractLeavesNoFileBehindWhenItFails() throws {
    let (image, homes, _) = try dirtyImage(blockSize: "4096")
    let folder = NewPath()
    try FileManager.default.createDirectory(atPath: folder.path, withIntermediateDirectories: false)
    let mounted = try E2fsprogs.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", folder.path])
    try #require(mounted.status == 0, "\(mounted.output)")
    defer { _ = try? E2fsprogs.run(["umount", folder.path]) }
    try Data([1]).write(to: URL(fileURLWithPath: folder.path + "/full"))
    let result = try replay("extract", "--block", "\(homes[0])", "--output", folder.path + "/block", image.path)
    #expect(result.status == 8, "\(result.output)")
    #expect(!FileManager.default.fileExists(atPath: folder.path + "/block"))
}

/// Between the check that nobody has a device mounted and the last write to it the kernel must not mount it.
@Test(.enabled(if: E2fsprogs.hasLoopMounts && E2fsprogs.isPresent, "needs root and loop devices"))
func aClaimKeepsTheKernelOffADevice() throws {
    let image = try ImageFile.make(["-t", "ext4", "-b", "1024"], size: "4M")
    let loop = try E2fsprogs.run(["losetup", "-f", "--show", image.path]).output.filter { !$0.isWhitespace }
    try #require(loop.hasPrefix("/dev/"))
    defer { _ = try? E2fsprogs.run(["losetup", "-d", loop]) }
    func isFree() -> Bool {
        let opened = open(loop, O_RDONLY | O_EXCL)
        if opened >= 0 { close(opened) }
        return opened >= 0
    }
    let plain = try ImageClaim(loop, readOnly: false, lockFile: nil)
    #expect(isFree(), "the mount of a FUSE server on a block device is the kernel's own claim")
    plain.release()
    let claim = try ImageClaim(loop, readOnly: false, lockFile: nil, keepsMountsOff: true)
    #expect(!isFree())
    claim.release()
    #expect(isFree())
}
