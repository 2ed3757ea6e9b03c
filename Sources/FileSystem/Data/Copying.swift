internal import BlockIO
package import Ext4Format

extension FileSystem {
    /// copy_file_range(2) of whole files, without the bytes going through whoever asks: reads and writes as `read` and
    /// `write` do. Answers how much was copied: less than asked at the end of the source, or after `copyLimit` bytes,
    /// so that one request does not take long.
    package func copy(
        from source: InodeNumber, at sourceOffset: UInt64, to target: InodeNumber, at targetOffset: UInt64,
        count: UInt64, by caller: Caller = .root
    ) throws(Ext4Error) -> Int {
        let most = Int(min(count, Self.copyLimit))
        let buffer = AlignedBuffer(byteCount: Self.copyPieceByteCount)
        var done = 0
        while done < most {
            let piece = min(most - done, Self.copyPieceByteCount)
            let copied: (read: Int, written: Int)
            do throws(Ext4Error) {
                let read = try buffer.withMutableBytes { bytes throws(Ext4Error) in
                    var part = bytes._mutatingExtracting(0..<piece)
                    return try self.read(source, at: sourceOffset + UInt64(done), into: &part)
                }
                let written = try buffer.withBytes { bytes throws(Ext4Error) in
                    read == 0
                        ? 0 : try write(target, at: targetOffset + UInt64(done), bytes.extracting(0..<read), by: caller)
                }
                copied = (read, written)
            } catch {
                // What was copied was copied.
                if done > 0 { return done }
                throw error
            }
            done += copied.written
            if copied.written < piece { break }
        }
        return done
    }

    private static var copyLimit: UInt64 { 64 << 20 }
    private static var copyPieceByteCount: Int { 1 << 20 }

    /// bmap: where a block of a file lies, in blocks of the volume; 0 where no data is. EINVAL past what a file can
    /// have.
    package func deviceBlock(of number: InodeNumber, at block: UInt64) throws(Ext4Error) -> UInt64 {
        let inode = try inode(number)
        guard inode.type == .regular, block < FileData.maximumSize(volume) / UInt64(volume.blockByteCount) else {
            throw .posix(Errno.invalid)
        }
        if inode.isInline { return 0 }
        let unit = UInt64(volume.blockByteCount)
        let lease = inode.ranges.acquire(block * unit..<(block + 1) * unit, exclusive: false)
        defer { lease.release() }
        let mapping = try MappingCore(volume: volume, inode: inode).begin(reading: block..<block + 1).first
        return mapping?.target.dataStart?.rawValue ?? 0
    }
}
