import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Testing

/// An image whose log holds a piece of a life: made with one tree, changed, and left as a power cut leaves it.
struct LivedImage {
    let image: ImageFile
    /// The journal when it lies on a device of its own.
    let journal: ImageFile?
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
        try self.init(try ImageFile.make(["-t", "ext4"] + arguments, size: size), journal: nil)
    }

    /// With the journal elsewhere. mke2fs pairs block devices only: debugfs names the journal in the volume, and the
    /// journal's first user is written by hand.
    static func withJournalElsewhere() throws -> Self {
        let ids = (journal: "6a657874-3400-4a4a-6e6c-680000000001", volume: "6a657874-3400-4372-6173-680000000001")
        let journal = try ImageFile.make(["-O", "journal_dev", "-b", "1024", "-U", ids.journal], size: "4M")
        let image = try ImageFile.make(
            ["-t", "ext4", "-O", "^has_journal", "-b", "1024", "-U", ids.volume], size: "8M")
        _ = try image.debugfs(["feature has_journal", "ssv journal_uuid \(ids.journal)", "ssv journal_inum 0"])
        let digits = Array(ids.volume.filter { $0 != "-" })
        let uuid = try (0..<16).map { try #require(UInt8(String(digits[2 * $0...2 * $0 + 1]), radix: 16)) }
        for (offset, bytes) in [(0x40, [0, 0, 0, 1]), (0x100, uuid)] {
            try journal.put(bytes, at: 2048 + UInt64(offset))
        }
        return try Self(image, journal: journal)
    }

    private init(_ image: ImageFile, journal: ImageFile?) throws {
        self.image = image
        self.journal = journal
        let first = try Self.mounted(image, journal)
        let old = try first.makeDirectory(Self.name("old"), in: .root, mode: 0o755, caller: Self.caller).inode
        for index in 0..<3 { _ = try Self.write(first, "f\(index)", in: old, bytes: 3) }
        _ = try Self.write(first, "cut", in: .root, bytes: 40_000)
        try first.unmount()

        let second = try Self.mounted(image, journal)
        fragmented = try Self.change(second, old)
        // Committed, nothing written home: the file system is dropped as by a power cut.
        try second.syncAll()
    }

    private static func mounted(_ image: ImageFile, _ journal: ImageFile?) throws -> FileSystem {
        var options = options
        options.journalDevice = try journal.map { try FileDevice(path: $0.path, readOnly: false, direct: .never) }
        return try FileSystem.mount(
            on: try FileDevice(path: image.path, readOnly: false, direct: .never), options: options)
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
