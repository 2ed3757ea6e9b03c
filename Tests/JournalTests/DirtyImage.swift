import Foundation
import Testing

/// Runs the command that was built beside the tests.
func replay(_ arguments: String...) throws -> E2fsprogs.Result { try replay(arguments) }

func replay(_ arguments: [String]) throws -> E2fsprogs.Result { try E2fsprogs.run([replayCommand] + arguments) }

let replayCommand: String = {
    let folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    return folder.appendingPathComponent("jext4-replay").path
}()

/// An image whose log debugfs wrote: two transactions over the blocks of a file, of which one can be damaged.
func dirtyImage(
    blockSize: String = "1024", options: [String] = []
) throws -> (image: ImageFile, homes: [UInt64], log: [UInt64]) {
    let image = try ImageFile.make(["-t", "ext4", "-b", blockSize] + options, size: blockSize == "1024" ? "4M" : "16M")
    let payload = ImageFile()
    try Data(repeating: 0x5A, count: 32768).write(to: URL(fileURLWithPath: payload.path))
    _ = try image.debugfs(["write \(payload.path) payload"])
    let homes = try image.blocks(of: "/payload")
    try Data(repeating: 0xC3, count: 32768).write(to: URL(fileURLWithPath: payload.path))
    _ = try image.debugfs([
        "journal_open -c", "journal_write -b \(homes[0]),\(homes[1]) \(payload.path)",
        "journal_write -b \(homes[2]) \(payload.path)", "journal_close",
    ])
    return (image, homes, try image.blocks(of: "<8>"))
}

/// As `dirtyImage`, and a third transaction changes the super block: the volume gets the label "replayed".
func dirtySuperBlockImage() throws -> ImageFile {
    let (image, _, _) = try dirtyImage()
    let named = try image.copy()
    _ = try named.debugfs(["set_super_value volume_name replayed"])
    let block = ImageFile()
    let bytes = try Data(contentsOf: URL(fileURLWithPath: named.path))
    try bytes[1024..<2048].write(to: URL(fileURLWithPath: block.path))
    _ = try image.debugfs(["journal_open -c", "journal_write -b 1 \(block.path)", "journal_close"])
    return image
}

/// As `dirtySuperBlockImage`, and the last mount recorded errors in place, of which the log knows nothing.
func erroneousImage() throws -> ImageFile {
    let image = try dirtySuperBlockImage()
    _ = try image.debugfs([
        "ssv error_count 3", "ssv first_error_time 20260101000000", "ssv first_error_func lookup",
        "ssv first_error_errcode 5", "ssv last_error_time 20260102000000", "ssv last_error_func unlink",
    ])
    return image
}
