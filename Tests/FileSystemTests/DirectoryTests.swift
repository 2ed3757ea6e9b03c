import Ext4Format
import FileSystem
import Foundation
import Testing

/// A name of `length` bytes at least, different for each number.
private func name(_ number: Int, length: Int) -> [UInt8] {
    let digits = Array("n\(number)-".utf8)
    return digits + (digits.count..<max(length, digits.count)).map { UInt8(0x61 + ($0 * 7 + number) % 26) }
}

@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck"))
struct DirectoryTests {
    struct Kind: CustomStringConvertible {
        let options: [String]
        let count: Int
        let length: Int
        var description: String { "\(options) \(count) names of \(length)" }
    }
    static let kinds = [
        Kind(options: ["-b", "1024"], count: 1500, length: 200),
        Kind(options: ["-b", "4096"], count: 1500, length: 60),
        Kind(options: ["-b", "1024", "-O", "^metadata_csum"], count: 1500, length: 200),
        Kind(options: ["-b", "1024", "-O", "^dir_index"], count: 150, length: 50),
        Kind(options: ["-b", "1024", "-O", "^filetype"], count: 200, length: 5),
        Kind(options: ["-b", "65536"], count: 1000, length: 250),
    ]

    /// Every name that was added is found and listed once, every name that was removed is not, and e2fsck agrees with
    /// each block: through leaf splits, a root that gets a second level, merged records and reused room.
    @Test(arguments: kinds) func namesComeAndGo(_ kind: Kind) throws {
        let volume = try DirectoryVolume(kind.options + ["-N", "4096"])
        let all = (0..<kind.count).map { name($0, length: $0 % 10 == 0 ? 255 : kind.length) }
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for name in all { try fileSystem.add(name, to: home) }
            for name in all { #expect(try fileSystem.has(name, in: home)) }
            #expect(try Set(fileSystem.names(of: home)) == Set(all))
            #expect(throws: Ext4Error.posix(Errno.exists)) { try fileSystem.add(all[kind.count / 2], to: home) }
        }
        let kept = Set(all.enumerated().filter { $0.offset % 3 == 0 }.map { $0.element })
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for name in all where !kept.contains(name) { try fileSystem.unlink(FileName(name), in: home) }
            let names = try fileSystem.names(of: home)
            #expect(names.count == kept.count && Set(names) == kept)
            for name in all.prefix(100) { #expect(try fileSystem.has(name, in: home) == kept.contains(name)) }
        }
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            #expect(throws: Ext4Error.posix(Errno.notEmpty)) {
                try fileSystem.removeDirectory(FileName(Array("home".utf8)), in: .root)
            }
            for name in all where !kept.contains(name) { try fileSystem.add(name, to: home) }
            for name in all { try fileSystem.unlink(FileName(name), in: home) }
            try fileSystem.removeDirectory(FileName(Array("home".utf8)), in: .root)
        }
    }

    /// debugfs walks the same tree: the index is where e2fsck's library looks for it, and the names hash as it says.
    @Test func theIndexIsWhatDebugfsReads() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-N", "4096"])
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for number in 0..<1200 { try fileSystem.add(name(number, length: 200), to: home) }
        }
        let dump = try volume.debugfs("htree_dump /home")
        #expect(dump.contains("Indirect levels: 1"))
        #expect(!dump.lowercased().contains("error") && !dump.contains("***"))
        for number in 0..<1200 { #expect(dump.contains("n\(number)-")) }
    }

    /// Entries that stay are listed exactly once while others come and go and leaves split under the reader.
    @Test(arguments: kinds) func cookiesOutliveChanges(_ kind: Kind) throws {
        let volume = try DirectoryVolume(kind.options + ["-N", "8192"])
        let stay = (0..<kind.count / 2).map { name($0, length: kind.length) }
        let leave = (0..<kind.count / 2).map { name(100_000 + $0, length: kind.length) }
        try volume.mounted { fileSystem in
            // One block at first, so that the first batches come from before there is an index.
            let home = try fileSystem.directory("home")
            let early = stay.prefix(4)
            for name in early { try fileSystem.add(name, to: home) }
            let grown = try fileSystem.names(of: home, batch: 2) { round in
                guard round == 0 else { return }
                for name in stay.dropFirst(4) + leave { try fileSystem.add(name, to: home) }
            }
            for name in early { #expect(grown.filter { $0 == name }.count == 1) }

            var next = 0
            let seen = try fileSystem.names(of: home, batch: 7) { round in
                for number in round * 5..<round * 5 + 5 {
                    if number < leave.count { try fileSystem.unlink(FileName(leave[number]), in: home) }
                    if next < kind.count / 2 { try fileSystem.add(name(200_000 + next, length: kind.length), to: home) }
                    next += 1
                }
            }
            #expect(Set(seen).count == seen.count)
            #expect(Set(seen).isSuperset(of: stay))
        }
    }

    /// Names with one hash fill several leaves: they are found, listed, removed, and e2fsck sees the continuation.
    @Test func namesOfOneHashContinueOverLeaves() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try DirectoryVolume.run("tune2fs", ["-E", "hash_alg=legacy", volume.path])
        let endings = [
            "ggjVAQ", "gqy4rP", "leXHIn", "nYDmiu", "okdh1g", "ovx2FH", "sd3XOr", "sGh67.", "sHH0vN", "tnIWHD",
            "ukYRP_",
            "wNCeCO", "zCfeRJ", "zQFpFW", "ATF8E8", "ClSfwQ", "CJ7oWi", "DwhC8l", "Dww2od", "EpcJf_", "FADqOk",
            "H24dQN",
        ]
        let same = endings.map { [UInt8](repeating: 0x78, count: 244) + Array($0.utf8) }
        let others = (0..<60).map { name($0, length: 150) }
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for (index, name) in others.enumerated() {
                try fileSystem.add(name, to: home)
                if index < same.count { try fileSystem.add(same[index], to: home) }
            }
            let names = try fileSystem.names(of: home, batch: 3)
            #expect(names.count == same.count + others.count && Set(names) == Set(same + others))
            for name in same { #expect(try fileSystem.has(name, in: home)) }
            #expect(throws: Ext4Error.posix(Errno.exists)) { try fileSystem.add(same[0], to: home) }
        }
        #expect(try volume.debugfs("htree_dump /home").contains("Hash 0x2468acf1"))
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for name in same { try fileSystem.unlink(FileName(name), in: home) }
            #expect(try Set(fileSystem.names(of: home)) == Set(others))
        }
    }

    /// Who holds a directory that has been removed may still ask for a rename into it or out of it. The directory above
    /// may be deleted by then, and is not damaged.
    @Test func aRemovedDirectoryTakesNoNames() throws {
        let volume = try DirectoryVolume(["-b", "4096"])
        func name(_ text: String) throws -> FileName { try FileName(Array(text.utf8)) }
        try volume.mounted { fileSystem in
            let caller = DirectoryVolume.caller
            let above = try fileSystem.makeDirectory(try name("above"), in: .root, mode: 0o755, caller: caller).inode
            let removed = try fileSystem.makeDirectory(try name("below"), in: above, mode: 0o755, caller: caller).inode
            let file = try fileSystem.createFile(try name("file"), in: .root, mode: 0o644, caller: caller).inode
            try fileSystem.removeDirectory(try name("below"), in: above)
            try fileSystem.removeDirectory(try name("above"), in: .root)
            fileSystem.forget(above, count: 1)
            for (from, to) in [(InodeNumber.root, removed), (removed, .root)] {
                #expect(throws: Ext4Error.posix(Errno.noEntry)) {
                    try fileSystem.rename(try name("file"), in: from, to: try name("new"), in: to, flags: [])
                }
            }
            for inode in [removed, file] { fileSystem.forget(inode, count: 1) }
        }
    }

    /// A rename within a directory removes an entry that its own insert may just have moved to another leaf.
    @Test func renamesFollowAnEntryThroughASplit() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-N", "4096"])
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            var names = (0..<300).map { name($0, length: 20) }
            for name in names { try fileSystem.add(name, to: home) }
            for number in names.indices {
                let longer = name(number + 1000, length: 230)
                try fileSystem.rename(FileName(names[number]), in: home, to: FileName(longer), in: home, flags: [])
                names[number] = longer
            }
            #expect(try Set(fileSystem.names(of: home)) == Set(names))
            // From one directory to another, and a directory with its "..".
            let other = try fileSystem.directory("other")
            let moved = try fileSystem.directory("moved", in: home)
            try fileSystem.rename(
                FileName(Array("moved".utf8)), in: home, to: FileName(Array("here".utf8)), in: other, flags: [])
            #expect(try fileSystem.lookup(FileName([0x2E, 0x2E]), in: moved)?.inode == other)
        }
    }

    /// An index that is left over from before dir_index was taken away is not kept up: its flag goes with the first
    /// name.
    @Test func aLeftoverIndexIsGivenUp() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-N", "4096", "-O", "^metadata_csum"])
        let old = (0..<300).map { name($0, length: 100) }, new = (300..<400).map { name($0, length: 9) }
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for name in old { try fileSystem.add(name, to: home) }
        }
        try DirectoryVolume.run("tune2fs", ["-O", "^dir_index", volume.path])
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for name in old { #expect(try fileSystem.has(name, in: home)) }
            for name in new { try fileSystem.add(name, to: home) }
            let names = try fileSystem.names(of: home)
            #expect(names.count == old.count + new.count && Set(names) == Set(old + new))
        }
        try DirectoryVolume.run("tune2fs", ["-O", "dir_index", volume.path])
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("home")
            for name in old + new { try fileSystem.unlink(FileName(name), in: home) }
            #expect(try fileSystem.names(of: home).isEmpty)
        }
    }

    /// Directories made by libext2fs have no index however long they are; they stay readable and writable.
    @Test func directoriesOfMke2fsWork() throws {
        let source = NSTemporaryDirectory() + "jext4-tree-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: source, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(atPath: source) }
        for number in 0..<200 { try Data().write(to: URL(fileURLWithPath: source + "/file\(number)")) }
        let volume = try DirectoryVolume(["-b", "1024", "-d", source])
        try volume.mounted { fileSystem in
            for number in 0..<200 { #expect(try fileSystem.has(Array("file\(number)".utf8), in: .root)) }
            for number in 0..<100 { try fileSystem.add(name(number, length: 40), to: .root) }
            for number in 0..<200 { try fileSystem.unlink(FileName(Array("file\(number)".utf8)), in: .root) }
            #expect(try fileSystem.names(of: .root, batch: 9).count == 101)
        }
    }
}

