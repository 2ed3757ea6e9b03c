import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Testing

/// An image whose log holds a piece of a life: made with one tree, changed, and left as a power cut leaves it.
struct LivedImage {
    let image: ImageFile
    /// Of the file with an extent tree of its own.
    let fragmented: InodeNumber

    private static let caller = Caller(uid: 0, gid: 0, umask: 0o022)
    private static var options: MountOptions {
        var options = MountOptions()
        options.manualJournal = true
        options.clock = { Timestamp(seconds: 1_700_000_000, nanoseconds: 0) }
        options.firstGeneration = 1
        return options
    }

    init(_ arguments: [String] = ["-b", "1024"], size: String = "8M") throws {
        image = try ImageFile.make(["-t", "ext4"] + arguments, size: size)
        let path = image.path
        let first = try Self.mounted(path)
        let old = try first.makeDirectory(Self.name("old"), in: .root, mode: 0o755, caller: Self.caller).inode
        for index in 0..<3 { _ = try Self.write(first, "f\(index)", in: old, bytes: 3) }
        _ = try Self.write(first, "cut", in: .root, bytes: 40_000)
        try first.unmount()

        let second = try Self.mounted(path)
        fragmented = try Self.change(second, old)
        // Committed, nothing written home: the file system is dropped as by a power cut.
        try second.syncAll()
    }

    private static func mounted(_ path: String) throws -> FileSystem {
        try FileSystem.mount(on: try FileDevice(path: path, readOnly: false, direct: false), options: options)
    }

    private static func name(_ text: String) throws -> FileName { try FileName(Array(text.utf8)) }

    private static func change(_ system: FileSystem, _ old: InodeNumber) throws -> InodeNumber {
        let new = try system.makeDirectory(name("new"), in: .root, mode: 0o755, caller: caller).inode
        for index in 0..<60 { _ = try write(system, "a file with a long name \(index)", in: new, bytes: 0) }
        try system.unlink(name("f0"), in: old)
        try system.rename(name("f1"), in: old, to: name("g1"), in: new, flags: [])
        try system.rename(name("f2"), in: old, to: name("h2"), in: old, flags: [])
        let link = Array(repeating: UInt8(ascii: "x"), count: 100)
        _ = try system.makeSymlink(name("link"), in: new, target: link, caller: caller)
        let cut = try #require(try system.lookup(name("cut"), in: .root)).inode
        var changes = AttributeChanges()
        changes.size = 100
        _ = try system.setAttributes(of: cut, changes)
        try system.setExtendedAttribute(
            Array("user.long".utf8), of: cut, to: [UInt8](repeating: 7, count: 400), create: true, replace: false)
        // A hole between any two blocks: more extents than an inode holds.
        let file = try system.createFile(name("fragments"), in: .root, mode: 0o644, caller: caller).inode
        let bytes = [UInt8](repeating: 0x46, count: system.blockByteCount)
        for index in 0..<20 {
            _ = try system.write(file, at: UInt64(2 * index * system.blockByteCount), bytes.span.bytes)
        }
        return file
    }

    private static func write(
        _ system: FileSystem, _ text: String, in parent: InodeNumber, bytes count: Int
    ) throws -> InodeNumber {
        let file = try system.createFile(name(text), in: parent, mode: 0o644, caller: caller).inode
        let bytes = [UInt8](repeating: 0x41, count: count)
        if count > 0 { _ = try system.write(file, at: 0, bytes.span.bytes) }
        return file
    }
}

/// The objects of JSON Lines.
func jsonLines(_ text: String) throws -> [[String: Any]] {
    try text.split(separator: "\n").map {
        try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any], "\($0)")
    }
}
