package import Ext4Format

/// One thing that a replay changes, in words: what, which field of it, from what to what.
package struct Change: Equatable, Sendable {
    package enum Subject: Hashable, Sendable {
        case superBlock
        case group(UInt32)
        case blockBitmap(group: UInt32)
        case inodeBitmap(group: UInt32)
        case inode(UInt32)
        case directory(UInt32)
        /// A part of an inode: a node of the extent tree, a block of block numbers, attributes, a symlink, data ...
        case part(BlockOwner.Kind, inode: UInt32)
        case orphanFile
        /// A block that nothing owns, or whose meaning is not known.
        case block
    }
    package enum Value: Equatable, Sendable {
        case number(UInt64)
        /// Shown in octal.
        case mode(UInt16)
        /// Shown in hexadecimal.
        case flags(UInt64)
        case time(Timestamp)
        case text([UInt8])
        /// First and last of a run: of blocks, or of inodes.
        case run(UInt64, UInt64)
        case extent(Extent)
        /// A name in a directory, and the inode that it stands for.
        case name([UInt8], UInt32)
    }
    package let subject: Subject
    package let field: String
    /// Nil for what appears.
    package let before: Value?
    /// Nil for what disappears.
    package let after: Value?

    init(_ subject: Subject, _ field: String, _ before: Value?, _ after: Value?) {
        self.subject = subject
        self.field = field
        self.before = before
        self.after = after
    }
}

/// Collects the changes of fields that differ.
struct ChangeList {
    private(set) var changes: [Change] = []
    let subject: Change.Subject

    init(_ subject: Change.Subject) { self.subject = subject }

    mutating func compare(_ field: String, _ before: Change.Value, _ after: Change.Value) {
        if before != after { changes.append(Change(subject, field, before, after)) }
    }
    mutating func compare(_ field: String, _ before: some BinaryInteger, _ after: some BinaryInteger) {
        compare(field, .number(UInt64(before)), .number(UInt64(after)))
    }
    mutating func add(_ field: String, _ before: Change.Value?, _ after: Change.Value?) {
        changes.append(Change(subject, field, before, after))
    }
    /// What only one side has, in the order of that side.
    mutating func compare<Item: Hashable>(
        _ field: String, _ before: [Item], _ after: [Item], _ value: (Item) -> Change.Value
    ) {
        let old = Set(before), new = Set(after)
        for item in before where !new.contains(item) { add(field, value(item), nil) }
        for item in after where !old.contains(item) { add(field, nil, value(item)) }
    }
}
