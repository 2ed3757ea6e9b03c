package import Ext4Format

/// A device some of whose blocks are to be read from elsewhere. Read-only, and what is replaced is fetched each time it
/// is asked for, so that a patch of a gigabyte costs no memory but its list of blocks.
package final class PatchedDevice: BlockDevice {
    /// Where replaced blocks come from. May be called from many threads.
    package typealias Source = @Sendable (_ index: Int, _ block: inout MutableRawSpan) throws(Ext4Error) -> Void

    private let base: any BlockDevice
    private let blockByteCount: Int
    private let blocks: [UInt64]
    private let source: Source

    package var byteCount: UInt64 { base.byteCount }
    package var sectorByteCount: Int { base.sectorByteCount }
    package var isReadOnly: Bool { true }

    /// `blocks`, in units of `blockByteCount`, are strictly ascending; `source` fills a block by its place among them.
    package init(
        over base: any BlockDevice, blockByteCount: Int, blocks: [UInt64], source: @escaping Source
    ) {
        precondition(blockByteCount % base.sectorByteCount == 0)
        precondition(zip(blocks, blocks.dropFirst()).allSatisfy { $0 < $1 })
        self.base = base
        self.blockByteCount = blockByteCount
        self.blocks = blocks
        self.source = source
    }

    package func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(Ext4Error) {
        try base.read(into: &bytes, at: offset)
        let size = UInt64(blockByteCount), end = offset + UInt64(bytes.byteCount)
        var index = blocks.partitioningIndex { $0 >= offset / size }
        guard index < blocks.count, blocks[index] * size < end else { return }
        let whole = AlignedBuffer(byteCount: blockByteCount)
        while index < blocks.count, blocks[index] * size < end {
            try whole.withMutableBytes { block throws(Ext4Error) in try source(index, &block) }
            let start = blocks[index] * size
            let part = max(start, offset)..<min(start + size, end)
            whole.withBytes { block in
                bytes.copy(
                    block.extracting(Int(part.lowerBound - start)..<Int(part.upperBound - start)),
                    at: Int(part.lowerBound - offset))
            }
            index += 1
        }
    }

    package func write(_ bytes: RawSpan, at offset: UInt64, mode: WriteMode) throws(Ext4Error) {
        throw .io(errno: Errno.readOnly, operation: "write", offset: offset, count: bytes.byteCount)
    }

    package func flush() throws(Ext4Error) {}
}
