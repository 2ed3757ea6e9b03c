import BlockIO
import Ext4Format
import Foundation
import Journal
import Testing

/// The tools that judge us. Nothing here needs root: images are plain files in a temporary folder.
enum E2fsprogs {
    static let isCI = ProcessInfo.processInfo.environment["CI"] == "true"
    private static func has(_ tool: String) -> Bool {
        ["/sbin/", "/usr/sbin/"].contains { FileManager.default.isExecutableFile(atPath: $0 + tool) }
    }
    /// Skips where the tools are missing, and fails there when CI is set.
    static let isPresent = isCI || (has("mke2fs") && has("e2fsck") && has("debugfs"))
    static let hasLoopMounts = isCI || geteuid() == 0 && access("/dev/loop-control", R_OK | W_OK) == 0
    static let hasFuse2fs =
        isCI || geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0 && access("/usr/bin/fuse2fs", X_OK) == 0
    static let need: Comment = "needs mke2fs, e2fsck and debugfs"

    /// The shared fixtures: JEXT4_SHARED, or ../shared beside the package.
    static let shared: String = {
        if let path = ProcessInfo.processInfo.environment["JEXT4_SHARED"] { return path }
        return URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("shared").path
    }()
    static let hasFixtures = isCI || FileManager.default.fileExists(atPath: shared + "/fixtures/e2fsprogs-journal")
    static let fixturesNeed: Comment = "needs the shared fixtures (JEXT4_SHARED)"

    struct Result {
        let status: Int32
        let output: String
    }

    /// Runs a tool and waits. Not by Process, which fails when a signal interrupts a read while tests run side by side.
    @discardableResult
    static func run(_ arguments: [String]) throws -> Result {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("jext4-\(UUID().uuidString).out").path
        defer { unlink(path) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        let settings = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"]
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var environment: [UnsafeMutablePointer<CChar>?] = settings.map { strdup($0) } + [nil]
        defer { (words + environment).forEach { free($0) } }
        var child: pid_t = 0
        let started = posix_spawnp(&child, arguments[0], &actions, nil, &words, &environment)
        try #require(started == 0, "\(arguments[0]): errno \(started)")
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        // A process that a signal killed must not look like success.
        let code = status & 0x7F != 0 ? 256 : (status >> 8) & 0xFF
        return Result(
            status: code, output: String(decoding: try Data(contentsOf: URL(fileURLWithPath: path)), as: UTF8.self))
    }
}

/// An image file that goes away with the value.
final class ImageFile {
    let path: String
    init() {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("jext4-\(UUID().uuidString).img").path
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    func copy() throws -> ImageFile {
        let other = ImageFile()
        try FileManager.default.copyItem(atPath: path, toPath: other.path)
        return other
    }

    /// Unpacks a fixture.
    static func fixture(_ name: String) throws -> ImageFile {
        let image = ImageFile()
        let source = "\(E2fsprogs.shared)/fixtures/\(name)"
        let tool = name.hasSuffix(".gz") ? "zcat" : name.hasSuffix(".bz2") ? "bzcat" : "xzcat"
        let result = try E2fsprogs.run(["sh", "-c", "\(tool) '\(source)' > '\(image.path)'"])
        try #require(result.status == 0, "\(result.output)")
        return image
    }

    static func make(_ arguments: [String], size: String) throws -> ImageFile {
        let image = ImageFile()
        let result = try E2fsprogs.run(["mke2fs", "-q", "-F"] + arguments + [image.path, size])
        try #require(result.status == 0, "\(result.output)")
        return image
    }

    /// Writes over what the file holds at a byte.
    func put(_ bytes: [UInt8], at offset: UInt64) throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? file.close() }
        try file.seek(toOffset: offset)
        try file.write(contentsOf: Data(bytes))
    }

    func debugfs(_ commands: [String]) throws -> String {
        let script = path + ".cmd"
        try (commands.joined(separator: "\n") + "\n").write(toFile: script, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: script) }
        return try E2fsprogs.run(["debugfs", "-w", "-f", script, path]).output
    }

    /// A file of 0x5A whose blocks stand for metadata, so that any content leaves a consistent volume.
    func addPayload(blocks count: Int, of size: Int) throws -> [UInt64] {
        let payload = ImageFile()
        try Data(repeating: 0x5A, count: count * size).write(to: URL(fileURLWithPath: payload.path))
        _ = try debugfs(["write \(payload.path) payload"])
        let homes = try blocks(of: "/payload")
        try #require(homes.count == count)
        return homes
    }

    /// The blocks of a file in order, by debugfs: extents only, so without tree blocks.
    func blocks(of file: String) throws -> [UInt64] {
        try E2fsprogs.run(["debugfs", "-R", "blocks \(file)", path]).output.split(whereSeparator: \.isWhitespace)
            .compactMap { UInt64($0) }
    }

    func fsck(_ arguments: [String]) throws -> E2fsprogs.Result { try E2fsprogs.run(["e2fsck"] + arguments + [path]) }

    func bytes() throws -> [UInt8] { try [UInt8](Data(contentsOf: URL(fileURLWithPath: path))) }

    /// The log as the journal inode maps it.
    func log(on device: any BlockDevice, blockByteCount: Int) throws -> LogArea {
        var runs: [(start: FSBlock, count: UInt32)] = []
        for block in try blocks(of: "<8>") {
            if let last = runs.last, last.start.rawValue + UInt64(last.count) == block {
                runs[runs.count - 1].count += 1
            } else {
                runs.append((FSBlock(block), 1))
            }
        }
        return try LogArea(device: device, blockByteCount: blockByteCount, runs: runs)
    }

    /// Our recovery of the image.
    @discardableResult
    func recover(blockByteCount: Int) throws -> RecoveryPlan {
        let device = try FileDevice(path: path, readOnly: false)
        let log = try log(on: device, blockByteCount: blockByteCount)
        let count = device.byteCount / UInt64(blockByteCount)
        let plan = try RecoveryPlan.scan(log, for: ReplayTarget(blockCount: count, sharesDeviceWithLog: true))
        try plan.apply(from: log, to: device)
        try plan.markEmpty(log)
        return plan
    }
}
