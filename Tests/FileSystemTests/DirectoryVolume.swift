import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Testing

/// An image made by mke2fs, mounted by this server or the kernel, and judged by e2fsck.
final class DirectoryVolume {
    let path: String
    static let caller = Caller(uid: 0, gid: 0, umask: 0)

    init(_ options: [String]) throws {
        // A journal has 1,024 blocks at least.
        let isLarge = options.contains("65536")
        path = NSTemporaryDirectory() + "jext4-directory-\(UUID().uuidString).img"
        try #require(FileManager.default.createFile(atPath: path, contents: nil))
        try #require(truncate(path, isLarge ? 512 << 20 : 64 << 20) == 0)
        let type = options.contains("-t") ? [] : ["-t", "ext4"]
        try Self.run("mke2fs", ["-q", "-F", "-J", isLarge ? "size=128" : "size=16"] + type + options + [path])
    }
    deinit { unlink(path) }

    /// Mounts the volume for `work`, unmounts it, and lets e2fsck judge what is left.
    func mounted<R>(
        isSound: Bool = true, options: MountOptions = MountOptions(), direct: FileDevice.DirectIO = .never,
        _ work: (FileSystem) throws -> R
    ) throws -> R {
        let device = try FileDevice(path: path, readOnly: false, direct: direct)
        let fileSystem = try FileSystem.mount(on: device, options: options)
        let result: R
        do { result = try work(fileSystem) } catch {
            try? fileSystem.unmount()
            throw error
        }
        try fileSystem.unmount()
        if isSound { try Self.run("e2fsck", ["-fn", path]) }
        return result
    }

    /// The bytes of an image that is not mounted.
    func change(at offset: Int, _ count: Int, _ body: (inout [UInt8]) -> Void) throws {
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? handle.close() }
        try handle.seek(toOffset: UInt64(offset))
        var bytes = [UInt8](try #require(try handle.read(upToCount: count)))
        body(&bytes)
        try handle.seek(toOffset: UInt64(offset))
        try handle.write(contentsOf: Data(bytes))
    }

    @discardableResult func debugfs(_ command: String) throws -> String {
        try Self.run("debugfs", ["-w", "-R", command, path])
    }

    /// Runs `script` in sh with the kernel's mount of the image as $M.
    @discardableResult func mountedByKernel(_ script: String) throws -> String {
        let point = path + ".mount"
        try FileManager.default.createDirectory(atPath: point, withIntermediateDirectories: false)
        defer { rmdir(point) }
        let mount = "mount -o loop \(path) \(point); trap 'umount \(point)' EXIT; M=\(point)\n"
        return try Self.run("sh", ["-ec", mount + script])
    }

    static let isCI = ProcessInfo.processInfo.environment["CI"] == "true"
    static let hasTools = isCI || ["mke2fs", "debugfs", "e2fsck"].allSatisfy { find($0) != nil }
    static let hasKernelMounts =
        isCI || hasTools && geteuid() == 0 && FileManager.default.fileExists(atPath: "/dev/loop-control")

    static func find(_ tool: String) -> String? {
        ["/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"].map { $0 + tool }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    @discardableResult static func run(_ tool: String, _ arguments: [String]) throws -> String {
        let process = Process(), output = Pipe()
        process.executableURL = URL(fileURLWithPath: try #require(find(tool), "\(tool) is not installed"))
        process.arguments = arguments
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(tool) \(arguments): \(text.suffix(2000))")
        return text
    }
}

extension FileSystem {
    func directory(_ name: String, in parent: InodeNumber = .root) throws -> InodeNumber {
        let fileName = try FileName(Array(name.utf8))
        if let found = try lookup(fileName, in: parent) { return found.inode }
        return try makeDirectory(fileName, in: parent, mode: 0o755, caller: DirectoryVolume.caller).inode
    }

    func add(_ name: [UInt8], to directory: InodeNumber) throws {
        _ = try makeSymlink(FileName(name), in: directory, target: [0x78], caller: DirectoryVolume.caller)
    }

    func has(_ name: [UInt8], in directory: InodeNumber) throws -> Bool {
        guard let found = try lookup(FileName(name), in: directory) else { return false }
        forget(found.inode, count: 1)
        return true
    }

    /// The names but the dots, read `batch` at a time from cookie to cookie. Calls `between` after each batch.
    func names(
        of directory: InodeNumber, batch: Int = 30, between: (Int) throws -> Void = { _ in }
    ) throws -> [[UInt8]] {
        var (names, cookie, isAtEnd, round) = ([[UInt8]](), UInt64(0), false, 0)
        while !isAtEnd {
            var count = 0
            try readDirectory(directory, after: cookie, withAttributes: false) { record in
                guard count < batch else { return false }
                count += 1
                #expect(record.cookie > cookie && record.cookie <= UInt64(Int64.max))
                cookie = record.cookie
                if record.name != [0x2E] && record.name != [0x2E, 0x2E] { names.append(record.name) }
                return true
            }
            isAtEnd = count == 0
            try between(round)
            round += 1
        }
        return names
    }
}
