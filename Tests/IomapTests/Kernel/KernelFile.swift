import BlockIO
import Ext4Format
import Testing

/// One file as a kernel has it that moves the data itself: a small fs/iomap. Blocks are cached one by one.
final class KernelFile {
    let connection: KernelConnection
    let device: any BlockDevice
    let unit: UInt64
    let node: UInt64
    /// `fuse_attr.ino`.
    let inode: UInt64
    /// As programs see it, and as IOEND and SETATTR have moved it.
    private(set) var size: UInt64
    var diskSize: UInt64

    struct Block {
        var bytes: [UInt8]
        var isDirty: Bool
    }
    var cache: [UInt64: Block] = [:]
    /// new_addr of writeback: some kernels say sectors.
    var tellsSectors = false
    /// What the server has told of mappings.
    var remembered = MappingCache()
    /// The most blocks that one BEGIN of writeback asks for: a folio.
    var folioBlockCount: UInt64 = 4
    /// Runs before a block is written back.
    var meanwhile: (UInt64) throws -> Void = { _ in }
    /// Writes of such bytes of the device fail.
    var isBroken: (Range<UInt64>) -> Bool = { _ in false }
    /// A kernel that says it has written what it will write at the next fsync: there must be none.
    var liesAboutWrites = false
    private var lateWrites: [(bytes: [UInt8], place: UInt64)] = []

    /// `entry` is what LOOKUP or CREATE answered.
    init(_ entry: Message, _ connection: KernelConnection, _ device: any BlockDevice, unit: Int) {
        self.connection = connection
        self.device = device
        self.unit = UInt64(unit)
        node = entry.get(0)
        inode = entry.get(40)
        size = entry.get(48)
        diskSize = size
        let others = connection.hearNotice
        connection.hearNotice = { [weak self] code, notice in
            guard code >= Self.firstNotice, notice.get(0) == self?.node else { others?(code, notice); return }
            self?.hear(code, notice)
        }
    }

    // MARK: Messages

    func begin(_ use: Use, _ position: UInt64, _ count: UInt64) throws -> Found {
        if use.isDisjoint(with: [.report, .atomic, .swap]), let map = remembered.at(position) {
            return Found(map: map, source: map)
        }
        var body = Message(count: 32)
        body.put(use.rawValue, 0)
        body.put(inode, 8)
        body.put(position, 16)
        body.put(count, 24)
        let answer = try connection.call(KernelConnection.Opcode.begin, node, body)
        try #require(answer.bytes.count == 64)
        let read = Mapping(answer, at: 0), write = Mapping(answer, at: 32)
        read.check(position, unit: unit, deviceByteCount: device.byteCount, isWriteHalf: false)
        write.check(position, unit: unit, deviceByteCount: device.byteCount, isWriteHalf: true)
        guard use.isFileWrite, write.type != Mapping.pureOverwrite else { return Found(map: read, source: read) }
        // What lies under a write ends with either.
        var map = write
        if read.type != Mapping.hole { map.length = min(map.end, read.end) - map.offset }
        return Found(map: map, source: read.type == Mapping.hole ? map : read)
    }

    /// `written`: bytes, or a negative errno.
    func end(_ use: Use, _ position: UInt64, _ count: UInt64, written: Int64, _ map: Mapping) throws {
        var body = Message(count: 40)
        body.put(use.rawValue, 0)
        body.put(inode, 8)
        body.put(position, 16)
        body.put(count, 24)
        body.put(written, 32)
        _ = try connection.call(KernelConnection.Opcode.end, node, Message(body.bytes + map.bytes))
    }

    func ioendBody(_ flags: UInt32, error: Int32, _ position: UInt64, _ written: UInt64, address: UInt64) -> Message {
        var body = Message(count: 48)
        body.put(flags, 0)
        body.put(error, 4)
        body.put(inode, 8)
        body.put(position, 16)
        body.put(address, 24)
        body.put(written, 32)
        body.put(address == .max ? 0 : ScriptedKernel.device, 40)
        return body
    }

    /// Sent only where there is something to say. Answers whether it was.
    @discardableResult func ioend(
        _ flags: UInt32, error: Int32 = 0, _ position: UInt64, _ written: UInt64, address: UInt64 = .max
    ) throws -> Bool {
        let says = flags & (Ended.shared | Ended.unwritten | Ended.append) != 0
        guard error != 0 || written > 0 && says else { return false }
        let body = ioendBody(flags, error: error, position, written, address: address)
        let answer = try connection.call(KernelConnection.Opcode.ioend, node, body)
        if error == 0 { diskSize = max(diskSize, answer.get(0)) }
        return true
    }

    // MARK: The device

    func load(_ place: UInt64, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        try device.read(into: &raw, at: place)
        return bytes
    }

    /// False: the device said EIO.
    func store(_ bytes: [UInt8], at place: UInt64) throws -> Bool {
        guard !isBroken(place..<place + UInt64(bytes.count)) else { return false }
        if liesAboutWrites {
            lateWrites.append((bytes, place))
            return true
        }
        try device.write(bytes.span.bytes, at: place, mode: .cached)
        return true
    }

    // MARK: Buffered reads and writes

