import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// The mapping core against arrays of bytes: random calls on a few files, with everything that is read compared, and
/// the structure judged by three that know nothing of each other. 12,000 calls a volume; two million in a soak.
@Suite struct MappingModelTests {
    private static let callCount = Need.isSoak ? 2_000_000 : 12_000
    private static let fileLimit = 192 << 10

    /// In place, out of place, and by batches: what was written is read, and what was not reads as zeros.
    @Test(arguments: [TestVolume.small, .large, .noChecksums, .indirect, .clusters, .largeClusters])
    func filesAreArraysOfBytes(volume: TestVolume) throws {
        let seed: UInt64 = 20_261_129
        var player = try Player(volume, seed: seed)
        for call in 0..<Self.callCount {
            try player.play()
            if call % (Self.callCount / 10) == 0 { try player.compareAll(remounting: true) }
            guard player.difference == nil else { break }
        }
        #expect(player.difference == nil, "\(volume.name), seed \(seed), call \(player.callCount)")
        try player.compareAll(remounting: true)
        #expect(player.difference == nil, "\(volume.name), seed \(seed), at the end")
        #expect(player.batchCount > 10 || volume.hasClusters)
        #expect(player.callCount >= Self.callCount)
        try player.end()
        #expect(try Structure.complaints(of: player.disk) == [])
        print("mapping model: \(volume.name), seed \(seed), \(player.callCount) calls, \(player.batchCount) batches")
    }

    /// The files, what they should hold, and a volume that has been mounted.
    private struct Player {
        private struct File {
            var number: InodeNumber
            var name: FileName
            var content: [UInt8] = []
            /// What the content was when the batch began.
            var before: [UInt8]?

            mutating func grow(to size: Int) {
                if size > content.count { content += [UInt8](repeating: 0, count: size - content.count) }
            }
        }

        let disk: OverlayDevice
        private var system: FileSystem
        private var files: [File] = []
        private var random: SeededRandom
        private(set) var callCount = 0, batchCount = 0
        private(set) var difference: String?
        /// What files shift by.
        private let unit: Int
        private let volume: TestVolume
        private static let owner = BatchOwner(process: 1, handle: 1)

        init(_ volume: TestVolume, seed: UInt64) throws {
            disk = OverlayDevice(over: MemoryDevice(try volume.make()))
            system = try FileSystem.mount(on: disk, options: .deterministic())
            random = SeededRandom(seed: seed)
            self.volume = volume
            unit = volume.clusterByteCount
            for name in ["in-place", "out-of-place", "batches"] {
                let fileName = try FileName([UInt8](name.utf8))
                let made = try system.createFile(fileName, in: .root, mode: 0o644, caller: .root)
                files.append(File(number: made.inode, name: fileName))
            }
            if volume.hasClusters { return }
            try system.setExtendedAttribute(
                FileSystem.outOfPlaceAttribute, of: files[1].number, to: [0x31], create: true, replace: false)
        }

        /// One call. What finds no room has done nothing.
        mutating func play() throws {
            callCount += 1
            let index = Int.random(in: 0..<files.count, using: &random)
            do {
                if index == 2, !volume.hasClusters, random.once(in: 12) { return try turnBatch() }
                switch Int.random(in: 0..<20, using: &random) {
                case 0..<9: try write(index)
                case 9..<14: try read(index)
                case 14: try seek(index)
                case 15: try truncate(index)
                case 16: try system.syncAll()
                case 17: try shift(index)
                default: try allocate(index)
                }
            } catch Ext4Error.posix(Errno.noSpace) {
            } catch Ext4Error.posix(Errno.fileTooBig) where files[index].before != nil {
            } catch Ext4Error.posix(Errno.busy) where files[index].before != nil {
            } catch Ext4Error.posix(Errno.notSupported) where volume.isIndirect {
            }
        }

        private mutating func range() -> Range<Int> {
            let start = Int.random(in: 0..<fileLimit, using: &random)
            let longest = random.once(in: 3) ? 40_000 : random.once(in: 2) ? 5_000 : 300
            return start..<min(start + Int.random(in: 1...longest, using: &random), fileLimit)
        }

        private mutating func write(_ index: Int) throws {
            let range = range()
            let bytes = Operation.pattern(stamp: UInt64(callCount), at: range.lowerBound, count: range.count)
            let done = try system.write(files[index].number, at: UInt64(range.lowerBound), bytes.span.bytes)
            let end = range.lowerBound + done
            files[index].grow(to: end)
            files[index].content.replaceSubrange(range.lowerBound..<end, with: bytes.prefix(done))
        }

        private mutating func read(_ index: Int) throws { try compare(index, range()) }

