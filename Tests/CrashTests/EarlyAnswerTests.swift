import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Foundation
import Synchronization
import Testing
import Threads

/// An overwrite out of place is acknowledged before its map has changed: nobody may notice.
@Suite struct EarlyAnswerTests {
    private static let count = 16 << 10, piece = 4096

    /// A mounted volume with a file of ones that is durable.
    private static func prepared(outOfPlace: Bool) throws -> (MemoryDevice, FileSystem, InodeNumber) {
        let device = MemoryDevice(try TestVolume.small.make())
        var options = MountOptions()
        options.outOfPlace = outOfPlace
        let system = try FileSystem.mount(on: device, options: options)
        let file = try system.createFile(FileName(Array("file".utf8)), in: .root, mode: 0o644, caller: .root).inode
        try write(system, file, at: 0, 1, count)
        try system.sync(file, dataOnly: false)
        return (device, system, file)
    }

    private static func write(
        _ system: FileSystem, _ file: InodeNumber, at offset: Int, _ byte: UInt8, _ count: Int,
        answer: (Int) -> Void = { _ in }
    ) throws {
        let bytes = [UInt8](repeating: byte, count: count)
        #expect(try system.write(file, at: UInt64(offset), bytes.span.bytes, answer: answer) == count)
    }

    private static func read(_ system: FileSystem, _ file: InodeNumber) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        #expect(try system.read(file, at: 0, into: &raw) == count)
        return bytes
    }

    /// P1 and P7: times have moved, who reads the range waits for the new bytes, and fsync waits for the rest and makes
    /// it durable.
    @Test func whoComesAfterTheAnswerFindsTheWriteDone() throws {
        let (device, system, file) = try Self.prepared(outOfPlace: true)
        let before = try system.attributes(of: file).modification
        usleep(10_000)
        let synced = Mutex<[UInt8]?>(nil), seen = Mutex<[UInt8]?>(nil)
        var threads: [Threads.Thread] = []
        try Self.write(system, file, at: 0, 2, Self.piece) { count in
            #expect(count == Self.piece)
            #expect((try? system.attributes(of: file).modification != before) == true)
            threads.append(
                Thread(name: "sync") {
                    do { try system.sync(file, dataOnly: false) } catch { Issue.record("\(error)") }
                    synced.withLock { $0 = device.bytes }
                })
            threads.append(
                Thread(name: "read") {
                    do { let bytes = try Self.read(system, file); seen.withLock { $0 = bytes } } catch {
                        Issue.record("\(error)")
                    }
                })
            // Long enough for a thread that does not wait.
            usleep(50_000)
            #expect(synced.withLock { $0 == nil } && seen.withLock { $0 == nil })
        }
        for thread in threads { thread.join() }
        let new = [UInt8](repeating: 2, count: Self.piece) + [UInt8](repeating: 1, count: Self.count - Self.piece)
        #expect(seen.withLock { $0 } == new)
        let cut = try FileSystem.mount(on: MemoryDevice(try #require(synced.withLock { $0 })), options: MountOptions())
        #expect(try Self.read(cut, file) == new)
        try cut.unmount()
        try system.unmount()
    }

    /// What changes the size or the count of blocks is answered at its end, and an overwrite in place has none.
    @Test func onlyOverwritesToNewBlocksAreAnsweredAhead() throws {
        for outOfPlace in [true, false] {
            let (_, system, file) = try Self.prepared(outOfPlace: outOfPlace)
            var answers: [Int] = []
            func write(_ offset: Int, _ count: Int) throws {
                try Self.write(system, file, at: offset, 3, count) { answers.append($0) }
            }
            try write(Self.count - 10, 20)
            try write(Self.count + 100_000, 5)
            try write(Self.count + 50_000, 5)
            #expect(answers.isEmpty)
            try write(100, 3)
            try write(5_000, 7_000)
            #expect(answers == (outOfPlace ? [3, 7_000] : []))
            try system.unmount()
        }
    }
}
