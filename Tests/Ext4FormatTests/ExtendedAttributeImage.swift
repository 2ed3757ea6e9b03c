import Ext4Format
import Foundation
import Testing

/// A small ext4 image in a file of its own, for tests that let debugfs, e2fsck and the kernel judge.
final class ExtendedAttributeImage {
    let path: String
    let superBlock: SuperBlock

    /// e2fsprogs must be there; in CI their absence is a failure, not a skip.
    static let hasTools = isCI || ["mke2fs", "debugfs", "e2fsck"].allSatisfy { find($0) != nil }
    /// Root, loop devices, setfattr and setfacl.
    static let hasKernelMounts =
        isCI
        || hasTools && geteuid() == 0 && FileManager.default.fileExists(atPath: "/dev/loop-control")
            && find("setfattr") != nil && find("setfacl") != nil
    private static let isCI = ProcessInfo.processInfo.environment["CI"] == "true"

    init(_ options: [String] = ["-b", "1024", "-I", "256"]) throws {
        path = NSTemporaryDirectory() + "xattr-\(UUID().uuidString).img"
        #expect(FileManager.default.createFile(atPath: path, contents: nil))
        let handle = try #require(FileHandle(forWritingAtPath: path))
        try handle.truncate(atOffset: 8 << 20)
        try handle.close()
        _ = try Self.run("mke2fs", ["-q", "-F", "-t", "ext4"] + options + [path])
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        superBlock = try SuperBlock(
            decoding: bytes.span.bytes.extracting(1024..<2048), deviceByteCount: UInt64(bytes.count))
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func debugfs(_ command: String) throws -> String { try Self.run("debugfs", ["-w", "-R", command, path]) }
    /// e2fsck that changes nothing and must find nothing.
    func check() throws { _ = try Self.run("e2fsck", ["-fn", path]) }
    /// Gives debugfs a value from a file, so that any bytes and lengths can be stored.
    func set(_ name: String, _ value: [UInt8], on file: String) throws {
        let source = path + ".value"
        try Data(value).write(to: URL(fileURLWithPath: source))
        defer { try? FileManager.default.removeItem(atPath: source) }
        _ = try debugfs("ea_set -f \(source) \(file) \(name)")
    }
    /// What debugfs reads, through a file.
    func get(_ name: String, of file: String) throws -> [UInt8] {
        let target = path + ".got"
        defer { try? FileManager.default.removeItem(atPath: target) }
        _ = try debugfs("ea_get -f \(target) \(file) \(name)")
        return [UInt8](try Data(contentsOf: URL(fileURLWithPath: target)))
    }

    /// Runs `script` in sh with the kernel's mount of the image as $M.
    @discardableResult func mounted(_ script: String) throws -> String {
        let point = path + ".mount"
        try FileManager.default.createDirectory(atPath: point, withIntermediateDirectories: false)
        defer { _ = rmdir(point) }
        return try Self.run(
            "sh",
            [
                "-ec",
                "mount -o loop,acl,user_xattr \(path) \(point); trap 'umount \(point)' EXIT; M=\(point)\n" + script,
            ])
    }

    func inode(of file: String) throws -> InodeNumber {
        let text = try debugfs("stat \(file)")
        let match = try #require(text.firstMatch(of: #/Inode: (\d+)/#))
        return InodeNumber(try #require(UInt32(match.1)))
    }

    /// The slot of an inode, read from the image; the offset says where it lies.
    func slot(of inode: InodeNumber) throws -> (bytes: [UInt8], offset: Int) {
        let layout = VolumeLayout(superBlock)
        let place = try #require(layout.place(of: inode))
        let at = layout.descriptor(of: place.group)
        let table = try read(Int(at.block.rawValue) * superBlock.blockByteCount + at.bytes.lowerBound, at.bytes.count)
        let start = Int(GroupDescriptor(decoding: table.span.bytes).inodeTable.rawValue) * superBlock.blockByteCount
        let offset = start + Int(place.index) * superBlock.inodeByteCount
        return (try read(offset, superBlock.inodeByteCount), offset)
    }

    func block(_ number: FSBlock) throws -> [UInt8] {
        try read(Int(number.rawValue) * superBlock.blockByteCount, superBlock.blockByteCount)
    }

    func write(_ bytes: [UInt8], at offset: Int) throws {
        let handle = try #require(FileHandle(forWritingAtPath: path))
        defer { try? handle.close() }
        try handle.seek(toOffset: UInt64(offset))
        try handle.write(contentsOf: Data(bytes))
    }

    private func read(_ offset: Int, _ count: Int) throws -> [UInt8] {
        let handle = try #require(FileHandle(forReadingAtPath: path))
        defer { try? handle.close() }
        try handle.seek(toOffset: UInt64(offset))
        return [UInt8](try #require(try handle.read(upToCount: count)))
    }

    /// All attributes of a file as our decoders find them: in the inode, and in the block.
    func attributes(
        of file: String
    ) throws -> (inode: [ExtendedAttribute], block: [ExtendedAttribute], number: FSBlock?) {
        let number = try inode(of: file), slot = try slot(of: number).bytes
        let record = try InodeRecord(decoding: slot.span.bytes)
        var inside: [ExtendedAttribute] = []
        if let range = ExtendedAttributeArea.range(slotByteCount: slot.count, extraSize: record.extraSize) {
            let area = Array(slot[range])
            inside = try ExtendedAttributeArea.decode(area.span.bytes, of: number).map { Self.attribute($0, area) }
        }
        guard record.attributeBlock != 0 else { return (inside, [], nil) }
        let block = FSBlock(record.attributeBlock), bytes = try self.block(block)
        try ExtendedAttributeBlock.verify(bytes.span.bytes, at: block, superBlock)
        let outside = try ExtendedAttributeBlock.decode(bytes.span.bytes, at: block)
        return (inside, outside.map { Self.attribute($0, bytes) }, block)
    }

    /// One stored value, wherever it is.
    func value(_ name: ExtendedAttributeName, of file: String) throws -> [UInt8]? {
        let found = try attributes(of: file)
        return (found.inode + found.block).first { $0.name == name }?.value
    }

    private static func attribute(_ entry: ExtendedAttributeTable.Entry, _ bytes: [UInt8]) -> ExtendedAttribute {
        ExtendedAttribute(name: entry.name, value: Array(bytes[entry.value]))
    }

    private static func find(_ tool: String) -> String? {
        ["/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"].map { $0 + tool }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// Standard output; anything but exit 0 fails the test with what was said.
    static func run(_ tool: String, _ arguments: [String]) throws -> String {
        let process = Process(), output = Pipe(), errors = Pipe()
        process.executableURL = URL(fileURLWithPath: try #require(find(tool), "\(tool) is not installed"))
        process.arguments = arguments
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let said = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(tool) \(arguments): \(text)\(said)")
        return text
    }
}

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
