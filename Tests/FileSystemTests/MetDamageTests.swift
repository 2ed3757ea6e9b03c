import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Synchronization
import Testing

/// P5: damage, or a sector that cannot be read, which an operation meets on its way: it is found out before anything
/// has changed, so that the journal goes on, and it is recorded.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct MetDamageTests {
    private func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    private func create(_ text: String, _ fileSystem: FileSystem) throws -> InodeNumber {
        try fileSystem.createFile(name(text), in: .root, mode: 0o644, caller: DirectoryVolume.caller).inode
    }

    private func write(_ fileSystem: FileSystem, _ file: InodeNumber, at offset: Int, _ count: Int) throws {
        let bytes = [UInt8](repeating: 7, count: count)
        #expect(try fileSystem.write(file, at: UInt64(offset), bytes.span.bytes) == count)
    }

    /// What debugfs says after `label`, as a number.
    private func number(after label: String, in text: String) throws -> Int {
        let rest = try #require(text.range(of: label)).upperBound
        return try #require(Int(text[rest...].drop { !$0.isNumber }.prefix { $0.isNumber }))
    }

    /// Blocks of 1 KiB written from the end, so that each is an extent and several leaves hold them: the leaves.
    private func makeLeaves(_ volume: DirectoryVolume) throws -> [Int] {
        let file = try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            for block in (0..<104).reversed() where !(50..<60).contains(block) {
                try write(fileSystem, file, at: block * 1024, 1024)
            }
            return file
        }
        let lines = try volume.debugfs("dump_extents -n <\(file.rawValue)>").split(separator: "\n")
        let leaves = lines.compactMap { line in
            line.split { $0 == " " }.compactMap { Int($0) }.last { $0 > 100 }
        }
        return try #require(leaves.count >= 2 ? leaves : nil)
    }

    private func remove(_ text: String, _ fileSystem: FileSystem) throws {
        let found = try #require(try fileSystem.lookup(name(text), in: .root))
        try fileSystem.unlink(name(text), in: .root)
        fileSystem.forget(found.inode, count: 1)
        try fileSystem.syncAll()
    }

    /// Found when the last leaf has been freed already, in the handle that did so.
    @Test func aDamagedLeafKeepsAFileFromBeingDeleted() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        let leaves = try makeLeaves(volume)
        try volume.change(at: leaves[0] * 1024 + 20, 1) { $0[0] ^= 1 }
        var options = MountOptions()
        options.errors = .continue
        try volume.mounted(isSound: false, options: options) { fileSystem in
            try remove("f", fileSystem)
            #expect(!fileSystem.isReadOnly && fileSystem.abortCause == nil)
            #expect(fileSystem.errors.count == 1)
            _ = try create("g", fileSystem)
        }
    }

    @Test func aLeafThatCannotBeReadKeepsAFileFromBeingDeleted() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        let leaves = try makeLeaves(volume)
        let device = FaultyDevice(try FileDevice(path: volume.path, readOnly: false, direct: .never))
        let fileSystem = try FileSystem.mount(on: device, options: MountOptions())
        let start = UInt64(leaves[0]) * 1024
        device.arm(.init(.read, ordinal: 1, isPersistent: true, range: start..<start + 1024))
        try remove("f", fileSystem)
        #expect(device.failureCount > 0)
        #expect(!fileSystem.isReadOnly && fileSystem.abortCause == nil)
        _ = try create("g", fileSystem)
        try fileSystem.unmount()
    }

    /// A node of the tree that counts as free already cannot be freed; its data could.
    @Test func aNodeThatCannotBeFreedKeepsItsFileFromBeingCut() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-O", "^metadata_csum,^uninit_bg"])
        let leaves = try makeLeaves(volume)
        // The descriptors follow the super block: of each the bitmap's place, and the count of free blocks.
        let leaf = leaves[leaves.count - 1], group = (leaf - 1) / 8192
        let descriptor = 2048 + group * 64
        var bitmap = 0
        try volume.change(at: descriptor, 16) { bytes in
            bitmap = Int(bytes[0]) | Int(bytes[1]) << 8 | Int(bytes[2]) << 16
            let count = Int(bytes[12]) | Int(bytes[13]) << 8
            (bytes[12], bytes[13]) = (UInt8(truncatingIfNeeded: count + 1), UInt8((count + 1) >> 8))
        }
        let bit = (leaf - 1) % 8192
        try volume.change(at: bitmap * 1024 + bit / 8, 1) { $0[0] &= ~(1 << UInt8(bit % 8)) }
        try volume.mounted(isSound: false) { fileSystem in
            let file = try #require(try fileSystem.lookup(name("f"), in: .root)).inode
            var cut = AttributeChanges()
            cut.size = 0
            #expect(throws: Ext4Error.self) { try fileSystem.setAttributes(of: file, cut) }
            #expect(fileSystem.abortCause == nil)
            fileSystem.forget(file, count: 1)
            try remove("f", fileSystem)
            #expect(fileSystem.abortCause == nil && fileSystem.errors.count > 0)
        }
    }

    /// Two pieces on one block: the second is found to be free when the first has gone. What is left is an orphan, and
    /// nobody is told that it was done.
    @Test func aCutThatDoesNotFinishSaysSo() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-O", "^metadata_csum,^uninit_bg"])
        let file = try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            for block in [0, 5] { try write(fileSystem, file, at: block * 1024, 1024) }
            return file
        }
        let place = try volume.debugfs("imap <\(file.rawValue)>")
        let hexadecimal = try #require(place.range(of: "offset 0x")).upperBound
        let offset = try #require(Int(place[hexadecimal...].prefix { $0.isHexDigit }, radix: 16))
        // The root of the tree, its header, and the start of an extent.
        let root = try number(after: "located at block", in: place) * 1024 + offset + 0x28
        var start: [UInt8] = []
        try volume.change(at: root + 12 + 8, 4) { start = $0 }
        try volume.change(at: root + 24 + 8, 4) { $0 = start }
        try volume.mounted(isSound: false) { fileSystem in
            var cut = AttributeChanges()
            cut.size = 0
            #expect(throws: Ext4Error.self) { try fileSystem.setAttributes(of: file, cut) }
            #expect(fileSystem.abortCause == nil)
        }
        #expect(try volume.debugfs("stats").contains("orphan"))
    }

    /// With discard: what could not be freed is still in use, and is not thrown away.
    @Test func whatCannotBeFreedIsNotDiscarded() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-I", "128"])
        let attribute = Array("user.a".utf8), value = [UInt8](repeating: 0x61, count: 500)
        let file = try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            try fileSystem.setExtendedAttribute(attribute, of: file, to: value, create: false, replace: false)
            return file
        }
        let block = try number(after: "File ACL:", in: try volume.debugfs("stat <\(file.rawValue)>"))
        try volume.debugfs("freeb \(block)")
        var options = MountOptions()
        options.discard = true
        try volume.mounted(isSound: false, options: options) { fileSystem in
            #expect(throws: Ext4Error.self) { try fileSystem.removeExtendedAttribute(attribute, of: file) }
            try fileSystem.syncAll()
            #expect(fileSystem.abortCause == nil)
        }
        try volume.mounted(isSound: false) { fileSystem in
            let kept = try fileSystem.extendedAttribute(attribute, of: file)
            #expect(kept == value)
        }
    }

    /// An inode table that cannot be read any further: new inodes come from other groups.
    @Test func aTableThatCannotBeReadTakesNoNewInodes() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-O", "^metadata_csum,^uninit_bg"])
        var table: UInt64 = 0
        try volume.change(at: 2048, 16) { table = UInt64($0[8]) | UInt64($0[9]) << 8 }
        let device = FaultyDevice(try FileDevice(path: volume.path, readOnly: false, direct: .never))
        let fileSystem = try FileSystem.mount(on: device, options: MountOptions())
        // Behind what one look at the table brings along.
        device.arm(.init(.read, ordinal: 1, isPersistent: true, range: (table + 128) * 1024..<(table + 512) * 1024))
        var numbers: [UInt32] = []
        for index in 0..<700 { numbers.append(try create("\(index)", fileSystem).rawValue) }
        #expect(device.failureCount > 0)
        #expect(!fileSystem.isReadOnly && fileSystem.abortCause == nil)
        #expect(numbers.contains { $0 > 2048 })
        try fileSystem.unmount()
        try DirectoryVolume.run("e2fsck", ["-fn", volume.path])
    }

    /// Whether a batch is to be dropped is decided when nobody else can begin another.
    @Test func aBatchIsDroppedByWhoeverItIsMeantFor() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try volume.mounted { fileSystem in
            let file = try create("f", fileSystem)
            try write(fileSystem, file, at: 0, 4096)
            try fileSystem.startBatch(file, owner: BatchOwner(process: 1, handle: 11), by: .root)
            let isCommitted = Atomic(false)
            let isDropped = try fileSystem.abortBatch(file) { owner in
                Thread.detachNewThread {
                    try? fileSystem.commitBatch(file, by: .root)
                    isCommitted.store(true, ordering: .releasing)
                }
                usleep(200_000)
                return owner.handle == 11 && !isCommitted.load(ordering: .acquiring)
            }
            #expect(isDropped)
            while !isCommitted.load(ordering: .acquiring) { usleep(1_000) }
        }
    }
}