        /// Everything before the next data reads as zeros.
        private mutating func seek(_ index: Int) throws {
            let start = Int.random(in: 0..<fileLimit, using: &random), content = files[index].content
            guard start < content.count else { return }
            let next = try nextData(in: files[index].number, from: start) ?? content.count
            if content[start..<max(start, min(next, content.count))].contains(where: { $0 != 0 }) {
                difference = "\(files[index].name): data between \(start) and \(next) is said to be a hole"
            }
        }

        private func nextData(in file: InodeNumber, from start: Int) throws -> Int? {
            do {
                return Int(try system.seek(file, from: UInt64(start), for: true))
            } catch {
                guard error == .posix(Errno.noSuchDeviceOrAddress) else { throw error }
                return nil
            }
        }

        private mutating func truncate(_ index: Int) throws {
            let size = Int.random(in: 0...fileLimit, using: &random)
            var changes = AttributeChanges()
            changes.size = UInt64(size)
            _ = try system.setAttributes(of: files[index].number, changes)
            files[index].grow(to: size)
            files[index].content.removeLast(files[index].content.count - size)
        }

        private mutating func allocate(_ index: Int) throws {
            let range = range()
            let modes: [AllocationMode] = [
                [], .keepSize, [.punchHole, .keepSize], [.punchHole, .keepSize], .zeroRange, [.zeroRange, .keepSize],
            ]
            let mode = modes[Int.random(in: 0..<modes.count, using: &random)]
            try system.allocate(
                files[index].number, at: UInt64(range.lowerBound), count: UInt64(range.count), mode: mode)
            if !mode.contains(.keepSize) { files[index].grow(to: range.upperBound) }
            guard mode.contains(.punchHole) || mode.contains(.zeroRange) else { return }
            let zeros = range.clamped(to: 0..<files[index].content.count)
            files[index].content.replaceSubrange(zeros, with: repeatElement(0, count: zeros.count))
        }

        /// Blocks come into the middle of a file or go from there.
        private mutating func shift(_ index: Int) throws {
            let range = range(), size = files[index].content.count
            let first = range.lowerBound / unit * unit, count = max(1, range.count / unit) * unit
            if random.once(in: 2) {
                guard first + count < size else { return }
                try allocate(index, first, count, .collapseRange)
                files[index].content.removeSubrange(first..<first + count)
            } else {
                guard first < size, size + count <= fileLimit else { return }
                try allocate(index, first, count, .insertRange)
                files[index].content.insert(contentsOf: repeatElement(0, count: count), at: first)
            }
        }

        private func allocate(_ index: Int, _ offset: Int, _ count: Int, _ mode: AllocationMode) throws {
            try system.allocate(files[index].number, at: UInt64(offset), count: UInt64(count), mode: mode)
        }

        private mutating func turnBatch() throws {
            if let before = files[2].before {
                if random.once(in: 2) {
                    try system.commitBatch(files[2].number, by: .root)
                } else {
                    _ = try system.abortBatch(files[2].number)
                    files[2].content = before
                }
                files[2].before = nil
            } else {
                try system.startBatch(files[2].number, owner: Self.owner, by: .root)
                files[2].before = files[2].content
                batchCount += 1
            }
        }

        private mutating func compare(_ index: Int, _ range: Range<Int>) throws {
            let file = files[index]
            let found = try Self.bytes(of: file.number, range, in: system)
            let wanted = Array(file.content[range.clamped(to: 0..<file.content.count)])
            guard found != wanted else { return }
            let at = zip(found, wanted).enumerated().first { $0.element.0 != $0.element.1 }?.offset
            difference = "\(file.name) in \(range): \(found.count) of \(wanted.count) bytes, first wrong at \(at ?? -1)"
        }

        private static func bytes(
            of file: InodeNumber, _ range: Range<Int>, in system: FileSystem
        ) throws -> [UInt8] {
            var bytes = [UInt8](repeating: 0xEE, count: max(range.count, 1))
            let done = try bytes.withUnsafeMutableBytes { memory in
                var span = unsafe MutableRawSpan(_unsafeBytes: memory)
                return try system.read(file, at: UInt64(range.lowerBound), into: &span)
            }
            return Array(bytes.prefix(done))
        }

        mutating func compareAll(remounting: Bool) throws {
            if remounting {
                // What is open then is dropped.
                if let before = files[2].before { (files[2].content, files[2].before) = (before, nil) }
                try system.unmount()
                system = try FileSystem.mount(on: disk, options: .deterministic())
                for file in files where try system.lookup(file.name, in: .root)?.inode != file.number {
                    difference = "\(file.name) has another number"
                }
            }
            for index in files.indices {
                let size = Int(try system.attributes(of: files[index].number).size)
                if size != files[index].content.count { difference = "\(files[index].name) has \(size) bytes" }
                try compare(index, 0..<fileLimit + 1)
            }
        }

        func end() throws { try system.unmount() }
    }
}
