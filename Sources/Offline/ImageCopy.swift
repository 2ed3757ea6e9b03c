internal import BlockIO
internal import CLinux
package import Ext4Format
internal import Glibc

/// Copies an image as cheaply as the file system below allows: by sharing its blocks, else by copying what is neither
/// a hole nor zeros.
package enum ImageCopy {
    private static let chunkByteCount = 1 << 20
    /// Zeros are left out in pieces of this size.
    private static let pieceByteCount = 4096

    /// Makes the new file `path`, a copy of `source`: an image file or a block device. Durable when it returns, unless
    /// it is not for long; taken away when that fails.
    package static func make(of source: String, at path: String, isDurable: Bool = true) throws(Ext4Error) {
        let from = try opened(source, O_RDONLY)
        defer { close(from) }
        // The end of a block device is where seeking ends, as it is of a file.
        let size = lseek(from, 0, SEEK_END)
        guard size >= 0 else { throw .io(errno: errno, operation: "size of \(source)", offset: 0, count: 0) }
        try NewFile.make(path, byteCount: UInt64(size))
        do throws(Ext4Error) {
            let to = try opened(path, O_RDWR)
            defer { close(to) }
            if jext4_clone(to, from) != 0 { try copyData(from, to, size) }
            guard isDurable else { return }
            guard fsync(to) == 0 else { throw .io(errno: errno, operation: "fsync of \(path)", offset: 0, count: 0) }
            try NewFile.syncName(path)
        } catch {
            NewFile.remove(path)
            throw error
        }
    }

    private static func opened(_ path: String, _ flags: CInt) throws(Ext4Error) -> CInt {
        let result = unsafe open(path, flags | O_CLOEXEC)
        guard result >= 0 else { throw .io(errno: errno, operation: "open of \(path)", offset: 0, count: 0) }
        return result
    }

    private static func copyData(_ from: CInt, _ to: CInt, _ size: off_t) throws(Ext4Error) {
        var buffer = [UInt8](repeating: 0, count: chunkByteCount)
        var position: off_t = 0
        while position < size {
            var data = lseek(from, position, jext4_seek_data), end = size
            if data >= 0 {
                end = min(max(lseek(from, data, jext4_seek_hole), data + 1), size)
            } else if errno == ENXIO {
                return
            } else {
                // A block device or a file system that knows nothing of holes: all is data.
                data = position
            }
            while data < end {
                let count = unsafe pread(from, &buffer, min(buffer.count, Int(end - data)), data)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else {
                    throw .io(errno: count < 0 ? errno : EIO, operation: "read", offset: UInt64(data), count: 0)
                }
                try write(buffer[..<count], to, at: data)
                data += off_t(count)
            }
            position = end
        }
    }

    /// Writes what is not zeros, in pieces.
    private static func write(_ bytes: ArraySlice<UInt8>, _ to: CInt, at offset: off_t) throws(Ext4Error) {
        var rest = bytes
        while !rest.isEmpty {
            let piece = rest.prefix(pieceByteCount)
            rest = rest.dropFirst(piece.count)
            var left = piece.allSatisfy { $0 == 0 } ? [] : piece
            while !left.isEmpty {
                let place = offset + off_t(left.startIndex - bytes.startIndex)
                let count = unsafe left.withUnsafeBytes { unsafe pwrite(to, $0.baseAddress, $0.count, place) }
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else {
                    throw .io(errno: count < 0 ? errno : EIO, operation: "write", offset: UInt64(place), count: 0)
                }
                left = left.dropFirst(count)
            }
        }
    }
}
