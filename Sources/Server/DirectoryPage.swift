internal import Ext4Format
internal import FileSystem
internal import Glibc

/// One answer to READDIR or READDIRPLUS, built in the worker's scratch memory: `fuse_dirent` records, each behind a
/// `fuse_entry_out` when the kernel wants attributes. All numbers are in the byte order of the machine.
@safe struct DirectoryPage {
    private let base: UnsafeMutableRawPointer
    private let room: Int
    private let blockByteCount: Int
    private let iomap: IomapTransport
    /// The bytes used.
    private(set) var count = 0

    /// `base` has `room` bytes and outlives the page.
    init(base: UnsafeMutableRawPointer, room: Int, blockByteCount: Int, _ iomap: IomapTransport) {
        unsafe self.base = unsafe base
        self.iomap = iomap
        self.room = room
        self.blockByteCount = blockByteCount
    }

    /// `fuse_dirent`, 24 bytes before the name; each record ends on a multiple of 8.
    private enum Dirent {
        static var inode: Int { 0 }
        static var cookie: Int { 8 }
        static var nameCount: Int { 16 }
        static var type: Int { 20 }
        static var name: Int { 24 }
    }

    /// `fuse_entry_out` with the `fuse_attr` in it, 128 bytes.
    private enum Entry {
        static var node: Int { 0 }
        static var generation: Int { 8 }
        static var entrySeconds: Int { 16 }
        static var attributeSeconds: Int { 24 }
        static var inode: Int { 40 }
        static var size: Int { 48 }
        static var sectors: Int { 56 }
        static var accessSeconds: Int { 64 }
        static var modificationSeconds: Int { 72 }
        static var changeSeconds: Int { 80 }
        static var accessNanoseconds: Int { 88 }
        static var modificationNanoseconds: Int { 92 }
        static var changeNanoseconds: Int { 96 }
        static var mode: Int { 100 }
        static var linkCount: Int { 104 }
        static var uid: Int { 108 }
        static var gid: Int { 112 }
        static var device: Int { 116 }
        static var blockByteCount: Int { 120 }
        static var flags: Int { 124 }
        static var byteCount: Int { 128 }
    }

    private func put<Value: BitwiseCopyable>(_ value: Value, _ offset: Int) {
        unsafe base.storeBytes(of: value, toByteOffset: offset, as: Value.self)
    }

    /// Adds a record, or changes nothing and answers false when it does not fit.
    mutating func add(_ record: DirectoryRecord, withEntry: Bool) -> Bool {
        let head = withEntry ? Entry.byteCount : 0
        let end = head + (Dirent.name + record.name.count + 7) / 8 * 8
        guard end <= room - count else { return false }
        unsafe memset(base + count, 0, end)
        if withEntry, let attributes = record.attributes, !Self.isDots(record.name) { put(entry: attributes, count) }
        let start = count + head
        put(UInt64(record.inode.rawValue), start + Dirent.inode)
        put(record.cookie, start + Dirent.cookie)
        put(UInt32(record.name.count), start + Dirent.nameCount)
        put(UInt32(record.type), start + Dirent.type)
        unsafe record.name.withUnsafeBytes { name in
            guard let first = name.baseAddress else { return }
            unsafe (base + start + Dirent.name).copyMemory(from: first, byteCount: name.count)
        }
        count += end
        return true
    }

    /// Whether the name is "." or "..": the kernel wants no entry for these, and takes no reference.
    static func isDots(_ name: [UInt8]) -> Bool { name == [0x2e] || name == [0x2e, 0x2e] }

    /// Node id 0 stays where there is nothing that the kernel could hold.
    private func put(entry attributes: Attributes, _ start: Int) {
        guard let node = NodeID.node(attributes.inode) else { return }
        put(UInt64(node), start + Entry.node)
        put(UInt64(attributes.generation), start + Entry.generation)
        put(UInt64(Validity.entrySeconds), start + Entry.entrySeconds)
        put(UInt64(Validity.attributeSeconds), start + Entry.attributeSeconds)
        put(UInt64(attributes.inode.rawValue), start + Entry.inode)
        put(attributes.size, start + Entry.size)
        put(attributes.sectorCount, start + Entry.sectors)
        put(attributes.access.seconds, start + Entry.accessSeconds)
        put(attributes.modification.seconds, start + Entry.modificationSeconds)
        put(attributes.change.seconds, start + Entry.changeSeconds)
        put(attributes.access.nanoseconds, start + Entry.accessNanoseconds)
        put(attributes.modification.nanoseconds, start + Entry.modificationNanoseconds)
        put(attributes.change.nanoseconds, start + Entry.changeNanoseconds)
        put(UInt32(attributes.mode), start + Entry.mode)
        put(attributes.linkCount, start + Entry.linkCount)
        put(attributes.uid, start + Entry.uid)
        put(attributes.gid, start + Entry.gid)
        let device = DeviceNumber.encode(major: attributes.deviceMajor, minor: attributes.deviceMinor)
        put(device, start + Entry.device)
        put(UInt32(blockByteCount), start + Entry.blockByteCount)
        put(iomap.flags(of: attributes), start + Entry.flags)
    }
}
