import BlockIO
import FileSystem
import Foundation
import Testing

/// Logs of volumes whose needs_recovery was cleared by other hands: what was written since, without the journal, is
/// newer.
@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct StaleLogTests {
    private func staleImage() throws -> (image: ImageFile, homes: [UInt64]) {
        let (image, homes, _) = try dirtyImage()
        _ = try image.debugfs(["feature -needs_recovery"])
        return (image, homes)
    }

    @Test func theCommandWantsItsOwnersWord() throws {
        let (image, homes) = try staleImage()
        let before = try image.bytes()
        let refused = try replay("apply", image.path)
        #expect(refused.status == 8 && refused.output.contains("--stale-log"), "\(refused.output)")
        #expect(try replay("show", image.path).status == 0)
        #expect(try replay("plan", image.path).status == 0)
        #expect(try image.bytes() == before)
        #expect(try replay("apply", "--stale-log", image.path).status == 1)
        let after = try image.bytes()
        #expect(homes[0..<3].allSatisfy { after[Int($0) * 1024] == 0xC3 })
    }

    /// A mount for reading looks past it, one for writing drops it: both as Linux does.
    @Test func noMountReplaysIt() throws {
        let (image, homes) = try staleImage()
        let before = try image.bytes()
        for readOnly in [true, false] {
            var options = MountOptions()
            options.readOnly = readOnly
            let device = try FileDevice(path: image.path, readOnly: readOnly, direct: .never)
            try FileSystem.mount(on: device, options: options).unmount()
            let after = try image.bytes()
            #expect(homes.allSatisfy { after[Int($0) * 1024] == 0x5A })
            if readOnly { #expect(after == before) }
        }
        #expect(try replay("apply", image.path).status == 0)
        let check = try image.fsck(["-fn"])
        #expect(check.status == 0 && !check.output.contains("journal"), "\(check.output)")
    }
}
