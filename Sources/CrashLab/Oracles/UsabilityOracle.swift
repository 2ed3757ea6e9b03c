internal import BlockIO
internal import Checker
package import Ext4Format
internal import FileSystem

/// The volume can be used: in every directory a file can be made, written and synced, and the image is sound after it.
package struct UsabilityOracle: Oracle {
    private static let name = Array("made after the recovery".utf8)

    package init() {}

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        let disk = state.recovered.fork()
        let system = try FileSystem.mount(on: disk, options: state.options)
        let directories = state.tree.nodes.filter { $0.value.mode >> 12 == 4 }.keys.sorted()
        for directory in directories {
            do throws(Ext4Error) {
                try Self.use(directory, system)
            } catch .posix(28) {
                // Full is full: what could not be made is not there, and the image must still be sound.
                continue
            }
        }
        try system.unmount()
        return VolumeChecker(disk).check().map { "after use: \($0)" }
    }

    private static func use(_ directory: InodeNumber, _ system: FileSystem) throws(Ext4Error) {
        let name = try FileName(name)
        let file = try system.createFile(
            name, in: directory, mode: 0o100600, caller: Caller(uid: 0, gid: 0, umask: 0))
        defer { system.forget(file.inode, count: 1) }
        let bytes = [UInt8](repeating: 0x55, count: 5000)
        _ = try system.write(file.inode, at: 0, unsafe bytes.span.bytes)
        try system.sync(file.inode, dataOnly: false)
        // Half of them stay.
        if directory.rawValue % 2 == 0 { try system.unlink(name, in: directory) }
    }
}
