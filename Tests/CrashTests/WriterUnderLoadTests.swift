import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Foundation
import Synchronization
import Testing
import Threads

/// Commit, checkpoint and many writers at once on a log that is nearly always full (1,024 blocks of 1 KiB).
@Suite struct WriterUnderLoadTests {
    private static let threadCount = 4
    private static let rounds = 110

    /// What one thread does to its own directory, and what it tells the trace: "done NAME SIZE" when fsync has
    /// returned, "gone NAME" before it removes a file that was synced.
    private struct Writer {
        let system: FileSystem
        let device: RecordingDevice
        let index: Int
        let directory: InodeNumber
        private let caller = Caller(uid: 0, gid: 0, umask: 0o022)

        init(_ system: FileSystem, _ device: RecordingDevice, _ index: Int) throws(Ext4Error) {
            self.system = system
            self.device = device
            self.index = index
            let name = try FileName(Array("writer-\(index)".utf8))
            directory = try system.makeDirectory(name, in: .root, mode: 0o755, caller: caller).inode
        }

        func run() throws(Ext4Error) {
            var kept: [String] = []
            for round in 0..<WriterUnderLoadTests.rounds {
                let name = "\(index)-\(round)"
                let file = try system.createFile(
                    try FileName(Array(name.utf8)), in: directory, mode: 0o644, caller: caller)
                // Scattered, so that the extent tree has blocks of its own, which are freed and become data again.
                let pieces = round % 5 == 0 ? 24 : 2
                let bytes = WriterUnderLoadTests.content(name)
                for piece in 0..<pieces {
                    _ = try system.write(file.inode, at: UInt64(piece * 2 * bytes.count), unsafe bytes.span.bytes)
                }
                try system.sync(file.inode, dataOnly: false)
                device.mark("done \(name) \((2 * pieces - 1) * bytes.count)")
                system.forget(file.inode, count: 1)
                kept.append(name)
                if kept.count > 6 { try remove(kept.remove(at: round % 6)) }
                if round % 8 == 3 { try makeAndRemoveDirectory(round) }
            }
        }

        private func remove(_ name: String) throws(Ext4Error) {
            device.mark("gone \(name)")
            try system.unlink(try FileName(Array(name.utf8)), in: directory)
        }

        private func makeAndRemoveDirectory(_ round: Int) throws(Ext4Error) {
            let name = try FileName(Array("directory-\(round)".utf8))
            let made = try system.makeDirectory(name, in: directory, mode: 0o700, caller: caller)
            for number in 0..<40 {
                let entry = try FileName(Array("a name that fills blocks \(number)".utf8))
                let file = try system.createFile(entry, in: made.inode, mode: 0o600, caller: caller)
                system.forget(file.inode, count: 1)
            }
            for number in 0..<40 {
                try system.unlink(try FileName(Array("a name that fills blocks \(number)".utf8)), in: made.inode)
            }
            try system.removeDirectory(name, in: directory)
            system.forget(made.inode, count: 1)
        }
    }

    /// 1,536 bytes that say whose they are.
    private static func content(_ name: String) -> [UInt8] {
        let unit = Array("<\(name)>".utf8)
        return (0..<1_536).map { unit[$0 % unit.count] }
    }

