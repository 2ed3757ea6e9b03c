import CrashLab
import Ext4Format
import FileSystem
import Synchronization
import Testing
import Threads

/// Seeded calls of a program on one file give what they give on an array of bytes, whoever moves the data.
@Suite struct IomapRandomTests {
    struct Life: Sendable, CustomTestStringConvertible {
        var seed: UInt64
        var image = TestImage.small
        var outOfPlace = false
        var testDescription: String { "seed \(seed), \(image.testDescription), out of place: \(outOfPlace)" }
    }

    private static let lives: [Life] = (0..<24).map { (index: UInt64) -> Life in
        let image = index % 3 == 2 ? TestImage.large : TestImage.small
        return Life(seed: 9000 + index, image: image, outOfPlace: index % 2 == 1)
    }

    @Test(arguments: lives) func callsGiveWhatAnArrayGives(life: Life) throws {
        let mount = try TestMount(life.image, outOfPlace: life.outOfPlace)
        var program = Program(try mount.create(), seed: life.seed)
        do {
            for _ in 0..<150 { try program.step() }
            try program.compareAll()
        } catch { Issue.record("seed \(life.seed), after \(program.story.suffix(12)): \(error)") }
        try program.file.fsync()
        let content = try Self.content(mount.fileSystem, InodeNumber(UInt32(program.file.inode)))
        #expect(content == program.model, "seed \(life.seed)")
        try mount.finish()
    }

    /// Several at once, each on a connection and a thread of its own, beside the threads of the journal: none finds
    /// what is another's, and none waits for ever.
    @Test(arguments: [false, true]) func filesAreApart(outOfPlace: Bool) throws {
        let mount = try TestMount(.small, outOfPlace: outOfPlace, isManual: false)
        let seed: UInt64 = 9900
        let connections = try (0..<3).map { _ in
            let connection = try KernelConnection(mount.fileSystem)
            _ = try connection.configure()
            return connection
        }
        let stories = Mutex<[String]>([])
        let threads = connections.enumerated().map { index, connection in
            let own = Unshared(connection)
            let (device, unit) = (mount.device, mount.unit)
            return Threads.Thread(name: "program \(index)") {
                do {
                    let file = KernelFile(try own.value.create("file \(index)"), own.value, device, unit: unit)
                    var program = Program(file, seed: seed + UInt64(index))
                    for _ in 0..<120 { try program.step() }
                    try program.compareAll()
                    try file.fsync()
                } catch { stories.withLock { $0.append("seed \(seed), program \(index): \(error)") } }
            }
        }
        for thread in threads { thread.join() }
        for story in stories.withLock({ $0 }) { Issue.record("\(story)") }
        for connection in connections { connection.hangUp() }
        try mount.finish()
    }

    /// Used by one thread.
    private final class Unshared: @unchecked Sendable {
        let value: KernelConnection
        init(_ value: KernelConnection) { self.value = value }
    }

    /// As this server sees a file.
    static func content(_ fileSystem: FileSystem, _ inode: InodeNumber) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: Int(try fileSystem.attributes(of: inode).size))
        guard !bytes.isEmpty else { return [] }
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        #expect(try fileSystem.read(inode, at: 0, into: &raw) == bytes.count)
        return bytes
    }
}

/// What a program does with one file, and what it has to find.
struct Program {
    let file: KernelFile
    private(set) var model: [UInt8] = []
    private(set) var story: [String] = []
    private var random: SeededRandom
    private var stamp: Int
    private static let most = 400_000

    init(_ file: KernelFile, seed: UInt64) {
        self.file = file
        random = SeededRandom(seed: seed)
        stamp = Int(seed)
    }

    private mutating func next(_ bound: Int) -> Int { Int.random(in: 0..<max(bound, 1), using: &random) }

    /// A range that may begin behind the end.
    private mutating func range(aligned unit: Int = 1) -> Range<Int> {
        let start = next(min(model.count + 20_000, Self.most)) / unit * unit
        let count = 1 + next(next(3) == 0 ? 60_000 : 3_000)
        return start..<start + (count + unit - 1) / unit * unit
    }

