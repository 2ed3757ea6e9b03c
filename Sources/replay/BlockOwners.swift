internal import BlockIO
internal import Ext4Format

/// What a block of the volume is by its place: the parts that mke2fs laid down. Everything else belongs to some file.
///
/// As the volume stands now, before any replay. What cannot be read names nothing.
struct BlockOwners {
    private let layout: VolumeLayout
    private let descriptors: [GroupDescriptor]
    /// By first block; a table is found by the greatest start below.
    private let tables: [(start: UInt64, group: UInt32)]
    private let bitmaps: [UInt64: String]

    init(_ image: OpenImage) {
        layout = VolumeLayout(image.volume.superBlock)
        descriptors = Self.read(layout, image.device)
        tables = descriptors.enumerated().map { ($1.inodeTable.rawValue, UInt32($0)) }.sorted { $0.0 < $1.0 }
        var bitmaps: [UInt64: String] = [:]
        for (group, descriptor) in descriptors.enumerated() {
            bitmaps[descriptor.blockBitmap.rawValue] = "block bitmap of group \(group)"
            bitmaps[descriptor.inodeBitmap.rawValue] = "inode bitmap of group \(group)"
        }
        self.bitmaps = bitmaps
    }

    private static func read(_ layout: VolumeLayout, _ device: any BlockDevice) -> [GroupDescriptor] {
        // With meta_bg the descriptors lie elsewhere.
        guard !layout.superBlock.features.incompatible.contains(.metaBlockGroups) else { return [] }
        let size = layout.blockByteCount
        let buffer = AlignedBuffer(byteCount: size)
        var all: [GroupDescriptor] = []
        var loaded: FSBlock?
        for group in 0..<layout.groupCount {
            let (block, range) = layout.descriptor(of: GroupNumber(group))
            if loaded != block {
                do throws(Ext4Error) {
                    try device.read(into: buffer, at: block.rawValue * UInt64(size))
                } catch {
                    return all
                }
                loaded = block
            }
            all.append(buffer.withBytes { GroupDescriptor(decoding: $0.extracting(range)) })
        }
        return all
    }

    /// Nil for a block that only the tree of files can name.
    func name(of block: FSBlock) -> String? {
        let number = block.rawValue
        let primary = UInt64(layout.superBlock.firstDataBlock)
        if number == primary { return "super block" }
        if number > primary && number <= primary + UInt64(layout.descriptorBlockCount) { return "group descriptors" }
        if let name = bitmaps[number] { return name }
        guard let table = table(at: number) else { return nil }
        let perBlock = layout.blockByteCount / max(layout.superBlock.inodeByteCount, 1)
        let first =
            UInt64(table.group) * UInt64(layout.superBlock.inodesPerGroup)
            + (number - table.start) * UInt64(perBlock) + 1
        return "inodes \(first)...\(first + UInt64(max(perBlock, 1)) - 1)"
    }

    private func table(at number: UInt64) -> (start: UInt64, group: UInt32)? {
        var low = 0, high = tables.count
        while low < high {
            let middle = (low + high) / 2
            if tables[middle].start <= number { low = middle + 1 } else { high = middle }
        }
        guard low > 0 else { return nil }
        let found = tables[low - 1]
        return number - found.start < UInt64(layout.inodeTableBlockCount) ? found : nil
    }
}
