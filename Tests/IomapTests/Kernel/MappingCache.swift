import Testing

/// The mappings that the server has told of, of the half for reads: without one for writes, these go there too.
struct MappingCache {
    private(set) var maps: [Mapping] = []
    /// Changes when anything does: what is under way has to look again.
    private(set) var cookie = 0

    func at(_ position: UInt64) -> Mapping? { maps.first { $0.offset <= position && position < $0.end } }

    mutating func remember(_ map: Mapping) {
        forget(map.offset..<map.end)
        maps.append(map)
    }

    /// A part of a mapping that is left is still right.
    mutating func forget(_ range: Range<UInt64>) {
        cookie += 1
        maps = maps.flatMap { map -> [Mapping] in
            var before = map, after = map
            before.length = min(map.end, max(range.lowerBound, map.offset)) - map.offset
            let start = max(map.offset, min(range.upperBound, map.end))
            (after.offset, after.length, after.address) = (start, map.end - start, map.place(of: start))
            return [before, after].filter { $0.length > 0 }
        }
    }
}

extension KernelFile {
    /// Those before are about names and pages.
    static let firstNotice: Int32 = 99
    static let remember: Int32 = 100, forget: Int32 = 101
    static let notRemembered: UInt16 = 65533

    /// A notice about this file.
    func hear(_ code: Int32, _ notice: Message) {
        #expect(notice.get(8) == inode)
        switch code {
        case Self.remember:
            #expect(notice.bytes.count == 80)
            let read = Mapping(notice, at: 16), write = Mapping(notice, at: 48)
            read.check(read.offset, unit: unit, deviceByteCount: device.byteCount, isWriteHalf: false)
            #expect(write.type == Self.notRemembered && write.length > 0 && write.address == .max)
            remembered.remember(read)
        case Self.forget:
            #expect(notice.bytes.count == 48)
            #expect(Array(notice.bytes[16..<32]) == Array(notice.bytes[32..<48]))
            let start: UInt64 = notice.get(16), count: UInt64 = notice.get(24)
            #expect(start % unit == 0)
            remembered.forget(start..<(count == .max ? .max : start + count))
        default: Issue.record("a notice \(code)")
        }
    }
}