    /// P1 and P2 with concurrent writers: after a power cut at any moment e2fsck has nothing to say, and every file
    /// that was synced is there with its bytes. The log wraps many times. (That one commit serves many is a matter of
    /// the schedule: see `oneCommitServesAllWaiters`.)
    @Test func whatConcurrentWritersSyncedSurvives() throws {
        let base = try TestVolume.small.make()
        let trace = Trace()
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(base)), recorder: trace)
        let system = try FileSystem.mount(on: device, options: .deterministic(manual: false))
        let failures = Mutex<[String]>([])
        let threads = (0..<Self.threadCount).map { index in
            Thread(name: "writer \(index)") {
                do throws(Ext4Error) {
                    try Writer(system, device, index).run()
                } catch {
                    failures.withLock { $0.append("writer \(index): \(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        let counters = try #require(system.journalCounters)
        try system.unmount()
        #expect(counters.loggedBlocks > 3 * 1_024, "the log has wrapped a few times")
        #expect(counters.checkpoints > 4)

        let events = trace.events
        let model = try CrashModel(base: MemoryDevice(base), events: events)
        var random = SeededRandom(seed: 11)
        let states = TraceSample(model).states(seed: 11, prefixes: 20, inFlight: 10, subsets: 20)
        try model.forEach(random.sample(states, count: 40)) { state, disk in
            let system = try FileSystem.mount(on: disk, options: .deterministic())
            for (name, size) in Self.promised(events.prefix(state.epoch.event + 1)) {
                try Self.expect(name, size, on: system, "\(state)")
            }
            try system.unmount()
            let complaints = try Structure.complaints(of: disk)
            #expect(complaints == [], "\(state)")
        }
    }

    /// Files whose fsync had returned, and that nobody had begun to remove.
    private static func promised(_ events: ArraySlice<Trace.Event>) -> [String: UInt64] {
        var files: [String: UInt64] = [:]
        for case .mark(let label) in events {
            let words = label.split(separator: " ").map(String.init)
            files[words[1]] = words[0] == "done" ? UInt64(words[2]) : nil
        }
        return files
    }

    private static func expect(_ name: String, _ size: UInt64, on system: FileSystem, _ when: String) throws {
        let writer = try FileName(Array("writer-\(name.prefix { $0 != "-" })".utf8))
        let directory = try #require(try system.lookup(writer, in: .root), "\(when): \(writer)")
        let found = try system.lookup(FileName(Array(name.utf8)), in: directory.inode)
        let file = try #require(found, "\(when): \(name)")
        #expect(file.size == size, "\(when): \(name)")
        let buffer = AlignedBuffer(byteCount: Int(size))
        _ = try buffer.withMutableBytes { try system.read(file.inode, at: 0, into: &$0) }
        let bytes = buffer.withBytes { $0.array(0..<Int(size)) }
        let piece = content(name), hole = [UInt8](repeating: 0, count: piece.count)
        for (index, start) in stride(from: 0, to: bytes.count, by: piece.count).enumerated() {
            let isRight = Array(bytes[start..<start + piece.count]) == (index % 2 == 0 ? piece : hole)
            #expect(isRight, "\(when): \(name), byte \(start)")
        }
    }

    /// A directory of some 400 blocks is removed through a log of 1 MiB: in more than one transaction, and after a
    /// power cut between two of them recovery finishes the work. Its blocks become data at once, and no replay writes
    /// over that: each was revoked.
    @Test func aLargeDirectoryIsRemovedThroughASmallLog() throws {
        let base = try TestVolume.small.make()
        let trace = Trace()
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(base)), recorder: trace)
        let system = try FileSystem.mount(on: device, options: .deterministic())
        let caller = Caller(uid: 0, gid: 0, umask: 0)
        let name = try FileName(Array("large".utf8))
        let directory = try system.makeDirectory(name, in: .root, mode: 0o755, caller: caller).inode
        let file = try system.createFile(FileName(Array("file".utf8)), in: .root, mode: 0o644, caller: caller).inode
        let names = try (0..<1_200).map { number throws(Ext4Error) in
            try FileName(Array("\(number)".utf8) + [UInt8](repeating: UInt8(ascii: "n"), count: 240))
        }
        for name in names { _ = try system.link(file, as: name, in: directory) }
        #expect(try system.attributes(of: directory).size > 390 * 1_024)
        for name in names { try system.unlink(name, in: directory) }
        try system.syncAll()
        device.mark("remove")
        let commits = try #require(system.journalCounters).commits
        try system.removeDirectory(name, in: .root)
        system.forget(directory, count: 1)
        try system.syncAll()
        #expect(try #require(system.journalCounters).commits > commits + 1, "one transaction could not hold it all")
        let data = try system.createFile(FileName(Array("data".utf8)), in: .root, mode: 0o644, caller: caller).inode
        let bytes = [UInt8](repeating: 0x44, count: 5 << 20)
        _ = try system.write(data, at: 0, bytes.span.bytes)
        try system.sync(data, dataOnly: false)
        device.mark("written")

        let events = trace.events
        func index(of label: String) throws -> Int {
            try #require(events.firstIndex { if case .mark(label) = $0 { true } else { false } })
        }
        let (removal, end) = (try index(of: "remove"), try index(of: "written"))
        let model = try CrashModel(base: MemoryDevice(base), events: events)
        let after = TraceSample(model).states(seed: 3, prefixes: 60, inFlight: 30, subsets: 60)
            .filter { $0.epoch.event > removal }
        var random = SeededRandom(seed: 3)
        let last = CrashState(EpochChoices(model, try #require(model.epochs.last)), .required)
        try model.forEach(random.sample(after, count: 24) + [last]) { state, disk in
            let system = try FileSystem.mount(on: disk, options: .deterministic())
            if state.epoch.event >= end {
                let buffer = AlignedBuffer(byteCount: bytes.count)
                _ = try buffer.withMutableBytes { try system.read(data, at: 0, into: &$0) }
                #expect(buffer.withBytes { $0.array(0..<bytes.count) } == bytes, "\(state)")
            }
            try system.unmount()
            let complaints = try Structure.complaints(of: disk)
            #expect(complaints == [], "\(state)")
        }
    }
}
