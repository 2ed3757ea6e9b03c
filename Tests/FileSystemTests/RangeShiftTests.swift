import Ext4Format
import FileSystem
import Testing

/// Blocks that come into the middle of a file or go from there; e2fsck looks at the volume afterwards.
@Suite(.enabled(if: DirectoryVolume.hasTools, "needs mke2fs, debugfs and e2fsck")) struct RangeShiftTests {
    private static let unit = 1024

    private func makeFile(_ fileSystem: FileSystem) throws -> InodeNumber {
        try fileSystem.createFile(
            FileName([0x66]), in: .root, mode: 0o644, caller: DirectoryVolume.caller
        ).inode
    }

    private func block(_ number: Int) -> [UInt8] {
        withUnsafeBytes(of: UInt64(number + 1).littleEndian) { word in
            Array(repeatElement(Array(word), count: Self.unit / 8).joined())
        }
    }

    private func write(_ fileSystem: FileSystem, _ file: InodeNumber, _ number: Int) throws {
        let bytes = block(number)
        #expect(try fileSystem.write(file, at: UInt64(number * Self.unit), bytes.span.bytes) == bytes.count)
    }

    private func read(_ fileSystem: FileSystem, _ file: InodeNumber, _ number: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: Self.unit)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        #expect(try fileSystem.read(file, at: UInt64(number * Self.unit), into: &raw) == Self.unit)
        return bytes
    }

    private func shift(
        _ fileSystem: FileSystem, _ file: InodeNumber, at block: Int, _ count: Int, _ mode: AllocationMode
    ) throws {
        try fileSystem.allocate(
            file, at: UInt64(block * Self.unit), count: UInt64(count * Self.unit), mode: mode)
    }

    /// A tree with many leaves: every one of them behind the place changes, in one transaction.
    @Test func aFileOfTenThousandExtentsIsCollapsedAndHasRoomMade() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        let extents = 10_000, gap = [UInt8](repeating: 0, count: Self.unit)
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            for number in 0..<extents { try write(fileSystem, file, 2 * number) }
            // One gap and one block go; three blocks of a hole come, and an extent of one block is before them.
            try shift(fileSystem, file, at: 4_001, 2, .collapseRange)
            try shift(fileSystem, file, at: 15_001, 3, .insertRange)
            for number in [0, 3_998, 4_000] { #expect(try read(fileSystem, file, number) == block(number)) }
            for number in [4_001, 15_003, 15_004] { #expect(try read(fileSystem, file, number) == gap) }
            for number in stride(from: 4_002, through: 15_000, by: 422) {
                #expect(try read(fileSystem, file, number) == block(number + 2))
            }
            for number in stride(from: 15_005, to: 2 * extents, by: 401) {
                #expect(try read(fileSystem, file, number) == (number % 2 == 0 ? gap : block(number - 1)))
            }
            let attributes = try fileSystem.attributes(of: file)
            #expect(attributes.size == UInt64((2 * extents - 1 + 1) * Self.unit))
        }
    }

    /// What one transaction cannot hold is refused, and nothing has happened.
    @Test func whatATransactionCannotHoldIsRefusedWhole() throws {
        let volume = try DirectoryVolume(["-b", "1024", "-J", "size=1"])
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            for number in 0..<10_000 { try write(fileSystem, file, 2 * number) }
            #expect(throws: Ext4Error.posix(Errno.noSpace)) { try shift(fileSystem, file, at: 1, 1, .collapseRange) }
            #expect(throws: Ext4Error.posix(Errno.noSpace)) { try shift(fileSystem, file, at: 1, 1, .insertRange) }
            #expect(try read(fileSystem, file, 19_998) == block(19_998))
            // Near the end few nodes change.
            try shift(fileSystem, file, at: 19_991, 1, .collapseRange)
            #expect(try read(fileSystem, file, 19_997) == block(19_998))
        }
    }

    @Test func whatIsNotAskedRightIsRefused() throws {
        let volume = try DirectoryVolume(["-b", "1024"])
        try volume.mounted { fileSystem in
            let file = try makeFile(fileSystem)
            for number in 0..<8 { try write(fileSystem, file, number) }
            func refusal(_ offset: UInt64, _ count: UInt64, _ mode: AllocationMode) -> Ext4Error? {
                do throws(Ext4Error) {
                    try fileSystem.allocate(file, at: offset, count: count, mode: mode)
                    return nil
                } catch { return error }
            }
            let invalid = Ext4Error.posix(Errno.invalid)
            #expect(refusal(100, 1024, .collapseRange) == invalid)
            #expect(refusal(1024, 100, .insertRange) == invalid)
            #expect(refusal(4096, 4096, .collapseRange) == invalid, "up to the end: that is a truncate")
            #expect(refusal(8192, 1024, .insertRange) == invalid, "at the end: that is a truncate too")
            #expect(refusal(1024, 1 << 45, .insertRange) == .posix(Errno.fileTooBig))
            #expect(refusal(1024, 1024, [.collapseRange, .keepSize]) == .posix(Errno.notSupported))
            // Blocks behind the end move as well, as far as there is a number for them.
            try fileSystem.allocate(file, at: UInt64(UInt32.max - 9) * 1024, count: 1024, mode: .keepSize)
            #expect(refusal(1024, 20 * 1024, .insertRange) == .posix(Errno.fileTooBig))
            #expect(try read(fileSystem, file, 7) == block(7))
        }
    }
}