    mutating func step() throws {
        file.folioBlockCount = UInt64(1 << next(5))
        file.tellsSectors = next(2) == 0
        switch next(20) {
        case 0..<6: try write()
        case 6..<9: try writeDirect()
        case 9..<11: try read()
        case 11: try truncate()
        case 12, 13: try allocate()
        case 14, 15: try writeBackInPieces()
        case 16: try rewriteInFlight()
        case 17:
            story.append("fsync")
            try file.fsync()
        case 18:
            story.append("drop the cache")
            try file.writeBack()
            file.drop(0..<file.size)
        default: try compareAll()
        }
    }

    private mutating func put(_ bytes: [UInt8], at start: Int) {
        let end = start + bytes.count
        if end > model.count { model += [UInt8](repeating: 0, count: end - model.count) }
        model.replaceSubrange(start..<end, with: bytes)
    }

    private mutating func write() throws {
        let range = range()
        story.append("write \(range)")
        stamp += 1
        let bytes = TestMount.pattern(stamp, range.count)
        try file.write(bytes, at: UInt64(range.lowerBound))
        put(bytes, at: range.lowerBound)
    }

    private mutating func writeDirect() throws {
        let range = range(aligned: next(2) == 0 ? 512 : Int(file.unit))
        story.append("direct write \(range)")
        stamp += 1
        let bytes = TestMount.pattern(stamp, range.count)
        try file.writeDirect(bytes, at: UInt64(range.lowerBound))
        put(bytes, at: range.lowerBound)
    }

    private mutating func read() throws {
        let range = range().clamped(to: 0..<model.count)
        let isDirect = next(2) == 0
        story.append("\(isDirect ? "direct " : "")read \(range)")
        let wide = UInt64(range.lowerBound)..<UInt64(range.upperBound)
        let found = isDirect ? try file.readDirect(wide) : try file.read(wide)
        #expect(found == Array(model[range]), "after \(story.suffix(8))")
    }

    private mutating func truncate() throws {
        let size = next(4) == 0 ? 0 : next(min(model.count + 10_000, Self.most))
        story.append("truncate to \(size)")
        try file.truncate(to: UInt64(size))
        model = model.count > size ? Array(model[..<size]) : model + Array(repeating: 0, count: size - model.count)
    }

    private mutating func allocate() throws {
        let range = range()
        let mode: UInt32 = [0, 1, 3, 16, 17][next(5)]
        story.append("fallocate \(range), mode \(mode)")
        try file.allocate(UInt64(range.lowerBound)..<UInt64(range.upperBound), mode: mode)
        if mode & 1 == 0, range.upperBound > model.count {
            model += Array(repeating: 0, count: range.upperBound - model.count)
        }
        guard mode & 0x12 != 0 else { return }
        let cleared = range.clamped(to: 0..<model.count)
        model.replaceSubrange(cleared, with: repeatElement(0, count: cleared.count))
    }

    /// Completions come in any order, and one may be told in parts.
    private mutating func writeBackInPieces() throws {
        story.append("writeback in pieces")
        var random = random
        let unit = file.unit
        try file.writeBack { submissions in
            submissions.flatMap { whole -> [Submission] in
                let blocks = whole.written / unit
                guard blocks > 1 else { return [whole] }
                var first = whole, second = whole
                let most = whole.written % unit == 0 ? blocks - 1 : blocks
                first.written = UInt64.random(in: 1...most, using: &random) * unit
                second.position += first.written
                second.address += first.written
                second.written -= first.written
                return [first, second]
            }.shuffled(using: &random)
        }
        self.random = random
    }

    /// What is on its way to the device is written anew meanwhile.
    private mutating func rewriteInFlight() throws {
        let submissions = try file.submit()
        guard let one = submissions.randomElement(using: &random) else { return }
        let start = Int(one.position) + next(Int(one.written)), count = 1 + next(5_000)
        story.append("write \(start)..<\(start + count) while it is written back")
        stamp += 1
        let bytes = TestMount.pattern(stamp, count)
        try file.write(bytes, at: UInt64(start))
        put(bytes, at: start)
        for submission in submissions.shuffled(using: &random) { try file.report(submission) }
    }

    mutating func compareAll() throws {
        story.append("compare")
        try #require(Int(file.size) == model.count)
        try #require(try file.read(0..<file.size) == model)
        try #require(try file.contentOnDevice() == model)
    }
}
