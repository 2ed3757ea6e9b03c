import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Foundation
import Testing

/// A small volume in memory, as mke2fs makes it, served to an emulated kernel.
struct TestImage: Sendable, CustomTestStringConvertible {
    var blockByteCount = 1024
    var mebibytes = 8
    var journalMebibytes = 1

    static let small = TestImage(), large = TestImage(blockByteCount: 4096, mebibytes: 32, journalMebibytes: 4)

    var testDescription: String { "\(blockByteCount)-byte blocks" }

    /// What mke2fs leaves alone is 0xDB, so that a block that shows stale bytes shows itself.
    func make() throws -> [UInt8] {
        let path = Self.newPath()
        defer { unlink(path) }
        try Data(repeating: 0xDB, count: mebibytes << 20).write(to: URL(fileURLWithPath: path))
        let settings = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
        try Self.run([
            "mke2fs", "-q", "-F", "-t", "ext4", "-b", "\(blockByteCount)", "-J", "size=\(journalMebibytes)", "-E",
            settings, path,
        ])
        return [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    }

    /// e2fsck must have nothing to say.
    static func check(_ image: [UInt8]) throws {
        let path = newPath()
        defer { unlink(path) }
        try Data(image).write(to: URL(fileURLWithPath: path))
        try run(["e2fsck", "-fn", path])
    }

    private static func newPath() -> String {
        let folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : NSTemporaryDirectory()
        return "\(folder)/jext4-iomap-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    }

    private static func run(_ words: [String]) throws {
        let process = Process(), output = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        process.environment = ["PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"]
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(words): \(text.suffix(2000))")
    }
}

/// A mount of a fresh image by an emulated kernel.
final class TestMount {
    let device: any BlockDevice
    let memory: MemoryDevice?
    let fileSystem: FileSystem
    let connection: KernelConnection
    let unit: Int
    /// The answer to CONFIG.
    let configuration: Message

    /// `isManual`: the journal has no threads, and so the server has but one.
    init(_ image: TestImage = .small, outOfPlace: Bool = false, isManual: Bool = true) throws {
        let memory = MemoryDevice(try image.make())
        self.memory = memory
        device = memory
        unit = image.blockByteCount
        var options = MountOptions.deterministic(manual: isManual)
        options.outOfPlace = outOfPlace
        fileSystem = try FileSystem.mount(on: memory, options: options)
        connection = try KernelConnection(fileSystem, threadCount: isManual ? 1 : 4)
        configuration = try connection.configure()
    }

    /// On a device that has a volume.
    init(on device: any BlockDevice, unit: Int, options: MountOptions) throws {
        (self.device, self.unit, memory) = (device, unit, nil)
        fileSystem = try FileSystem.mount(on: device, options: options)
        connection = try KernelConnection(fileSystem)
        configuration = try connection.configure()
    }

    func create(_ name: String = "file") throws -> KernelFile {
        KernelFile(try connection.create(name), connection, device, unit: unit)
    }

    func open(_ name: String = "file") throws -> KernelFile {
        KernelFile(try connection.lookup(name), connection, device, unit: unit)
    }

    /// Unmounts, and has e2fsck look at what is left.
    func finish() throws {
        try connection.close()
        #expect(!connection.script.isOpen)
        try TestImage.check(try #require(memory).bytes)
    }

    static func pattern(_ stamp: Int, _ count: Int) -> [UInt8] {
        Operation.pattern(stamp: UInt64(stamp), at: 0, count: count)
    }
}
