package import BlockIO
package import Ext4Format

/// Makes an undo file that `e2undo` takes back. Unlike one that grows while a volume is changed, it is whole and on the
/// medium before the first change: so it also takes back a change that a power cut has left half done.
package struct UndoWriter {
    private let device: any BlockDevice
    private let blockByteCount: Int
    private let pieces: [Piece]

    /// Neighbouring blocks under one key.
    private struct Piece {
        let block: UInt64
        let count: Int
    }
    /// The most data under one key.
    private static let pieceByteCount = 1 << 20

    /// `blocks` of `device`, of `blockByteCount` bytes, are all that will change. In any order, repeated or not.
    package init(of blocks: [FSBlock], on device: any BlockDevice, blockByteCount: Int) {
        self.device = device
        self.blockByteCount = blockByteCount
        let most = min(UndoKey.blockLimit, Self.pieceByteCount / blockByteCount)
        var pieces: [Piece] = []
        for block in blocks.sorted() {
            if let last = pieces.last {
                let end = last.block + UInt64(last.count)
                if block.rawValue < end { continue }
                if block.rawValue == end, last.count < most {
                    pieces[pieces.count - 1] = Piece(block: last.block, count: last.count + 1)
                    continue
                }
            }
            pieces.append(Piece(block: block.rawValue, count: 1))
        }
        self.pieces = pieces
    }

    /// How many blocks are saved.
    package var blockCount: Int { pieces.reduce(0) { $0 + $1.count } }

    /// Saves the blocks as they stand; durable when it returns. `superBlock` is the 1,024 bytes that the change leaves.
    /// `offset` is the byte of the image where the volume starts. Takes the file away again when that fails.
    package func save(to path: String, superBlock: AlignedBuffer, offset: UInt64) throws(Ext4Error) {
        let capacity = UndoKeyBlock.capacity(blockByteCount)
        let keyBlockCount = (pieces.count + capacity - 1) / capacity
        try NewFile.make(path, byteCount: UInt64((2 + keyBlockCount + blockCount) * blockByteCount))
        do throws(Ext4Error) {
            let file = try FileDevice(path: path, readOnly: false, direct: .never)
            try write(superBlock, to: file)
            var position: UInt64 = 2, rest = pieces[...]
            while !rest.isEmpty {
                position += try save(rest.prefix(capacity), at: position, to: file)
                rest = rest.dropFirst(capacity)
            }
            try file.flush()
            // The header last: a file that a power cut left half written is no undo file, and nothing has changed.
            try writeHeader(superBlock, offset, to: file)
            try file.flush()
            try NewFile.syncName(path)
        } catch {
            NewFile.remove(path)
            throw error
        }
    }

    private func writeHeader(_ superBlock: AlignedBuffer, _ offset: UInt64, to file: FileDevice) throws(Ext4Error) {
        let header = UndoHeader(
            keyCount: UInt64(pieces.count), superBlockPosition: 1, keyPosition: 2, blockByteCount: blockByteCount,
            volumeBlockByteCount: blockByteCount,
            superBlockChecksum: superBlock.withBytes { CRC32C.of($0.extracting(0..<SuperBlock.byteCount)) },
            isFinished: true, offset: offset)
        let block = AlignedBuffer(byteCount: blockByteCount)
        block.withMutableBytes { header.encode(into: &$0) }
        try file.write(block, at: 0)
    }

    private func write(_ superBlock: AlignedBuffer, to file: FileDevice) throws(Ext4Error) {
        let block = AlignedBuffer(byteCount: blockByteCount)
        block.withMutableBytes { bytes in
            superBlock.withBytes { bytes.copy($0.extracting(0..<SuperBlock.byteCount), at: 0) }
            SuperBlock.invertMagic(&bytes)
        }
        try file.write(block, at: UInt64(blockByteCount))
    }

    /// Writes a key block and its data. Answers how many blocks of the file that took.
    private func save(_ pieces: ArraySlice<Piece>, at start: UInt64, to file: FileDevice) throws(Ext4Error) -> UInt64 {
        let size = UInt64(blockByteCount)
        var position = start + 1
        var keys: [UndoKey] = []
        for piece in pieces {
            let data = AlignedBuffer(byteCount: piece.count * blockByteCount)
            try device.read(into: data, at: piece.block * size)
            try file.write(data, at: position * size)
            keys.append(
                UndoKey(
                    block: piece.block, checksum: data.withBytes { CRC32C.of($0) }, byteCount: data.byteCount))
            position += UInt64(piece.count)
        }
        let block = AlignedBuffer(byteCount: blockByteCount)
        block.withMutableBytes { UndoKeyBlock.encode(keys, into: &$0) }
        try file.write(block, at: start * size)
        return position - start
    }
}
