import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// P1 where nobody calls fsync: what is to be synchronous (chattr +S and +D, and the mount option dirsync) is on the
/// medium when its call returns.
@Suite struct SynchronousTests {
    /// A volume in use, and what a power cut at this moment would leave of it at least.
    private struct Machine {
        let base: [UInt8]
        let trace = Trace()
        let fileSystem: FileSystem

        init(_ change: (inout MountOptions) -> Void = { _ in }) throws {
            base = try TestVolume.small.make()
            let device = RecordingDevice(OverlayDevice(over: MemoryDevice(base)), recorder: trace)
            var options = MountOptions.deterministic()
            change(&options)
            fileSystem = try FileSystem.mount(on: device, options: options)
        }

        func afterPowerCut<R>(_ look: (FileSystem) throws -> R) throws -> R {
            let model = try CrashModel(base: MemoryDevice(base), events: trace.events)
            let least = CrashState(EpochChoices(model, try #require(model.epochs.last)), .required)
            var result: R?
            try model.forEach([least]) { _, disk in
                let recovered = try FileSystem.mount(on: disk, options: .deterministic())
                result = try look(recovered)
                try recovered.unmount()
            }
            return try #require(result)
        }
    }

    private static let caller = Caller(uid: 0, gid: 0, umask: 0)

    private func name(_ text: String) throws -> FileName { try FileName([UInt8](text.utf8)) }

    private func makeFile(_ text: String, in parent: InodeNumber, _ fileSystem: FileSystem) throws -> InodeNumber {
        try fileSystem.createFile(name(text), in: parent, mode: 0o644, caller: Self.caller).inode
    }

    private func names(in directory: InodeNumber, _ fileSystem: FileSystem) throws -> Set<String> {
        var names: Set<String> = []
        try fileSystem.readDirectory(directory, after: 0, withAttributes: false) { record in
            names.insert(String(decoding: record.name, as: UTF8.self))
            return true
        }
        return names.subtracting([".", ".."])
    }

    @Test(arguments: [true, false]) func dataOfAFile(isSynchronous: Bool) throws {
        let machine = try Machine(), fileSystem = machine.fileSystem
        let file = try makeFile("f", in: .root, fileSystem)
        if isSynchronous {
            var flags = try fileSystem.flags(of: file)
            flags.flags.insert(.sync)
            try fileSystem.setFlags(of: file, to: flags)
        }
        try fileSystem.syncAll()
        func size() throws -> UInt64 {
            try machine.afterPowerCut { try $0.attributes(of: file).size }
        }
        let bytes = [UInt8](repeating: 7, count: 3000)
        _ = try fileSystem.write(file, at: 0, bytes.span.bytes)
        #expect(try size() == (isSynchronous ? 3000 : 0))
        var cut = AttributeChanges()
        cut.size = 1000
        _ = try fileSystem.setAttributes(of: file, cut)
        #expect(try size() == (isSynchronous ? 1000 : 0))
        try fileSystem.allocate(file, at: 0, count: 8192, mode: [])
        #expect(try size() == (isSynchronous ? 8192 : 0))
        guard isSynchronous else { return }
        let content = try machine.afterPowerCut { recovered in
            var content = [UInt8](repeating: 1, count: 1000)
            var span = content.mutableSpan
            var raw = span.mutableBytes
            _ = try recovered.read(file, at: 0, into: &raw)
            return content
        }
        #expect(content == [UInt8](repeating: 7, count: 1000))
    }

    enum Wish: CaseIterable {
        case mount, directorySync, sync, none
    }

    @Test(arguments: Wish.allCases) func namesInADirectory(wish: Wish) throws {
        let machine = try Machine { $0.synchronousNames = wish == .mount }, fileSystem = machine.fileSystem
        let folder = try fileSystem.makeDirectory(name("d"), in: .root, mode: 0o755, caller: Self.caller).inode
        if wish == .directorySync || wish == .sync {
            var flags = try fileSystem.flags(of: folder)
            flags.flags.insert(wish == .sync ? .sync : .directorySync)
            try fileSystem.setFlags(of: folder, to: flags)
        }
        try fileSystem.syncAll()
        var expected: Set<String> = []
        func expect(_ now: Set<String>) throws {
            if wish != .none { expected = now }
            #expect(try machine.afterPowerCut { try names(in: folder, $0) } == expected)
        }
        let file = try makeFile("a", in: folder, fileSystem)
        try expect(["a"])
        _ = try fileSystem.link(file, as: name("b"), in: folder)
        try expect(["a", "b"])
        _ = try fileSystem.makeSymlink(name("c"), in: folder, target: [0x78], caller: Self.caller)
        try expect(["a", "b", "c"])
        _ = try fileSystem.makeDirectory(name("e"), in: folder, mode: 0o755, caller: Self.caller)
        try expect(["a", "b", "c", "e"])
        try fileSystem.unlink(name("a"), in: folder)
        try expect(["b", "c", "e"])
        try fileSystem.removeDirectory(name("e"), in: folder)
        try expect(["b", "c"])
        try fileSystem.rename(name("b"), in: folder, to: name("f"), in: folder, flags: [])
        try expect(["c", "f"])
        // Out of it and back: either end asks for it.
        try fileSystem.rename(name("f"), in: folder, to: name("g"), in: .root, flags: [])
        try expect(["c"])
        try fileSystem.rename(name("g"), in: .root, to: name("h"), in: folder, flags: [])
        try expect(["c", "h"])
    }
}
