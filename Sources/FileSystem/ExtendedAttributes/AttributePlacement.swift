internal import Ext4Format

/// Which attributes of an inode lie in its slot and which in its block. Pure: decides and does no I/O.
struct AttributePlacement: Equatable {
    var inside: [ExtendedAttribute]
    var outside: [ExtendedAttribute]
    /// Bytes of the area in the slot; 0 when the inode has none.
    let areaByteCount: Int
    /// Bytes of an attribute block; 0 when the volume must not have any.
    let blockByteCount: Int

    func contains(_ name: ExtendedAttributeName) -> Bool {
        inside.contains { $0.name == name } || outside.contains { $0.name == name }
    }

    mutating func remove(_ name: ExtendedAttributeName) {
        inside.removeAll { $0.name == name }
        outside.removeAll { $0.name == name }
    }

    /// Adds an attribute, or replaces the one of its name: in the slot when it fits there, which saves a block and its
    /// reading, else in the block, else by dealing all attributes out anew. What belongs to the file system
    /// ("system.data") never leaves the slot. ENOSPC when there is no room.
    mutating func set(_ attribute: ExtendedAttribute) throws(Ext4Error) {
        remove(attribute.name)
        if fitsInside(inside + [attribute]) {
            inside.append(attribute)
        } else if attribute.name.index == .system {
            throw .posix(Errno.noSpace)
        } else if fitsOutside(outside + [attribute]) {
            outside.append(attribute)
        } else {
            try deal(adding: attribute)
        }
    }

    /// The largest first, each where it fits; the block is tried first, since it has more room, and then the slot.
    private mutating func deal(adding attribute: ExtendedAttribute) throws(Ext4Error) {
        let pinned = inside.filter { $0.name.index == .system }
        let others = (inside.filter { $0.name.index != .system } + outside + [attribute])
            .sorted { $0.storedByteCount > $1.storedByteCount }
        for prefersBlock in [true, false] {
            var dealt = self
            dealt.inside = pinned
            dealt.outside = []
            if others.allSatisfy({ dealt.add($0, prefersBlock) }) {
                self = dealt
                return
            }
        }
        throw .posix(Errno.noSpace)
    }

    private mutating func add(_ attribute: ExtendedAttribute, _ prefersBlock: Bool) -> Bool {
        let canBeOutside = fitsOutside(outside + [attribute])
        if canBeOutside && prefersBlock {
            outside.append(attribute)
        } else if fitsInside(inside + [attribute]) {
            inside.append(attribute)
        } else if canBeOutside {
            outside.append(attribute)
        } else {
            return false
        }
        return true
    }

    private func fitsInside(_ attributes: [ExtendedAttribute]) -> Bool {
        ExtendedAttributeArea.fits(attributes, areaByteCount)
    }

    private func fitsOutside(_ attributes: [ExtendedAttribute]) -> Bool {
        ExtendedAttributeBlock.fits(attributes, blockByteCount)
    }
}
