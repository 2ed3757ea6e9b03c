internal import BlockIO
package import Ext4Format
package import FileSystem

extension CapturedTree {
    /// More bytes than any workload writes: a size beyond is not read.
    private static let largestContent: UInt64 = 64 << 20
    /// More nodes than any workload makes.
    private static let mostNodes = 100_000

    /// Reads everything that can be reached from the root: names, attributes, extended attributes and data.
    package init(reading system: FileSystem) throws(Ext4Error) {
        self.init()
        var queue: [InodeNumber] = [.root]
        while let number = queue.popLast() {
            guard nodes[number] == nil else { continue }
            guard nodes.count < Self.mostNodes else { throw .corrupt("directory tree", where: "it has no end") }
            let node = try Self.read(number, system)
            nodes[number] = node
            // A name keeps its inode alive in the volume; the reference that lookup took is given back at once.
            // In a fixed order: reading changes access times, and so the order of blocks in the log.
            for (name, expected) in node.entries.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
                guard let found = try system.lookup(try FileName(name), in: number) else {
                    throw .corrupt("directory", where: "inode \(number.rawValue): lookup misses a listed name")
                }
                system.forget(found.inode, count: 1)
                guard found.inode == expected else {
                    throw .corrupt("directory", where: "inode \(number.rawValue): lookup and listing differ")
                }
                queue.append(expected)
            }
        }
    }

    private static func read(_ number: InodeNumber, _ system: FileSystem) throws(Ext4Error) -> CapturedNode {
        let attributes = try system.attributes(of: number)
        var node = CapturedNode(mode: attributes.mode, linkCount: attributes.linkCount, size: attributes.size)
        node.deviceMajor = attributes.deviceMajor
        node.deviceMinor = attributes.deviceMinor
        node.sectorCount = attributes.sectorCount
        switch ModelNode.Kind(rawValue: attributes.mode >> 12) {
        case .file: node.content = try readFile(number, attributes.size, system)
        case .symlink: node.content = try system.readLink(number)
        case .directory: node.entries = try readNames(number, system)
        default: break
        }
        for name in try system.extendedAttributes(of: number) {
            node.attributes[name] = try system.extendedAttribute(name, of: number)
        }
        return node
    }

    private static func readFile(
        _ number: InodeNumber, _ size: UInt64, _ system: FileSystem
    ) throws(Ext4Error) -> [UInt8] {
        guard size > 0, size <= largestContent else { return [] }
        let buffer = AlignedBuffer(byteCount: Int(size))
        let count = try buffer.withMutableBytes { bytes throws(Ext4Error) in
            try system.read(number, at: 0, into: &bytes)
        }
        return buffer.withBytes { $0.array(0..<count) }
    }

    private static func readNames(
        _ number: InodeNumber, _ system: FileSystem
    ) throws(Ext4Error) -> [[UInt8]: InodeNumber] {
        var names: [[UInt8]: InodeNumber] = [:]
        var cookie: UInt64 = 0
        var isTwice = false
        // In parts, as the kernel asks: each resumes where the last one stopped.
        while true {
            var count = 0
            try system.readDirectory(number, after: cookie, withAttributes: false) { record in
                cookie = record.cookie
                count += 1
                if record.name != [0x2E] && record.name != [0x2E, 0x2E] {
                    isTwice = names.updateValue(record.inode, forKey: record.name) != nil || isTwice
                }
                return count < 20
            }
            if count < 20 { break }
            guard names.count < mostNodes, !isTwice else { break }
        }
        if isTwice { throw .corrupt("directory", where: "inode \(number.rawValue) lists a name twice") }
        return names
    }
}
