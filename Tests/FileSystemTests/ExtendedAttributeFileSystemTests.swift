import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Synchronization
import Testing

private let caller = Caller(uid: 0, gid: 0, umask: 0o027)
private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
private func bytes(_ count: Int, seed: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ seed) }
}

/// An image, mounted by this server while `work` runs, and judged by e2fsck afterwards.
private final class AttributeVolume {
    let path: String

    init(_ options: [String]) throws {
        path = NSTemporaryDirectory() + "xattr-fs-\(UUID().uuidString).img"
        try #require(FileManager.default.createFile(atPath: path, contents: nil))
        try #require(truncate(path, 16 << 20) == 0)
        _ = try DirectoryVolume.run("mke2fs", ["-q", "-F", "-t", "ext4"] + options + [path])
    }
    deinit { unlink(path) }

    func mounted(isSound: Bool = true, _ work: (FileSystem) throws -> Void) throws {
        let device = try FileDevice(path: path, readOnly: false, direct: .never)
        let fileSystem = try FileSystem.mount(on: device, options: MountOptions())
        do { try work(fileSystem) } catch {
            try? fileSystem.unmount()
            throw error
        }
        try fileSystem.unmount()
        if isSound { _ = try DirectoryVolume.run("e2fsck", ["-fn", path]) }
    }

    func debugfs(_ command: String) throws -> String {
        try DirectoryVolume.run("debugfs", ["-w", "-R", command, path])
    }

    /// Runs `script` in sh with the kernel's mount of the image as $M.
    @discardableResult func mountedByKernel(_ script: String) throws -> String {
        let point = path + ".mount"
        try FileManager.default.createDirectory(atPath: point, withIntermediateDirectories: false)
        defer { rmdir(point) }
        let mount = "mount -o loop,acl,user_xattr \(path) \(point); trap 'umount \(point)' EXIT; M=\(point)\n"
        return try DirectoryVolume.run("sh", ["-ec", mount + script])
    }

    static let hasTools = DirectoryVolume.hasTools
    static let hasKernelMounts =
        DirectoryVolume.isCI
        || DirectoryVolume.hasKernelMounts && ["setfattr", "setfacl"].allSatisfy { DirectoryVolume.find($0) != nil }
}

extension FileSystem {
    fileprivate func file(_ name: String) throws -> InodeNumber {
        let name = try FileName(bytes(name))
        if let found = try lookup(name, in: .root) { return found.inode }
        return try createFile(name, in: .root, mode: 0o644, caller: caller).inode
    }
    fileprivate func set(
        _ name: String, _ value: [UInt8], of inode: InodeNumber, create: Bool = false, replace: Bool = false
    ) throws(Ext4Error) {
        try setExtendedAttribute(bytes(name), of: inode, to: value, create: create, replace: replace)
    }
    fileprivate func get(_ name: String, of inode: InodeNumber) throws(Ext4Error) -> [UInt8]? {
        try extendedAttribute(bytes(name), of: inode)
    }
    fileprivate func all(of inode: InodeNumber) throws -> [String: [UInt8]] {
        var result: [String: [UInt8]] = [:]
        for name in try extendedAttributes(of: inode) {
            result[String(decoding: name, as: UTF8.self)] = try extendedAttribute(name, of: inode)
        }
        return result
    }
}

private func error(_ body: () throws(Ext4Error) -> Void) -> Ext4Error? {
    do throws(Ext4Error) { try body() } catch { return error }
    return nil
}

