internal import Ext4Format
internal import Journal

/// An entry that is to be removed or changed, with its block read and verified. The caller keeps the inode lock from
/// `planRemove` on; other changes of the directory may come between, but none of this name.
struct RemovePlan {
    let name: FileName
    let entry: Directory.Entry
    fileprivate let location: Directory.Location
}

extension Directory {
    /// Finds a name but "." and "..". ENOENT.
    func planRemove(_ name: FileName) throws(Ext4Error) -> RemovePlan {
        try requireChangeable()
        if name.isDotOrDotDot { throw .posix(Errno.invalid) }
        guard let location = try locate(name) else { throw .posix(Errno.noEntry) }
        return RemovePlan(name: name, entry: entry(name, location), location: location)
    }

    /// Takes the entry out. A leaf that is left empty stays part of the directory.
    func remove(_ plan: RemovePlan, in handle: borrowing Handle) throws(Ext4Error) {
        let location = try relocate(plan)
        try handle.modify(location.block) { bytes throws(Ext4Error) in
            try format.remove(&bytes, location.match, block: location.block.number)
            format.sealLeaf(&bytes, seed: seed)
        }
        inode.noteChange(in: handle)
    }

    /// Points the name at another inode. `type` is `EXT4_FT_*`.
    func replace(
        _ plan: RemovePlan, with target: InodeNumber, type: UInt8, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let location = try relocate(plan)
        try handle.modify(location.block) { bytes throws(Ext4Error) in
            format.setTarget(&bytes, at: location.match.entry.offset, to: target.rawValue, type: type)
            format.sealLeaf(&bytes, seed: seed)
        }
        inode.noteChange(in: handle)
    }

    /// Where the entry is now. An insert in the same handle (rename within a directory) may have moved it; the blocks
    /// that it can have moved to are in memory then, because the running transaction holds them.
    private func relocate(_ plan: RemovePlan) throws(Ext4Error) -> Location {
        let old = plan.location
        let shape = try shape().shape
        if old.number.rawValue != 0 || shape != .indexed {
            if let found = try locate(plan.name, in: old.number, old.block) { return found }
        }
        guard let found = try locate(plan.name) else { throw corrupt("an entry vanished: a block has two owners") }
        return found
    }
}
