internal import BlockIO
package import Ext4Format
internal import FileSystem

/// No file shows what it never held: neither the pattern that free space had before the workload, nor, when it grows,
/// what a lost operation left behind its end.
package struct StaleDataOracle: Oracle {
    /// What fills the free space of the disk before the workload.
    package static let poison: UInt8 = 0xDB
    /// So many in a row are the pattern: no workload writes them.
    private static let runByteCount = 16
    /// How much a file grows, and the largest one that does; bytes.
    private static let growth = 6000, largest: UInt64 = 4 << 20

    package init() {}

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        var result: [String] = []
        for (inode, node) in state.tree.nodes.sorted(by: { $0.key < $1.key }) {
            let values = [node.content] + node.attributes.values
            if values.contains(where: Self.showsPoison) {
                result.append("stale data: inode \(inode.rawValue) shows free space")
            }
        }
        return try result + grown(state)
    }

    private static func showsPoison(_ bytes: [UInt8]) -> Bool {
        var run = 0
        return bytes.contains { byte in
            run = byte == poison ? run + 1 : 0
            return run == runByteCount
        }
    }

    private func grown(_ state: RecoveredState) throws(Ext4Error) -> [String] {
        let system = try FileSystem.mount(on: state.recovered.fork(), options: state.options)
        var result: [String] = []
        for (inode, node) in state.tree.nodes.sorted(by: { $0.key < $1.key })
        where node.mode >> 12 == 8 && node.size <= Self.largest {
            var changes = AttributeChanges()
            changes.size = node.size + UInt64(Self.growth)
            do throws(Ext4Error) {
                _ = try system.setAttributes(of: inode, changes)
            } catch .posix(28) {
                // The tail of its last block may have to be written anew, and the volume may be full.
                continue
            }
            let buffer = AlignedBuffer(byteCount: Int(node.size) + Self.growth)
            _ = try buffer.withMutableBytes { bytes throws(Ext4Error) in
                try system.read(inode, at: 0, into: &bytes)
            }
            let tail = buffer.withBytes { $0.array(Int(node.size)..<buffer.byteCount) }
            if tail.contains(where: { $0 != 0 }) {
                result.append("stale data: inode \(inode.rawValue) of \(node.size) bytes shows it when it grows")
            }
        }
        try system.unmount()
        return result
    }
}