@Suite(.enabled(if: AttributeVolume.hasTools, "needs e2fsprogs")) struct ExtendedAttributeFileSystemTests {
    /// Long walks over every placement: inside, in the block, dealt anew, dropped. A model says what must be there.
    @Test(arguments: [
        ["-b", "1024", "-I", "256"], ["-b", "4096", "-I", "128"], ["-b", "2048", "-I", "1024", "-O", "^metadata_csum"],
        ["-b", "1024", "-I", "128", "-O", "^huge_file"],
    ])
    func attributesStayWhatTheyWereSetTo(options: [String]) throws {
        let volume = try AttributeVolume(options)
        var generator = SystemRandomNumberGenerator()
        var model: [String: [String: [UInt8]]] = [:]
        let names = ["user.a", "user.bb", "trusted.c", "security.dd", "user.\u{e9}t\u{e9}", "user.long-enough-a-name"]
        for _ in 0..<3 {
            try volume.mounted { fileSystem in
                for round in 0..<300 {
                    let file = "f\(round % 5)", name = names.randomElement(using: &generator)!
                    let inode = try fileSystem.file(file)
                    if round % 4 == 3 {
                        let exists = model[file]?[name] != nil
                        let failure = error { () throws(Ext4Error) in
                            try fileSystem.removeExtendedAttribute(bytes(name), of: inode)
                        }
                        #expect(failure == (exists ? nil : .posix(61)))
                        model[file]?[name] = nil
                    } else {
                        let count = [0, 3, 20, 40, 90, 300, 700].randomElement(using: &generator)!
                        let value = bytes(count, seed: round)
                        let failure = error { () throws(Ext4Error) in try fileSystem.set(name, value, of: inode) }
                        #expect(failure == nil || failure == .posix(28))
                        if failure == nil { model[file, default: [:]][name] = value }
                    }
                    #expect(try fileSystem.all(of: inode) == model[file] ?? [:])
                }
            }
            try volume.mounted { fileSystem in
                for (file, attributes) in model {
                    let found = try fileSystem.all(of: fileSystem.file(file))
                    #expect(found == attributes)
                }
            }
        }
        try volume.mounted { fileSystem in
            for file in model.keys { try fileSystem.unlink(try FileName(bytes(file)), in: .root) }
        }
    }

    /// Each is an errno that programs act on; and what failed has changed nothing.
    @Test func refusalsHaveTheirErrnoAndChangeNothing() throws {
        try AttributeVolume(["-b", "1024", "-I", "256"]).mounted { fileSystem in
            let file = try fileSystem.file("f")
            func failure(_ name: String, _ value: [UInt8], create: Bool = false, replace: Bool = false) -> Ext4Error? {
                error { () throws(Ext4Error) in
                    try fileSystem.set(name, value, of: file, create: create, replace: replace)
                }
            }
            #expect(failure("user.a", [1], replace: true) == .posix(61))
            #expect(failure("user.a", [1], create: true) == nil)
            #expect(failure("user.a", [2], create: true) == .posix(17))
            #expect(failure("user.b", bytes(1100, seed: 0)) == .posix(28))
            #expect(failure("user.b", bytes(65537, seed: 0)) == .posix(7))
            #expect(failure("user." + String(repeating: "x", count: 251), []) == .posix(34))
            #expect(failure("user.", [1]) == .posix(22))
            #expect(failure("system.data", [1]) == .posix(95))
            #expect(failure("other", [1]) == .posix(95))
            #expect(failure("system.posix_acl_default", [2, 0, 0, 0, 1, 0, 7, 0]) == .posix(22))
            #expect(try fileSystem.get("user.b", of: file) == nil)
            #expect(try fileSystem.all(of: file) == ["user.a": [1]])
        }
    }

    /// A block that several inodes share belongs to the others too.
    @Test(.enabled(if: AttributeVolume.hasKernelMounts, "needs root, loop devices, setfattr, setfacl"))
    func aSharedBlockIsCopiedBeforeItChanges() throws {
        let volume = try AttributeVolume(["-b", "1024", "-I", "128"])
        let value = String(repeating: "v", count: 300)
        try volume.mountedByKernel("for f in a b c d; do touch $M/$f; setfattr -n user.x -v \(value) $M/$f; done")
        let blocks = try ["a", "b", "c", "d"].map { file in
            try #require(try volume.debugfs("stat \(file)").firstMatch(of: #/File ACL: (\d+)/#)).1
        }
        try #require(Set(blocks).count == 1 && blocks[0] != "0")
        try volume.mounted { fileSystem in
            try fileSystem.set("user.y", [1], of: fileSystem.file("a"))
            try fileSystem.removeExtendedAttribute(bytes("user.x"), of: fileSystem.file("b"))
            try fileSystem.unlink(try FileName(bytes("c")), in: .root)
            #expect(try fileSystem.all(of: fileSystem.file("a")) == ["user.x": bytes(value), "user.y": [1]])
            #expect(try fileSystem.all(of: fileSystem.file("b")) == [:])
            #expect(try fileSystem.all(of: fileSystem.file("d")) == ["user.x": bytes(value)])
        }
        // The last one that had the shared block frees it.
        try volume.mounted { fileSystem in
            try fileSystem.set("user.x", [2], of: fileSystem.file("d"))
            try fileSystem.removeExtendedAttribute(bytes("user.x"), of: fileSystem.file("d"))
        }
    }

    /// No inode lock covers the count of a shared block: a lost decrement would leak it, a doubled one free it twice.
    @Test(.enabled(if: AttributeVolume.hasKernelMounts, "needs root, loop devices, setfattr, setfacl"))
    func manyLetGoOfASharedBlockAtOnce() throws {
        let volume = try AttributeVolume(["-b", "1024", "-I", "128"])
        let value = String(repeating: "w", count: 300), count = 64
        try volume.mountedByKernel(
            "for f in $(seq 0 \(count - 1)); do touch $M/$f; setfattr -n user.x -v \(value) $M/$f; done")
        try volume.mounted { fileSystem in
            let files = try (0..<count).map { try fileSystem.file("\($0)") }
            let failures = Mutex(0)
            DispatchQueue.concurrentPerform(iterations: count) { index in
                let failure = error { () throws(Ext4Error) in
                    switch index % 3 {
                    case 0: try fileSystem.set("user.x", [1], of: files[index])
                    case 1: try fileSystem.removeExtendedAttribute(bytes("user.x"), of: files[index])
                    default: try fileSystem.unlink(try FileName(bytes("\(index)")), in: .root)
                    }
                }
                if failure != nil { failures.withLock { $0 += 1 } }
            }
            #expect(failures.withLock { $0 } == 0)
            for index in stride(from: 2, to: count, by: 3) { fileSystem.forget(files[index], count: 1) }
        }
    }

    /// P5, P6: damage is named, whatever is asked of the attributes, and the rest of the volume stays usable.
    @Test(arguments: ["file_acl 4294967295", "file_acl 70", "file_acl 1", "content"])
    func aDamagedBlockIsNamedAndTheVolumeLives(damage: String) throws {
        let volume = try AttributeVolume(["-b", "1024", "-I", "128"])
        try volume.mounted { fileSystem in try fileSystem.set("user.a", bytes(300, seed: 1), of: fileSystem.file("f")) }
        if damage.hasPrefix("file_acl") {
            _ = try volume.debugfs("sif f \(damage)")
        } else {
            let block = try #require(try volume.debugfs("stat f").firstMatch(of: #/File ACL: (\d+)/#)).1
            _ = try volume.debugfs("zap_block -p 255 -o 40 -l 8 \(block)")
        }
        try volume.mounted(isSound: false) { fileSystem in
            let file = try fileSystem.file("f")
            let failures = [
                error { () throws(Ext4Error) in _ = try fileSystem.get("user.a", of: file) },
                error { () throws(Ext4Error) in _ = try fileSystem.extendedAttributes(of: file) },
                error { () throws(Ext4Error) in try fileSystem.set("user.b", [1], of: file) },
                error { () throws(Ext4Error) in
                    try fileSystem.removeExtendedAttribute(bytes("user.a"), of: file)
                },
            ]
            for failure in failures {
                guard case .corrupt = failure else {
                    Issue.record("\(damage): \(String(describing: failure))")
                    continue
                }
            }
            try fileSystem.set("user.a", [1], of: fileSystem.file("other"))
            try fileSystem.syncAll()
            #expect(!fileSystem.isReadOnly)
        }
    }

    /// A list that does not fit is found out before anything has changed: later would abort the journal.
    @Test func aDirectoryWhoseListsDoNotFitIsNotMade() throws {
        try AttributeVolume(["-b", "1024", "-I", "128"]).mounted { fileSystem in
            let users = (0..<80).map { AccessControlList.Entry(.user, 7, id: $0) }
            let group = [AccessControlList.Entry(.owningGroup, 5), .init(.mask, 7), .init(.other, 5)]
            let list = try #require(AccessControlList([.init(.owner, 7)] + users + group))
            let parent = try fileSystem.makeDirectory(
                FileName(bytes("d")), in: .root, mode: 0o755, caller: caller
            ).inode
            try fileSystem.set("system.posix_acl_default", list.call, of: parent)
            let name = try FileName(bytes("child"))
            let failure = error { () throws(Ext4Error) in
                _ = try fileSystem.makeDirectory(name, in: parent, mode: 0o755, caller: caller)
            }
            #expect(failure == .posix(28))
            let found = try fileSystem.lookup(name, in: parent)
            #expect(found == nil)
            // A file needs the access list alone.
            let file = try fileSystem.createFile(name, in: parent, mode: 0o666, caller: caller)
            #expect(file.mode == 0o100664)
            let access = try fileSystem.get("system.posix_acl_access", of: file.inode)
            #expect(access?.count == list.call.count)
        }
    }

    /// Two ways to one disk: what we write the kernel reads, to the byte.
    @Test(.enabled(if: AttributeVolume.hasKernelMounts, "needs root, loop devices, setfattr, setfacl"))
    func theKernelReadsWhatWeWrote() throws {
        let volume = try AttributeVolume(["-b", "1024", "-I", "256"])
        try volume.mounted { fileSystem in
            let file = try fileSystem.file("f")
            for (index, count) in [5, 30, 200, 0, 301].enumerated() {
                try fileSystem.set("user.n\(index)", [UInt8](repeating: 0x61 + UInt8(index), count: count), of: file)
            }
        }
        let text = try volume.mountedByKernel("getfattr --absolute-names -d $M/f; setfattr -x user.n2 $M/f")
        for (index, count) in [5, 30, 200, 0, 301].enumerated() {
            let letter = String(UnicodeScalar(UInt8(0x61 + index)))
            #expect(text.contains("user.n\(index)=\"\(String(repeating: letter, count: count))\"\n"))
        }
        try volume.mounted { fileSystem in
            let found = try fileSystem.all(of: fileSystem.file("f"))
            #expect(found.count == 4 && found["user.n2"] == nil)
        }
    }
}

