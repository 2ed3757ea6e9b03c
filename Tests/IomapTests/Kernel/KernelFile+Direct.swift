import Ext4Format
import Testing

extension KernelFile {
    static let sector: UInt64 = 512
    static let noSystemCall: Int32 = 38

    func readDirect(_ range: Range<UInt64>) throws -> [UInt8] {
        try writeBack(range)
        let range = range.clamped(to: 0..<size)
        var result: [UInt8] = []
        var position = range.lowerBound
        while position < range.upperBound {
            let map = try begin(.direct, position, range.upperBound - position).map
            let high = min(range.upperBound, map.end)
            if map.type == Mapping.mapped {
                // The device knows whole sectors only.
                let low = map.place(of: position) / Self.sector * Self.sector
                let end = (map.place(of: high) + Self.sector - 1) / Self.sector * Self.sector
                let bytes = try load(low, Int(end - low))
                let skip = Int(map.place(of: position) - low)
                result += bytes[skip..<skip + Int(high - position)]
            } else {
                #expect(map.type != Mapping.delayed, "a direct read cannot wait for the page cache")
                result += [UInt8](repeating: 0, count: Int(high - position))
            }
            position = high
        }
        return result
    }

    /// What a direct write has put on the device.
    struct DirectWrite {
        var position: UInt64, written: UInt64 = 0
        var flags = Ended.direct
        var error: Int32 = 0
        /// The page cache has to do the rest.
        var isRefused = false
    }

    /// Past the page cache, where the server lets it: whole sectors. `atomic`: one block.
    func writeDirect(_ bytes: [UInt8], at position: UInt64, isAtomic: Bool = false) throws {
        let done = try submitDirect(bytes, at: position, isAtomic: isAtomic)
        try report(done)
        if done.isRefused {
            let rest = Array(bytes[Int(done.written)...])
            try write(rest, at: position + done.written)
            try writeBack(position + done.written..<position + UInt64(bytes.count))
        }
    }

    func report(_ done: DirectWrite) throws {
        var flags = done.flags
        if done.position + done.written > diskSize { flags |= Ended.append }
        try ioend(flags, error: done.error, done.position, done.written)
        if done.error == 0 { noteSize(done.position + done.written) }
        drop(done.position..<done.position + done.written)
        forgetWritten(done.position..<done.position + done.written)
    }

    func submitDirect(_ bytes: [UInt8], at start: UInt64, isAtomic: Bool = false) throws -> DirectWrite {
        precondition(start % Self.sector == 0 && bytes.count % Int(Self.sector) == 0)
        let end = start + UInt64(bytes.count)
        if start > size { try zero(size..<start) }
        try writeBack(min(size, start)..<end)
        drop(start..<end)
        let use: Use = isAtomic ? [.direct, .write, .atomic] : [.direct, .write]
        var done = DirectWrite(position: start)
        while done.position + done.written < end {
            let position = done.position + done.written
            let found: Found
            do { found = try begin(use, position, end - position) } catch let refusal as Refusal {
                guard refusal.number == Self.noSystemCall else { throw refusal }
                done.isRefused = true
                break
            }
            let map = found.map
            try #require(map.hasAddress, "a direct write got \(map)")
            if isAtomic { #expect(map.flags & Mapping.atomic != 0) }
            let high = min(end, map.end)
            let part = Array(bytes[Int(position - start)..<Int(high - start)])
            if map.isShared { done.flags |= Ended.shared }
            if map.type == Mapping.unwritten { done.flags |= Ended.unwritten }
            if try !storePadded(part, at: position, map) { done.error = -5 }
            done.written += UInt64(part.count)
            if done.error != 0 { break }
        }
        return done
    }

    /// The rest of a block that is new becomes zeros; of one that is not, only behind the end of the file.
    private func storePadded(_ bytes: [UInt8], at position: UInt64, _ map: Mapping) throws -> Bool {
        var bytes = bytes, position = position
        let end = position + UInt64(bytes.count)
        if map.readsAsZeros, position % unit != 0 {
            bytes = [UInt8](repeating: 0, count: Int(position % unit)) + bytes
            position -= position % unit
        }
        if end % unit != 0, map.readsAsZeros || end >= size {
            bytes += [UInt8](repeating: 0, count: Int(unit - end % unit))
        }
        return try store(bytes, at: map.place(of: position))
    }
}
