package import Ext4Format

// Which files are written out of place: an overwrite is staged, written and published like an append, and what it
// replaces is freed, so that after a power cut it is there whole or not at all.
//
// None on a volume with clusters of several blocks (bigalloc): a block cannot leave the others of its cluster.

extension FileSystem {
    /// An extended attribute of a file: "1" has it written out of place and "0" in place, whatever the mount says. Any
    /// other value says nothing.
    package static var outOfPlaceAttribute: [UInt8] { Array("user.jext4.outofplace".utf8) }

    /// Whether overwrites of a file go to new blocks.
    package func writesOutOfPlace(_ number: InodeNumber) throws(Ext4Error) -> Bool {
        let inode = try inode(number)
        guard inode.type == .regular else { throw .posix(Errno.invalid) }
        return writesOutOfPlace(inode)
    }

    func writesOutOfPlace(_ inode: Inode) -> Bool {
        guard !volume.superBlock.hasClusters else { return false }
        let choice = inode.outOfPlaceChoice ?? inode.lock.withReadLock { readChoice(of: inode) }
        switch choice {
        case .mount: return volume.options.outOfPlace
        case .always: return true
        case .never: return false
        }
    }

    /// The inode lock is held, so that a change of the attribute comes before or after. Attributes that cannot be read
    /// keep nobody from writing.
    private func readChoice(of inode: Inode) -> OutOfPlaceChoice {
        let attributes = ExtendedAttributes(volume: volume, inode: inode)
        let value = (try? attributes.value(of: Self.outOfPlaceAttribute)) ?? nil
        let choice: OutOfPlaceChoice =
            switch value {
            case [UInt8(ascii: "1")]: .always
            case [UInt8(ascii: "0")]: .never
            default: .mount
            }
        inode.outOfPlaceChoice = choice
        return choice
    }
}

/// What the attribute of a file says.
enum OutOfPlaceChoice {
    case mount, always, never
}
