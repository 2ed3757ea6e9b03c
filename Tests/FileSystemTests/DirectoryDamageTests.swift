import BlockIO
import Ext4Format
import FileSystem
import Foundation
import Testing

@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck"))
struct DirectoryDamageTests {
    /// A directory of two index levels, one of one block, and a linear one.
    private static func image(_ options: [String]) throws -> (volume: DirectoryVolume, blocks: [UInt64]) {
        let volume = try DirectoryVolume(["-b", "1024", "-N", "4096"] + options)
        try volume.mounted { fileSystem in
            let large = try fileSystem.directory("large"), small = try fileSystem.directory("small")
            for number in 0..<900 { try fileSystem.add(name(number), to: large) }
            for number in 0..<3 { try fileSystem.add(name(number), to: small) }
        }
        let blocks = try ["large", "small"].flatMap { name in
            try volume.debugfs("blocks /\(name)").split(separator: "\n").last!.split(separator: " ").compactMap {
                UInt64($0)
            }
        }
        try #require(blocks.count > 200)
        return (volume, blocks)
    }

    private static func name(_ number: Int) -> [UInt8] {
        Array("n\(number)".utf8) + [UInt8](repeating: 0x61, count: 190)
    }

    private static func change(
        _ device: OverlayDevice, _ block: UInt64, _ body: (inout MutableRawSpan) -> Void
    ) throws {
        let bytes = AlignedBuffer(byteCount: 1024)
        try bytes.withMutableBytes { span throws(Ext4Error) in
            try device.read(into: &span, at: block * 1024)
            body(&span)
        }
        try bytes.withBytes { span throws(Ext4Error) in try device.write(span, at: block * 1024, mode: .cached) }
    }

    /// Does everything that reads or changes names. Each call may fail; none may trap or go on for ever.
    private static func use(_ fileSystem: FileSystem) throws {
        for directory in ["large", "small"] {
            guard let home = try? fileSystem.directory(directory) else { continue }
            for number in stride(from: 0, to: 900, by: 37) { _ = try? fileSystem.has(name(number), in: home) }
            var (cookie, rounds) = (UInt64(0), 0)
            while rounds < 2000 {
                let before = cookie
                do {
                    try fileSystem.readDirectory(home, after: cookie, withAttributes: false) { record in
                        guard record.cookie > cookie else { return false }
                        cookie = record.cookie
                        return record.cookie % 8 != 0
                    }
                } catch { break }
                if cookie == before { break }
                rounds += 1
            }
            #expect(rounds < 2000)
            for number in 2000..<2010 { try? fileSystem.add(name(number), to: home) }
            for number in stride(from: 5, to: 900, by: 91) { try? fileSystem.unlink(FileName(name(number)), in: home) }
            try? fileSystem.removeDirectory(FileName(Array(directory.utf8)), in: .root)
        }
    }

    /// Without checksums nothing stands between a hostile index and the code that follows it.
    @Test func damagedBlocksNeitherTrapNorLoop() throws {
        let (volume, blocks) = try Self.image(["-O", "^metadata_csum"])
        var random = SeededGenerator(state: 20_240_607)
        for _ in 0..<120 {
            let file = try FileDevice(path: volume.path, readOnly: true, direct: .never)
            let device = OverlayDevice(over: file)
            for _ in 0..<Int.random(in: 1...12, using: &random) {
                // The root and its nodes are few, so they are chosen more often.
                let block = Bool.random(using: &random) ? blocks[0] : blocks.randomElement(using: &random)!
                let isHead = Int.random(in: 0..<4, using: &random) > 0
                let offset = Int.random(in: 0..<(isHead ? 80 : 1024), using: &random)
                let value = Bool.random(using: &random) ? 0xFF : UInt8.random(in: 0...4, using: &random)
                try Self.change(device, block) { $0[LE<UInt8>(offset)] = value }
            }
            guard let fileSystem = try? FileSystem.mount(on: device, options: MountOptions()) else { continue }
            try Self.use(fileSystem)
            try? fileSystem.unmount()
        }
    }

    /// With checksums any change of a directory block is found before its content is believed.
    @Test func checksumsGuardEveryKindOfBlock() throws {
        let (volume, blocks) = try Self.image([])
        let large = try volume.debugfs("htree_dump /large")
        try #require(large.contains("Indirect levels: 1"))
        // The root, and the first 40 leaves and nodes.
        for (index, block) in blocks.prefix(40).enumerated() {
            let device = OverlayDevice(over: try FileDevice(path: volume.path, readOnly: true, direct: .never))
            try Self.change(device, block) { $0[LE<UInt8>(40 + index)] ^= 0x10 }
            let fileSystem = try FileSystem.mount(on: device, options: MountOptions())
            let home = try fileSystem.directory("large")
            var failure: Ext4Error?
            do { try fileSystem.readDirectory(home, after: 0, withAttributes: false) { _ in true } } catch {
                failure = error
            }
            guard case .corrupt(let what, _) = failure else {
                Issue.record("block \(block): \(String(describing: failure))")
                continue
            }
            #expect(what == "directory block" || what == "directory index")
            try? fileSystem.unmount()
        }
    }
}

/// The same damage on every run.
private struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
