internal import BlockIO
internal import Ext4Format

/// The contents that the open units of an epoch may have, by the index of the unit among them. Each is made when it is
/// first asked for, and kept: all runs through an epoch look at the same ones.
struct OpenUnits {
    private let choices: EpochChoices
    private let unitByteCount: Int
    private var known: [Contents?]

    private struct Contents {
        /// The versions, one behind the other.
        let bytes: [UInt8]
        /// For each version the first that is the same.
        let firsts: [Int32]
        let hashes: [ImageHash]
        /// Of all of them together.
        let hash: ImageHash
    }

    init(_ choices: EpochChoices) {
        self.choices = choices
        unitByteCount = choices.model.disk.unitByteCount
        known = [Contents?](repeating: nil, count: choices.units.count)
    }

    private mutating func contents(_ index: Int) throws(Ext4Error) -> Contents {
        if let contents = known[index] { return contents }
        let unit = choices.units[index], count = choices.versionCount(of: unit)
        let buffer = AlignedBuffer(byteCount: count * unitByteCount)
        var firsts: [Int32] = [], hashes: [ImageHash] = []
        for version in 0..<count {
            let at = version * unitByteCount
            try buffer.withMutableBytes { bytes throws(Ext4Error) in
                try choices.copy(unit, version: version, into: &bytes, at: at)
            }
            let hash = buffer.withBytes { ImageHash($0.extracting(at..<at + unitByteCount), at: unit) }
            firsts.append(Int32(hashes.firstIndex(of: hash) ?? version))
            hashes.append(hash)
        }
        let words = Set(hashes.map(\.low)).sorted()
        let contents = Contents(
            bytes: buffer.withBytes { $0.array(0..<$0.byteCount) }, firsts: firsts, hashes: hashes,
            hash: ImageHash(unsafe words.span.bytes, at: ~unit))
        known[index] = contents
        return contents
    }

    /// The versions that differ, each by the first of those that are the same, and how many these are.
    mutating func distinct(_ index: Int) throws(Ext4Error) -> (versions: [Int32], counts: [Double]) {
        var versions: [Int32] = [], counts: [Double] = []
        for (version, first) in zip(Int32(0)..., try contents(index).firsts) {
            if first == version {
                versions.append(version)
                counts.append(1)
            } else if let place = versions.firstIndex(of: first) {
                counts[place] += 1
            }
        }
        return (versions, counts)
    }

    /// Stands for all contents that the unit may have.
    mutating func hash(_ index: Int) throws(Ext4Error) -> ImageHash {
        try contents(index).hash
    }

    /// Stands for one content of the unit.
    mutating func hash(_ index: Int, version: Int) throws(Ext4Error) -> ImageHash {
        try contents(index).hashes[version]
    }

    /// One content, a whole unit also where the last one of the disk is short.
    mutating func bytes(_ index: Int, version: Int) throws(Ext4Error) -> ArraySlice<UInt8> {
        let bytes = try contents(index).bytes, start = version * unitByteCount
        return bytes[start..<start + unitByteCount]
    }
}
