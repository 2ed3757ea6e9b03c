import CrashLab
import Ext4Format
import FileSystem
import Testing

/// What each command promises, one by one.
@Suite struct IomapScenarioTests {
    /// The data of a file go to the device without this server, and a read finds them.
    @Test(arguments: [TestImage.small, .large]) func bufferedAndDirectWritesAreRead(image: TestImage) throws {
        let mount = try TestMount(image)
        let file = try mount.create()
        let bytes = TestMount.pattern(1, 50_000)
        try file.write(bytes, at: 0)
        #expect(try file.read(0..<file.size) == bytes)
        try file.fsync()
        let more = TestMount.pattern(2, 64 << 10)
        try file.writeDirect(more, at: 128 << 10)
        file.drop(0..<file.size)
        let expected = bytes + [UInt8](repeating: 0, count: 128 << 10 - bytes.count) + more
        #expect(try file.read(0..<file.size) == expected)
        #expect(try file.contentOnDevice() == expected)
        try mount.finish()
    }
}
