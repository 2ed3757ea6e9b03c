/// The name of an extended attribute as ext4 stores it: `e_name_index` stands for a prefix, the suffix follows it.
package struct ExtendedAttributeName: Hashable, Sendable {
    package let index: Index
    /// At most 255 bytes; empty for the two ACLs, whose whole name is the prefix.
    package let suffix: [UInt8]

    /// `e_name_index`. Values that have no name here are kept as they are and never shown.
    package struct Index: Hashable, Sendable {
        package let rawValue: UInt8
        package init(rawValue: UInt8) { self.rawValue = rawValue }
        package static var user: Self { Self(rawValue: 1) }
        package static var accessACL: Self { Self(rawValue: 2) }
        package static var defaultACL: Self { Self(rawValue: 3) }
        package static var trusted: Self { Self(rawValue: 4) }
        package static var security: Self { Self(rawValue: 6) }
        /// Only "system.data" (inline_data): belongs to the file system, not to callers.
        package static var system: Self { Self(rawValue: 7) }
        package static var richACL: Self { Self(rawValue: 8) }

        package var isACL: Bool { self == .accessACL || self == .defaultACL }
        /// How names of this index begin. nil: not an index that a caller may name.
        package var prefix: StaticString? {
            switch self {
            case .user: "user."
            case .accessACL: "system.posix_acl_access"
            case .defaultACL: "system.posix_acl_default"
            case .trusted: "trusted."
            case .security: "security."
            default: nil
            }
        }
    }

    package static var accessACL: Self { Self(index: .accessACL, suffix: []) }
    package static var defaultACL: Self { Self(index: .defaultACL, suffix: []) }
    /// "system.data": what an inode with inline_data holds beyond `i_block`.
    package static var inlineData: Self { Self(index: .system, suffix: Array("data".utf8)) }

    package init(index: Index, suffix: [UInt8]) {
        self.index = index
        self.suffix = suffix
    }

    /// A caller's name, prefix included, as setxattr(2) has it. ERANGE: more than 255 bytes or none. EOPNOTSUPP: a
    /// prefix that callers cannot use. EINVAL: nothing behind the prefix, or a NUL, which no stored name may have.
    package init(full name: [UInt8]) throws(Ext4Error) {
        guard (1...255).contains(name.count) else { throw .posix(Errno.outOfRange) }
        for index in [Index.accessACL, .defaultACL] where name == index.prefixBytes {
            self.init(index: index, suffix: [])
            return
        }
        for index in [Index.user, .trusted, .security] where name.starts(with: index.prefixBytes) {
            let suffix = Array(name.dropFirst(index.prefixBytes.count))
            guard !suffix.isEmpty, !suffix.contains(0) else { throw .posix(Errno.invalid) }
            self.init(index: index, suffix: suffix)
            return
        }
        throw .posix(Errno.notSupported)
    }

    /// The name with its prefix. nil when callers do not see it: an index without a prefix, or a suffix that does not
    /// belong (none behind "user.", some behind an ACL).
    package var full: [UInt8]? {
        guard index.prefix != nil, suffix.isEmpty == index.isACL else { return nil }
        return index.prefixBytes + suffix
    }

    /// The order of the entries in an attribute block: the kernel stops its search at the first greater name.
    package static func precedes(_ a: Self, _ b: Self) -> Bool {
        if a.index != b.index { return a.index.rawValue < b.index.rawValue }
        if a.suffix.count != b.suffix.count { return a.suffix.count < b.suffix.count }
        return a.suffix.lexicographicallyPrecedes(b.suffix)
    }
}

extension ExtendedAttributeName.Index {
    fileprivate var prefixBytes: [UInt8] {
        guard let prefix else { return [] }
        return prefix.withUTF8Buffer { unsafe Array($0) }
    }
}

/// One extended attribute with its value as it is stored.
package struct ExtendedAttribute: Equatable, Sendable {
    package let name: ExtendedAttributeName
    package var value: [UInt8]

    package init(name: ExtendedAttributeName, value: [UInt8]) {
        self.name = name
        self.value = value
    }

    /// What it takes in an area: the entry and the value, each rounded up to 4 bytes.
    package var storedByteCount: Int { entryByteCount + paddedValueByteCount }
    var entryByteCount: Int { (ExtendedAttributeTable.entryByteCount + name.suffix.count + 3) & ~3 }
    var paddedValueByteCount: Int { Self.padded(value.count) }
    /// A value takes whole words (`EXT4_XATTR_SIZE`).
    static func padded(_ byteCount: Int) -> Int { (byteCount + 3) & ~3 }

    /// `e_hash` of an entry in a block: the name, byte by byte, then the zero-padded value in 32-bit words.
    ///
    /// Name bytes count as unsigned. Older kernels on machines with signed characters took 0x80 and above as negative;
    /// readers accept both, so that only what is written matters here.
    package var hash: UInt32 {
        func mix(_ hash: UInt32, _ shift: UInt32, _ word: UInt32) -> UInt32 {
            hash << shift ^ hash >> (32 - shift) ^ word
        }
        var hash: UInt32 = 0
        for byte in name.suffix { hash = mix(hash, 5, UInt32(byte)) }
        for start in stride(from: 0, to: value.count, by: 4) {
            var word: UInt32 = 0
            for index in start..<min(start + 4, value.count) {
                word |= UInt32(value[index]) << UInt32(8 * (index - start))
            }
            hash = mix(hash, 16, word)
        }
        return hash
    }
}
