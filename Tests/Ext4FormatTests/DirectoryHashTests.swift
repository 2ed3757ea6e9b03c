import Ext4Format
import Foundation
import Testing

/// What debugfs prints for `dx_hash` with these options: one value per name.
private func oracle(_ names: [[UInt8]], algorithm: Int, seed: String?) throws -> [DirectoryHash.Value] {
    let script = FileManager.default.temporaryDirectory.appendingPathComponent("jext4-\(UUID().uuidString).dbg")
    defer { try? FileManager.default.removeItem(at: script) }
    var commands = Data()
    for name in names {
        commands +=
            Data("dx_hash -h \(algorithm) \(seed.map { "-s \($0) " } ?? "")".utf8) + Data(name) + Data("\n".utf8)
    }
    try commands.write(to: script)
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/sbin/debugfs")
    process.arguments = ["-f", script.path]
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return text.split(separator: "\n").compactMap { line in
        guard let from = line.range(of: " is 0x"), let middle = line.range(of: " (minor 0x") else { return nil }
        guard let major = UInt32(line[from.upperBound..<middle.lowerBound], radix: 16),
            let minor = UInt32(line[middle.upperBound...].dropLast(), radix: 16)
        else { return nil }
        return DirectoryHash.Value(major: major, minor: minor)
    }
}

/// Names of every length with bytes from both halves, but for those that the command line of debugfs would eat.
private func names() -> [[UInt8]] {
    var random = SystemRandomNumberGenerator()
    let plain = [UInt8](0x21...0x7E).filter { !"\"\\-#/".utf8.contains($0) }
    let high = [UInt8](0x80...0xFF)
    return (1...255).map { length in
        (0..<length).map { _ in (Bool.random() ? plain : high).randomElement(using: &random)! }
    }
}

@Suite struct DirectoryHashTests {
    static let hasDebugfs = FileManager.default.isExecutableFile(atPath: "/usr/sbin/debugfs")

    /// A name that hashes differently from the kernel's is invisible in every indexed directory.
    @Test(
        .enabled(if: hasDebugfs || ProcessInfo.processInfo.environment["CI"] == "true", "needs debugfs"),
        arguments: 0...5)
    func hashesAreThoseOfDebugfs(algorithm: Int) throws {
        let version = try #require(DirectoryHash.Version(rawValue: UInt8(algorithm % 3)))
        let seeds: [(text: String?, words: [UInt32])] = [
            (nil, [0, 0, 0, 0]),
            ("01234567-89ab-cdef-0123-456789abcdef", [0x6745_2301, 0xEFCD_AB89, 0x6745_2301, 0xEFCD_AB89]),
        ]
        for seed in seeds {
            let hash = DirectoryHash(version: version, isUnsigned: algorithm >= 3, seed: seed.words)
            let names = names()
            let expected = try oracle(names, algorithm: algorithm, seed: seed.text)
            try #require(expected.count == names.count)
            for (name, value) in zip(names, expected) { #expect(hash.value(of: name.span.bytes) == value, "\(name)") }
        }
    }
}
