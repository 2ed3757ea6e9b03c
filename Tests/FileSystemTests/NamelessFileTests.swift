import Ext4Format
import FileSystem
import Foundation
import Testing

/// Files that begin without a name (O_TMPFILE): they go with their last reference, or get one.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck"))
struct NamelessFileTests {
    private static let kinds = [[], ["-O", "^orphan_file"], ["-O", "orphan_file"]]
    private func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    private func make(_ fileSystem: FileSystem) throws -> InodeNumber {
        let made = try fileSystem.createNamelessFile(in: .root, mode: 0o640, caller: DirectoryVolume.caller)
        #expect(made.linkCount == 0 && made.mode == 0o100640)
        let bytes = [UInt8](repeating: 5, count: 5000)
        #expect(try fileSystem.write(made.inode, at: 0, bytes.span.bytes) == 5000)
        return made.inode
    }

    @Test(arguments: kinds) func itGoesWithItsLastReference(kind: [String]) throws {
        let volume = try DirectoryVolume(kind)
        let freeInodes = try volume.mounted { fileSystem in
            let before = fileSystem.statistics()
            let file = try make(fileSystem)
            #expect(fileSystem.statistics().freeInodes == before.freeInodes - 1)
            fileSystem.forget(file, count: 1)
            try fileSystem.syncAll()
            #expect(fileSystem.statistics().freeInodes == before.freeInodes)
            #expect(fileSystem.statistics().freeBlocks == before.freeBlocks)
            // The others are deleted at the unmount.
            _ = try make(fileSystem)
            return before.freeInodes
        }
        try volume.mounted { #expect($0.statistics().freeInodes == freeInodes) }
    }

    @Test(arguments: kinds) func itMayGetANameOnce(kind: [String]) throws {
        let volume = try DirectoryVolume(kind)
        try volume.mounted { fileSystem in
            let others = try [make(fileSystem), make(fileSystem)]
            let file = try make(fileSystem)
            #expect(try fileSystem.link(file, as: name("f"), in: .root).linkCount == 1)
            fileSystem.forget(file, count: 2)
            let named = try fileSystem.lookup(name("f"), in: .root)
            #expect(named?.size == 5000)
            // With its name gone it is a file like any other that was removed.
            try fileSystem.unlink(name("f"), in: .root)
            #expect(throws: Ext4Error.posix(Errno.noEntry)) {
                try fileSystem.link(file, as: name("g"), in: .root)
            }
            #expect(try fileSystem.link(others[0], as: name("g"), in: .root).linkCount == 1)
        }
        try volume.mounted { fileSystem in
            let names = try fileSystem.names(of: .root).map { String(decoding: $0, as: UTF8.self) }
            #expect(Set(names) == ["g", "lost+found"])
        }
    }

    /// A crash: the copy of a volume in use has them as orphans, which the next mount deletes.
    @Test(arguments: kinds) func aCrashLeavesNothingOfIt(kind: [String]) throws {
        let volume = try DirectoryVolume(kind), copy = try DirectoryVolume(kind)
        let freeInodes = try volume.mounted { fileSystem in
            let freeInodes = fileSystem.statistics().freeInodes
            _ = try make(fileSystem)
            let named = try make(fileSystem)
            _ = try fileSystem.link(named, as: name("f"), in: .root)
            try fileSystem.sync(named, dataOnly: false)
            try Data(contentsOf: URL(fileURLWithPath: volume.path)).write(to: URL(fileURLWithPath: copy.path))
            return freeInodes
        }
        try copy.mounted { fileSystem in
            let named = try fileSystem.lookup(name("f"), in: .root)
            #expect(named?.size == 5000)
            #expect(fileSystem.statistics().freeInodes == freeInodes - 1)
        }
    }
}