@Suite(.enabled(if: AttributeVolume.hasKernelMounts, "needs root, loop devices, setfattr, setfacl"))
struct ExtendedAttributeACLFileSystemTests {
    private func list(_ entries: (AccessControlList.Tag, UInt16, UInt32)...) throws -> [UInt8] {
        try #require(AccessControlList(entries.map { .init($0.0, $0.1, id: $0.2) })).call
    }

    /// Rights that differ from the kernel's are a hole or a lock-out: the same acts on both must leave the same text.
    @Test func listsLeaveWhatTheKernelLeaves() throws {
        let ours = try AttributeVolume(["-b", "1024", "-I", "256"])
        let theirs = try AttributeVolume(["-b", "1024", "-I", "256"])
        let named = try list((.owner, 7, 0), (.user, 6, 77), (.owningGroup, 5, 0), (.mask, 6, 0), (.other, 4, 0))
        let plain = try list((.owner, 6, 0), (.owningGroup, 4, 0), (.other, 0, 0))
        let wide = try list((.owner, 7, 0), (.owningGroup, 7, 0), (.group, 5, 8), (.mask, 7, 0), (.other, 5, 0))
        try ours.mounted { fileSystem in
            let name = "system.posix_acl_access", defaults = "system.posix_acl_default"
            try fileSystem.set(name, named, of: fileSystem.file("set"))
            try fileSystem.set(name, named, of: fileSystem.file("plain"))
            try fileSystem.set(name, plain, of: fileSystem.file("plain"))
            try fileSystem.set(name, named, of: fileSystem.file("chmod"))
            var changes = AttributeChanges()
            changes.mode = 0o4751
            _ = try fileSystem.setAttributes(of: fileSystem.file("chmod"), changes)
            try fileSystem.set(name, named, of: fileSystem.file("gone"))
            try fileSystem.removeExtendedAttribute(bytes(name), of: fileSystem.file("gone"))
            try fileSystem.removeExtendedAttribute(bytes(name), of: fileSystem.file("gone"))
            #expect(
                error { () throws(Ext4Error) in
                    guard let file = try? fileSystem.file("gone") else { return }
                    try fileSystem.set(defaults, named, of: file)
                } == .posix(13))
            for (row, value) in [named, plain, wide].enumerated() {
                let parent = try fileSystem.makeDirectory(
                    FileName(bytes("d\(row)")), in: .root, mode: 0o777, caller: caller
                ).inode
                try fileSystem.set(defaults, value, of: parent)
                _ = try fileSystem.makeDirectory(FileName(bytes("dir")), in: parent, mode: 0o770, caller: caller)
                _ = try fileSystem.createFile(FileName(bytes("file")), in: parent, mode: 0o666, caller: caller)
                _ = try fileSystem.makeSymlink(FileName(bytes("link")), in: parent, target: bytes("x"), caller: caller)
            }
        }
        let acls = [
            "u::rwx,u:77:rw,g::rx,m::rw,o::r", "u::rw,g::r,o::-", "u::rwx,g:8:rx,g::rwx,m::rwx,o::rx",
        ]
        var script = """
            umask 027; cd $M; touch set plain chmod gone
            setfacl --set \(acls[0]) set plain chmod; setfacl --set \(acls[1]) plain; chmod 4751 chmod
            setfacl --set \(acls[0]) gone; setfattr -x system.posix_acl_access gone

            """
        for (row, acl) in acls.enumerated() {
            script += "mkdir d\(row); setfacl -d --set \(acl) d\(row); cd d\(row)\n"
            script += "python3 -c 'import os; os.mkdir(\"dir\", 0o770)'; touch file; ln -s x link; cd ..\n"
        }
        // In the order of the names: that of a directory depends on a seed.
        let show = "cd $M; for f in * */*; do stat -c '%n %a %b' $f; test -h $f || getfacl -n -c $f; done; cd /\n"
        // Files made by open(2) with 0666 on both sides; touch asks for the same.
        let expected = try theirs.mountedByKernel(script + show)
        let found = try ours.mountedByKernel(show)
        #expect(found == expected)
    }
}
