import BlockIO
import CrashLab
import Ext4Format
import Foundation
import Testing

/// A device of which nothing may stay in the page cache, on a file: /var/tmp, as memory has no direct I/O everywhere.
@Suite struct DirectDeviceTests {
    private static let path = "/var/tmp/jext4-direct-\(getpid())"
    private static let canLook =
        ProcessInfo.processInfo.environment["CI"] == "true"
        || FileManager.default.isExecutableFile(atPath: "/usr/bin/fincore")

    /// What a buffer of any alignment carries arrives, and no page is left that could hide what others write.
    @Test(.enabled(if: canLook, "needs fincore")) func nothingStaysInThePageCache() throws {
        let size = 1 << 20
        try Data(count: size).write(to: URL(fileURLWithPath: Self.path))
        defer { unlink(Self.path) }
        let file = open(Self.path, O_RDWR)
        defer { close(file) }
        try #require(fsync(file) == 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0)
        let device = try FileDevice(path: Self.path, readOnly: false, direct: .always)
        let seed: UInt64 = 31
        var random = SeededRandom(seed: seed), expected = [UInt8](repeating: 0, count: size)
        for round in 0..<60 {
            let first = Int.random(in: 0..<size / 512, using: &random)
            let count = 512 * Int.random(in: 1...min(300, size / 512 - first), using: &random)
            let skip = Int.random(in: 0..<16, using: &random)
            let bytes = (0..<skip + count).map { _ in UInt8.random(in: 0...255, using: &random) }
            let part = bytes.span.bytes.extracting(skip..<skip + count)
            try device.write(part, at: UInt64(first * 512), mode: round % 5 == 0 ? .throughToMedia : .cached)
            expected.replaceSubrange(first * 512..<first * 512 + count, with: bytes[skip...])
            let gathered = AlignedBuffer(byteCount: 8192)
            let parts = [BufferPart(gathered, 4096..<8192), BufferPart(gathered, 0..<1024)]
            gathered.withMutableBytes { $0.fill(0..<8192, with: UInt8(round)) }
            try device.write(gathering: parts, at: 0, mode: .cached)
            expected.replaceSubrange(0..<5120, with: repeatElement(UInt8(round), count: 5120))
        }
        try device.flush()
        #expect(try contents(device) == expected, "seed \(seed)")
        var small = [UInt8](repeating: 0, count: 513)
        var span = small.mutableSpan
        var bytes = span.mutableBytes
        var odd = bytes._mutatingExtracting(1..<513)
        try device.read(into: &odd, at: 7 * 512)
        #expect(Array(small[1...]) == Array(expected[7 * 512..<8 * 512]))
        #expect(try Self.cachedPageCount() == 0)
    }

    /// A large read gives what was written last, whether the page cache has all of it, a part, or nothing.
    @Test func largeReadsSeeWhatTheCacheHolds() throws {
        let path = Self.path + "-cached", size = 1 << 20
        try Data(repeating: 1, count: size).write(to: URL(fileURLWithPath: path))
        defer { unlink(path) }
        let device = try FileDevice(path: path, readOnly: false)
        let file = open(path, O_RDWR)
        defer { close(file) }
        var expected = [UInt8](repeating: 1, count: size)
        #expect(try contents(device) == expected)
        try #require(fsync(file) == 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0)
        #expect(try contents(device) == expected)
        try put([UInt8](repeating: 2, count: 8192), on: device, at: 300 << 10)
        expected.replaceSubrange(300 << 10..<308 << 10, with: repeatElement(2, count: 8192))
        #expect(try contents(device) == expected)
    }

    private static func cachedPageCount() throws -> Int {
        let process = Process(), output = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["fincore", "--noheadings", "--output", "PAGES", path]
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return try #require(Int(text.trimmingCharacters(in: .whitespacesAndNewlines)), "fincore says \(text)")
    }
}
