import Foundation
import Testing

/// Runs the command that was built beside the tests.
private func replay(_ arguments: String...) throws -> E2fsprogs.Result {
    let folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    return try E2fsprogs.run([folder.appendingPathComponent("jext4-replay").path] + arguments)
}

/// An image whose log debugfs wrote: two transactions over the blocks of a file, of which one can be damaged.
private func dirtyImage() throws -> (image: ImageFile, homes: [UInt64], log: UInt64) {
    let image = try ImageFile.make(["-t", "ext4", "-b", "1024"], size: "16M")
    let payload = ImageFile()
    try Data(repeating: 0x5A, count: 8192).write(to: URL(fileURLWithPath: payload.path))
    _ = try image.debugfs(["write \(payload.path) payload"])
    let homes = try image.blocks(of: "/payload")
    try Data(repeating: 0xC3, count: 8192).write(to: URL(fileURLWithPath: payload.path))
    _ = try image.debugfs([
        "journal_open -c", "journal_write -b \(homes[0]),\(homes[1]) \(payload.path)",
        "journal_write -b \(homes[2]) \(payload.path)", "journal_close",
    ])
    return (image, homes, try #require(try image.blocks(of: "<8>").first))
}

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
    #expect(plan.output.contains("{\"type\":\"plan\",\"transactions\":2,\"blocks\":3,\"changes\":3,\"revoked\":0}"))
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
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: image.path))
    // The logged copy of the second transaction: super block, descriptor, two blocks, commit, descriptor, block.
    try file.seek(toOffset: (log + 6) * 1024 + 100)
    try file.write(contentsOf: Data([0]))
    try file.close()
    let before = try image.bytes()
    #expect(try replay("show", image.path).status == 4)
    #expect(try replay("apply", image.path).status == 4)
    #expect(try image.bytes() == before)
    #expect(try replay("apply", "--up-to-damage", image.path).status == 5)
    let after = try image.bytes()
    #expect(after[Int(homes[0]) * 1024] == 0xC3 && after[Int(homes[2]) * 1024] == 0x5A)
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
