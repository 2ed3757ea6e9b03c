import Ext4Format
import FileSystem
import Testing

/// Which error a rename gives that could give several: that of Linux.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct RenameErrorTests {
    private func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    @Test func namesAreAskedForBeforeTheShapeOfTheTree() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try volume.mounted { fileSystem in
            let caller = DirectoryVolume.caller
            let above = try fileSystem.makeDirectory(name("above"), in: .root, mode: 0o755, caller: caller).inode
            _ = try fileSystem.createFile(name("there"), in: above, mode: 0o644, caller: caller)
            func refusal(_ flags: RenameFlags, _ new: String) throws -> Ext4Error? {
                let (old, new) = (try name("above"), try name(new))
                do throws(Ext4Error) {
                    try fileSystem.rename(old, in: .root, to: new, in: above, flags: flags)
                    return nil
                } catch { return error }
            }
            #expect(try refusal(.exchange, "missing") == .posix(Errno.noEntry))
            #expect(try refusal(.exchange, "there") == .posix(Errno.invalid))
            #expect(try refusal(.noReplace, "there") == .posix(Errno.exists))
            #expect(try refusal(.noReplace, "missing") == .posix(Errno.invalid))
            #expect(try refusal([], "missing") == .posix(Errno.invalid))
        }
    }
}
