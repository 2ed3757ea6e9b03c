/// A block counted from the start of the file system, in units of its block size.
package struct FSBlock: Hashable, Comparable, Sendable {
    package let rawValue: UInt64
    @inlinable package init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable package init(_ rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    @inlinable package static func + (a: Self, count: UInt64) -> Self { Self(a.rawValue + count) }
}

/// A block counted from the start of a file: `ee_block`, 32 bits in the extent format.
package struct FileBlock: Hashable, Comparable, Sendable {
    package let rawValue: UInt32
    @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package init(_ rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    /// One past all of them: where ranges end that reach as far as a file can.
    package static let end: UInt64 = 1 << 32
}

/// An inode number, from 1. Zero is "none" on disk and is never held here but in directory slots that are free.
package struct InodeNumber: Hashable, Comparable, Sendable {
    package let rawValue: UInt32
    @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package init(_ rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    package static let root = Self(2)
    package static let journal = Self(8)
}

/// A block group, from 0.
package struct GroupNumber: Hashable, Comparable, Sendable {
    package let rawValue: UInt32
    @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package init(_ rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}

/// A jbd2 transaction id (tid). It wraps, so order is a signed distance and `<` would be wrong.
package struct TransactionID: Hashable, Sendable {
    package let rawValue: UInt32
    @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package init(_ rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package func isNewer(than other: Self) -> Bool { Int32(bitPattern: rawValue &- other.rawValue) > 0 }
    @inlinable package var next: Self { Self(rawValue &+ 1) }
}