@Suite(.enabled(if: DirectoryVolume.hasKernelMounts, "needs root and loop devices"))
struct DirectoryKernelTests {
    /// Linux and this server look each other's names up, whatever the hash, the block size and the bytes of the names.
    @Test(arguments: ["half_md4", "tea", "legacy"], ["1024", "4096"])
    func linuxAndWeReadEachOther(hash: String, blockSize: String) throws {
        let volume = try DirectoryVolume(["-b", blockSize, "-N", "8192"])
        try DirectoryVolume.run("tune2fs", ["-E", "hash_alg=\(hash)", volume.path])
        try volume.mountedByKernel(
            """
            mkdir $M/theirs; cd $M/theirs
            i=0; while [ $i -lt 1500 ]; do : > "their-name-of-a-file-$i-$(printf '\\303\\244')$i"; i=$((i+1)); done
            cd /
            """)
        let theirs = (0..<1500).map { Array("their-name-of-a-file-\($0)-\u{e4}\($0)".utf8) }
        try volume.mounted { fileSystem in
            let home = try fileSystem.directory("theirs")
            for name in theirs { #expect(try fileSystem.has(name, in: home)) }
            #expect(try Set(fileSystem.names(of: home)) == Set(theirs))
            for (index, name) in theirs.enumerated() where index % 2 == 0 {
                try fileSystem.unlink(FileName(name), in: home)
            }
            let ours = try fileSystem.directory("ours")
            for number in 0..<1500 { try fileSystem.add(Array("ours-\(number)-\u{e4}\u{fc}".utf8), to: ours) }
        }
        let found = try volume.mountedByKernel(
            """
            cd $M/theirs; ls | wc -l
            i=1; while [ $i -lt 1500 ]; do
                stat -t "their-name-of-a-file-$i-$(printf '\\303\\244')$i" >/dev/null; i=$((i+2)); done
            cd $M/ours; ls | wc -l
            i=0; while [ $i -lt 1500 ]; do
                [ -L "ours-$i-$(printf '\\303\\244\\303\\274')" ]; : > "more-$i"; i=$((i+1)); done
            cd /
            """)
        #expect(found.split(whereSeparator: \.isWhitespace) == ["750", "1500"])
        try volume.mounted { fileSystem in
            let names = try fileSystem.names(of: fileSystem.directory("ours"))
            #expect(names.count == 3000)
        }
    }
}
