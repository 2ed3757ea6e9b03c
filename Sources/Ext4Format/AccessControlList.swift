/// A POSIX access control list in either of its two encodings: ext4's own, version 1, in which only the entries for
/// named users and groups have an id; and the one of the system calls (`posix_acl_xattr`), version 2, 8 bytes each.
///
/// A value of this type is never empty and always valid: owner, named users, owning group, named groups, mask (there
/// must be one when something is named), others, in this order.
package struct AccessControlList: Equatable, Sendable {
    package private(set) var entries: [Entry]

    package struct Entry: Equatable, Sendable {
        package let tag: Tag
        /// rwx: 0...7.
        package fileprivate(set) var permissions: UInt16
        /// A uid or a gid; `Entry.undefinedID` where the tag names nobody.
        package let id: UInt32
        package static var undefinedID: UInt32 { .max }

        package init(_ tag: Tag, _ permissions: UInt16, id: UInt32 = Self.undefinedID) {
            self.tag = tag
            self.permissions = permissions
            self.id = tag.isNamed ? id : Self.undefinedID
        }
    }

    /// `e_tag`, as on disk and in the system calls.
    package enum Tag: UInt16, Sendable {
        case owner = 0x01, user = 0x02, owningGroup = 0x04, group = 0x08, mask = 0x10, other = 0x20
        var isNamed: Bool { self == .user || self == .group }
    }

    /// nil unless the entries make a valid list.
    package init?(_ entries: [Entry]) {
        guard Self.areValid(entries) else { return nil }
        self.entries = entries
    }

    private static func areValid(_ entries: [Entry]) -> Bool {
        var last: UInt16 = 0, seen: UInt16 = 0
        for entry in entries {
            let tag = entry.tag
            guard entry.permissions <= 7, tag.rawValue > last || tag.isNamed && tag.rawValue == last,
                !tag.isNamed || entry.id != Entry.undefinedID
            else { return false }
            last = tag.rawValue
            seen |= tag.rawValue
        }
        let needed: UInt16 = seen & 0x0A == 0 ? 0x25 : 0x35
        return seen & needed == needed
    }
}

// MARK: Encodings

extension AccessControlList {
    private static var storedVersion: UInt32 { 1 }
    private static var callVersion: UInt32 { 2 }
    private static var headerByteCount: Int { 4 }
    private static var shortByteCount: Int { 4 }
    private static var longByteCount: Int { 8 }

    /// The list in a value as ext4 stores it. nil for one without entries, which is the same as no list.
    package static func decoding(stored value: [UInt8]) throws(Ext4Error) -> Self? {
        let bytes = unsafe value.span.bytes
        guard bytes.byteCount >= headerByteCount, bytes[LE<UInt32>(0)] == storedVersion else {
            throw .corrupt("access control list", where: "version")
        }
        var entries: [Entry] = [], offset = headerByteCount
        while offset < value.count {
            guard offset + shortByteCount <= value.count, let tag = Tag(rawValue: bytes[LE(offset)]) else {
                throw .corrupt("access control list", where: "tag of entry \(entries.count)")
            }
            let byteCount = tag.isNamed ? longByteCount : shortByteCount
            guard offset + byteCount <= value.count else {
                throw .corrupt("access control list", where: "length \(value.count)")
            }
            let id = tag.isNamed ? bytes[LE<UInt32>(offset + 4)] : Entry.undefinedID
            entries.append(Entry(tag, bytes[LE(offset + 2)], id: id))
            offset += byteCount
        }
        if entries.isEmpty { return nil }
        guard let list = Self(entries) else { throw .corrupt("access control list", where: "entries") }
        return list
    }

    /// The list in a value as setxattr(2) has it. nil for one without entries: the list is to be removed.
    /// EOPNOTSUPP: another version. EINVAL: anything else that is wrong.
    package static func decoding(call value: [UInt8]) throws(Ext4Error) -> Self? {
        if value.isEmpty { return nil }
        let bytes = unsafe value.span.bytes
        guard value.count >= headerByteCount else { throw .posix(Errno.invalid) }
        guard bytes[LE<UInt32>(0)] == callVersion else { throw .posix(Errno.notSupported) }
        guard (value.count - headerByteCount) % longByteCount == 0 else { throw .posix(Errno.invalid) }
        var entries: [Entry] = []
        for offset in stride(from: headerByteCount, to: value.count, by: longByteCount) {
            guard let tag = Tag(rawValue: bytes[LE(offset)]) else { throw .posix(Errno.invalid) }
            entries.append(Entry(tag, bytes[LE(offset + 2)], id: bytes[LE(offset + 4)]))
        }
        if entries.isEmpty { return nil }
        guard let list = Self(entries) else { throw .posix(Errno.invalid) }
        return list
    }

    /// As ext4 stores it.
    package var stored: [UInt8] { encoded(Self.storedVersion) { $0.isNamed } }
    /// As getxattr(2) answers it.
    package var call: [UInt8] { encoded(Self.callVersion) { _ in true } }

    private func encoded(_ version: UInt32, hasID: (Tag) -> Bool) -> [UInt8] {
        func littleEndian(_ value: UInt32, _ count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) }
        }
        return entries.reduce(into: littleEndian(version, 4)) { bytes, entry in
            bytes += littleEndian(UInt32(entry.tag.rawValue) | UInt32(entry.permissions) << 16, 4)
            if hasID(entry.tag) { bytes += littleEndian(entry.id, 4) }
        }
    }
}

// MARK: The list and the mode

extension AccessControlList {
    /// The nine permission bits that the list stands for: the group's come from the mask if there is one.
    package var permissions: UInt16 {
        entries.reduce(0) { mode, entry in
            switch entry.tag {
            case .owner: mode | entry.permissions << 6
            case .owningGroup: mode | entry.permissions << 3
            case .mask: mode & ~0o070 | entry.permissions << 3
            case .other: mode | entry.permissions
            case .user, .group: mode
            }
        }
    }

    /// The list says no more than nine permission bits can, so it need not be stored.
    package var isEquivalentToMode: Bool { entries.allSatisfy { !$0.tag.isNamed && $0.tag != .mask } }

    /// What chmod does to an access list: owner, others, and the mask, or the owning group where there is no mask.
    package mutating func change(permissions mode: UInt16) {
        let groupClass = self.groupClass
        for index in entries.indices {
            switch entries[index].tag {
            case .owner: entries[index].permissions = mode >> 6 & 7
            case .other: entries[index].permissions = mode & 7
            case groupClass: entries[index].permissions = mode >> 3 & 7
            default: break
            }
        }
    }

    /// Makes a directory's default list the access list of a new child that was asked for with `mode`: neither grants
    /// what the other does not. Answers `mode` with the nine bits that result.
    package mutating func restrict(toMode mode: UInt16) -> UInt16 {
        let groupClass = self.groupClass
        for index in entries.indices {
            switch entries[index].tag {
            case .owner: entries[index].permissions &= mode >> 6 & 7
            case .other: entries[index].permissions &= mode & 7
            case groupClass: entries[index].permissions &= mode >> 3 & 7
            default: break
            }
        }
        return mode & ~0o777 | permissions
    }

    /// The entry that the three group bits of the mode stand for.
    private var groupClass: Tag { entries.contains { $0.tag == .mask } ? .mask : .owningGroup }
}
