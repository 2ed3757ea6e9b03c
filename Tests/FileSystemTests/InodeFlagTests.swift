import Ext4Format
import FileSystem
import Foundation
import Testing

/// What lsattr(1) shows and chattr(1) sets, as `ext4_fileattr_set` has it.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct InodeFlagTests {
    private func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    private func make(_ text: String, _ fileSystem: FileSystem, in parent: InodeNumber = .root) throws -> InodeNumber {
        try fileSystem.createFile(name(text), in: parent, mode: 0o644, caller: DirectoryVolume.caller).inode
    }

    private func set(
        _ flags: InodeRecord.Flags, of inode: InodeNumber, project: UInt32? = nil, _ fileSystem: FileSystem
    ) throws {
        var wanted = try fileSystem.flags(of: inode)
        wanted.flags.formUnion(flags)
        if let project { wanted.project = project }
        try fileSystem.setFlags(of: inode, to: wanted)
    }

    @Test func flagsAreSetAsFarAsTheirInodeHasThem() throws {
        let volume = try DirectoryVolume([])
        try volume.mounted { fileSystem in
            let file = try make("f", fileSystem), folder = try fileSystem.directory("d")
            #expect(try fileSystem.flags(of: file).flags == [.extents])
            let before = try fileSystem.attributes(of: file).change
            try set([.noDump, .noAccessTime, .sync], of: file, fileSystem)
            #expect(try fileSystem.flags(of: file).flags == [.extents, .noDump, .noAccessTime, .sync])
            #expect(try fileSystem.attributes(of: file).change > before)
            for flag in [InodeRecord.Flags.topDirectory, .directorySync, .projectInherit] {
                #expect(throws: Ext4Error.posix(Errno.notSupported)) { try set(flag, of: file, fileSystem) }
            }
            #expect(try fileSystem.flags(of: file).flags == [.extents, .noDump, .noAccessTime, .sync])
            try set([.topDirectory, .directorySync], of: folder, fileSystem)
            #expect(try fileSystem.flags(of: folder).flags == [.extents, .topDirectory, .directorySync])
            try fileSystem.setFlags(of: file, to: InodeFlags(flags: [.extents], project: 0))
            #expect(try fileSystem.flags(of: file).flags == [.extents])
            // What stays immutable stays as it is.
            try set([.immutable], of: file, fileSystem)
            #expect(throws: Ext4Error.posix(Errno.notPermitted)) { try set([.noDump], of: file, fileSystem) }
            try set([.immutable], of: file, fileSystem)
            try fileSystem.setFlags(of: file, to: InodeFlags(flags: [.extents, .noDump], project: 0))
            #expect(try fileSystem.flags(of: file).flags == [.extents, .noDump])
        }
    }

    @Test func whatLiesOnTheVolumeIsNotChangedByAFlag() throws {
        let volume = try DirectoryVolume([])
        try volume.mounted { fileSystem in
            let file = try make("f", fileSystem)
            for flag in [InodeRecord.Flags.journalData, .directAccess, .pastEnd, .hugeFile, .attributeInode] {
                #expect(throws: Ext4Error.posix(Errno.notSupported)) { try set(flag, of: file, fileSystem) }
            }
            // The rest of the change is done.
            #expect(throws: Ext4Error.posix(Errno.notSupported)) {
                try fileSystem.setFlags(of: file, to: InodeFlags(flags: [.noDump], project: 0))
            }
            #expect(try fileSystem.flags(of: file).flags == [.extents, .noDump])
            try fileSystem.setFlags(of: file, to: InodeFlags(flags: [.extents], project: 0))
            #expect(throws: Ext4Error.posix(Errno.notSupported)) { try set([], of: file, project: 3, fileSystem) }
            // chattr passes on what it has seen, and may name what only the file system sets.
            try set([.index, .verity, .inlineData], of: file, fileSystem)
            #expect(try fileSystem.flags(of: file).flags == [.extents])
        }
    }

    /// A file that may only grow: a kernel that collects what is written hands it over in any order, and nothing of it
    /// may be lost; what was there before stays as it is.
    @Test func whatIsAppendedMayComeInAnyOrder() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        var options = MountOptions()
        options.kernelKeepsTimes = true
        try volume.mounted(options: options) { fileSystem in
            let file = try make("f", fileSystem)
            func page(_ index: Int, _ value: UInt8) throws {
                let bytes = [UInt8](repeating: value, count: 4096)
                try fileSystem.writeBack(file, at: UInt64(index) * 4096, bytes.span.bytes)
            }
            let first = [UInt8](repeating: 1, count: 100)
            _ = try fileSystem.write(file, at: 0, first.span.bytes)
            try set([.appendOnly], of: file, fileSystem)
            try page(2, 4)
            try page(0, 2)
            try page(1, 3)
            var content = [UInt8](repeating: 0, count: 12_288)
            var span = content.mutableSpan
            var raw = span.mutableBytes
            #expect(try fileSystem.read(file, at: 0, into: &raw) == 12_288)
            let expected = [(1, 100), (2, 3996), (3, 4096), (4, 4096)].flatMap { [UInt8](repeating: $0, count: $1) }
            #expect(content == expected)
        }
    }

    /// Where the range of times ends, so do the nanoseconds (`timestamp_truncate` of Linux).
    @Test(arguments: ["128", "256"]) func aTimeOutOfRangeIsTheLastWholeSecond(inodeByteCount: String) throws {
        let volume = try DirectoryVolume(["-I", inodeByteCount])
        try volume.mounted { fileSystem in
            let file = try make("f", fileSystem), range = fileSystem.limits.times
            for seconds in [range.lowerBound - 5, range.lowerBound, range.upperBound, range.upperBound + 5] {
                var changes = AttributeChanges()
                changes.modification = .to(Timestamp(seconds: seconds, nanoseconds: 5))
                let kept = try fileSystem.setAttributes(of: file, changes).modification
                #expect(kept == Timestamp(seconds: seconds < 0 ? range.lowerBound : range.upperBound, nanoseconds: 0))
            }
        }
    }

    /// A directory hands its project on, and takes nothing of another.
    @Test func projectsAreInherited() throws {
        let volume = try DirectoryVolume(["-O", "project", "-I", "256"])
        try volume.mounted { fileSystem in
            let folder = try fileSystem.directory("d"), stranger = try make("stranger", fileSystem)
            try set([.projectInherit], of: folder, project: 42, fileSystem)
            let below = try fileSystem.directory("e", in: folder), file = try make("f", fileSystem, in: below)
            #expect(try fileSystem.flags(of: below) == InodeFlags(flags: [.extents, .projectInherit], project: 42))
            #expect(try fileSystem.flags(of: file) == InodeFlags(flags: [.extents], project: 42))
            let refused = Ext4Error.posix(Errno.crossDevice)
            #expect(throws: refused) { try fileSystem.link(stranger, as: name("l"), in: folder) }
            #expect(throws: refused) {
                try fileSystem.rename(name("stranger"), in: .root, to: name("s"), in: folder, flags: [])
            }
            #expect(throws: refused) {
                try fileSystem.rename(name("e"), in: folder, to: name("stranger"), in: .root, flags: [.exchange])
            }
            try set([], of: stranger, project: 42, fileSystem)
            try fileSystem.rename(name("stranger"), in: .root, to: name("s"), in: folder, flags: [])
            // Out of it anything may go.
            try fileSystem.rename(name("f"), in: below, to: name("f"), in: .root, flags: [])
        }
        #expect(try volume.debugfs("stat /d/e").contains("Project:    42"))
    }

    /// What we set is what Linux shows, and the other way round. Projects are not asked for: not every Linux has them.
    @Test(.enabled(if: DirectoryVolume.hasKernelMounts, "needs root and loop devices"))
    func linuxSeesTheSameFlags() throws {
        let volume = try DirectoryVolume([])
        try volume.mounted { fileSystem in
            try set([.immutable, .noDump, .sync], of: make("ours", fileSystem), fileSystem)
        }
        let shown = try volume.mountedByKernel(
            "lsattr $M/ours; touch $M/theirs; chattr +adAS $M/theirs; mkdir $M/d; chattr +DT $M/d")
        #expect(shown.split(separator: " ").first == "--S-i-d-------e-------")
        try volume.mounted { fileSystem in
            let theirs = try #require(try fileSystem.lookup(name("theirs"), in: .root)).inode
            let flags: InodeRecord.Flags = [.appendOnly, .noDump, .noAccessTime, .sync, .extents]
            #expect(try fileSystem.flags(of: theirs).flags == flags)
            let folder = try #require(try fileSystem.lookup(name("d"), in: .root)).inode
            #expect(try fileSystem.flags(of: folder).flags == [.directorySync, .topDirectory, .extents])
        }
    }
}