    /// The cached block, filled from where `source` says if it is new. Past the end of the file there are zeros.
    private func fill(_ block: UInt64, from source: Mapping) throws {
        guard cache[block] == nil else { return }
        let position = block * unit
        var bytes = [UInt8](repeating: 0, count: Int(unit))
        if !source.readsAsZeros, position < size { bytes = try load(source.place(of: position), Int(unit)) }
        cache[block] = Block(bytes: bytes, isDirty: false)
    }

    func read(_ range: Range<UInt64>) throws -> [UInt8] {
        let range = range.clamped(to: 0..<size)
        var result: [UInt8] = []
        var position = range.lowerBound
        while position < range.upperBound {
            let block = position / unit
            if cache[block] == nil {
                try fill(block, from: begin([], block * unit, range.upperBound - block * unit).map)
            }
            let end = min((block + 1) * unit, range.upperBound)
            let low = Int(position - block * unit), high = Int(end - block * unit)
            result += try #require(cache[block]).bytes[low..<high]
            position = end
        }
        return result
    }

    /// To the page cache.
    func write(_ bytes: [UInt8], at start: UInt64, _ use: Use = .write) throws {
        if start > size { try zero(size..<start) }
        let end = start + UInt64(bytes.count)
        var position = start
        while position < end {
            let found = try begin(use, position, end - position)
            let high = min(end, found.map.end)
            try copy(Array(bytes[Int(position - start)..<Int(high - start)]), at: position, found)
            if high > size {
                size = high
                var map = found.map
                map.flags |= 256
                try self.end(use, position, high - position, written: Int64(high - position), map)
            }
            position = high
        }
    }

    private func copy(_ bytes: [UInt8], at start: UInt64, _ found: Found) throws {
        var position = start
        let end = start + UInt64(bytes.count)
        while position < end {
            let block = position / unit
            let high = min((block + 1) * unit, end)
            try fill(block, from: found.source)
            let part = bytes[Int(position - start)..<Int(high - start)]
            cache[block]?.bytes.replaceSubrange(
                Int(position - block * unit)..<Int(high - block * unit), with: part)
            cache[block]?.isDirty = true
            position = high
        }
    }

    /// Zeros where there are data. What only the page cache knows of is written back first, and looked at again.
    func zero(_ range: Range<UInt64>) throws {
        var position = range.lowerBound
        while position < range.upperBound {
            let found = try begin(.zero, position, range.upperBound - position)
            let high = min(range.upperBound, found.map.end)
            if found.source.type == Mapping.hole || found.source.type == Mapping.unwritten {
                if isDirty(position..<high) {
                    try writeBack(position..<high)
                    continue
                }
            } else {
                try copy([UInt8](repeating: 0, count: Int(high - position)), at: position, found)
            }
            position = high
        }
    }

    // MARK: The cache

    private func blocks(_ range: Range<UInt64>) -> Range<UInt64> {
        range.lowerBound / unit..<(range.upperBound + unit - 1) / unit
    }

    func isDirty(_ range: Range<UInt64>) -> Bool {
        let blocks = blocks(range)
        return cache.contains { blocks.contains($0.key) && $0.value.isDirty }
    }

    func drop(_ range: Range<UInt64>) {
        let blocks = blocks(range)
        cache = cache.filter { !blocks.contains($0.key) }
    }

    // MARK: Calls that move the size

    /// ftruncate(2).
    func truncate(to new: UInt64) throws {
        let edge = min(size, new)
        if edge % unit != 0 { try zero(edge..<(edge / unit + 1) * unit) }
        size = new
        drop((new + unit - 1) / unit * unit..<UInt64.max - unit)
        // The block with the end in it is the server's to tell of.
        remembered.forget((new + unit - 1) / unit * unit..<UInt64.max)
        try writeBack()
        _ = try connection.call(KernelConnection.Opcode.setattr, node, KernelConnection.setSize(new))
        diskSize = new
    }

    func noteSize(_ new: UInt64) { size = max(size, new) }

    /// fallocate(2): 0, keep size 1, punch 3, zero range 16.
    func allocate(_ range: Range<UInt64>, mode: UInt32) throws {
        try writeBack()
        if mode & 0x12 != 0 { drop(range) }
        remembered.forget(range.lowerBound / unit * unit..<(range.upperBound + unit - 1) / unit * unit)
        if range.lowerBound > size, mode & 1 == 0, size % unit != 0 { try zero(size..<(size / unit + 1) * unit) }
        try connection.allocate(node, range, mode: mode)
        if mode & 0x12 != 0 {
            let first = (range.lowerBound + unit - 1) / unit * unit, last = range.upperBound / unit * unit
            let edges = first > last ? [range] : [range.lowerBound..<first, last..<range.upperBound]
            for edge in edges where !edge.isEmpty { try zero(edge) }
        }
        if mode & 1 == 0 {
            size = max(size, range.upperBound)
            diskSize = max(diskSize, range.upperBound)
        }
    }

    func fsync(dataOnly: Bool = false) throws {
        try writeBack()
        try connection.fsync(node, dataOnly: dataOnly)
        for (bytes, place) in lateWrites { try device.write(bytes.span.bytes, at: place, mode: .cached) }
        lateWrites = []
    }

    /// As a program finds the file, past the cache.
    func contentOnDevice() throws -> [UInt8] {
        try writeBack()
        return size == 0 ? [] : try readDirect(0..<size)
    }
}
