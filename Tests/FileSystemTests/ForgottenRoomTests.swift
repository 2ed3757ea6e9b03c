import Ext4Format
import FileSystem
import Foundation
import Testing
import Threads

/// A kernel gives the last reference to a removed inode back after the call that removed it has returned.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct ForgottenRoomTests {
    private func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    private func later(_ body: @escaping @Sendable () -> Void) -> Threads.Thread {
        Threads.Thread(name: "forget") {
            usleep(10_000)
            body()
        }
    }

    private func fill(_ fileSystem: FileSystem) throws -> InodeNumber {
        var first: InodeNumber?
        for number in 0... {
            do {
                let made = try fileSystem.createFile(
                    name("f\(number)"), in: .root, mode: 0o644, caller: DirectoryVolume.caller)
                first = first ?? made.inode
            } catch {
                #expect(error as? Ext4Error == .posix(Errno.noSpace))
                break
            }
        }
        return try #require(first)
    }

    @Test(arguments: [true, false]) func anInodeThatIsAboutToBeForgottenIsWaitedFor(awaits: Bool) throws {
        let volume = try DirectoryVolume(["-N", "64"])
        var options = MountOptions()
        options.awaitsForgets = awaits
        try volume.mounted(options: options) { fileSystem in
            let first = try fill(fileSystem)
            try fileSystem.unlink(name("f0"), in: .root)
            let thread = later { fileSystem.forget(first, count: 1) }
            let isMade = Result {
                try fileSystem.makeDirectory(name("again"), in: .root, mode: 0o755, caller: DirectoryVolume.caller)
            }
            thread.join()
            #expect((try? isMade.get()) == nil ? !awaits : awaits)
        }
    }

    @Test func blocksThatAreAboutToBeForgottenAreWaitedFor() throws {
        let volume = try DirectoryVolume(["-m", "0"])
        var options = MountOptions()
        options.awaitsForgets = true
        try volume.mounted(options: options) { fileSystem in
            let caller = DirectoryVolume.caller, piece = [UInt8](repeating: 1, count: 1 << 20)
            let large = try fileSystem.createFile(name("large"), in: .root, mode: 0o644, caller: caller).inode
            var end: UInt64 = 0
            while (try? fileSystem.write(large, at: end, piece.span.bytes)) != nil { end += UInt64(piece.count) }
            let next = try fileSystem.createFile(name("next"), in: .root, mode: 0o644, caller: caller).inode
            try fileSystem.unlink(name("large"), in: .root)
            let thread = later { fileSystem.forget(large, count: 1) }
            #expect(try fileSystem.write(next, at: 0, piece.span.bytes) == piece.count)
            thread.join()
            // What stays open is not waited for more than a moment.
            end = UInt64(piece.count)
            while (try? fileSystem.write(next, at: end, piece.span.bytes)) != nil { end += UInt64(piece.count) }
            try fileSystem.unlink(name("next"), in: .root)
            let held = try fileSystem.createFile(name("held"), in: .root, mode: 0o644, caller: caller).inode
            #expect(throws: Ext4Error.posix(Errno.noSpace)) { try fileSystem.write(held, at: 0, piece.span.bytes) }
            fileSystem.forget(next, count: 1)
        }
    }
}
