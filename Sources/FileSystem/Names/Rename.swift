internal import Allocator
package import Ext4Format
internal import Journal
internal import Threads

// link and rename: names that move or multiply.
extension FileSystem {
    package func link(
        _ number: InodeNumber, as name: FileName, in parent: InodeNumber, by caller: Caller = .root
    ) throws(Ext4Error) -> Attributes {
        try requireWritable()
        let directory = try inode(parent), target = try inode(number)
        guard !target.isDirectory else { throw .posix(Errno.notPermitted) }
        guard !name.isDotOrDotDot else { throw .posix(Errno.exists) }
        return try naming(in: directory) { () throws(Ext4Error) in
            try directory.requireDirectory()
            guard directory.field({ $0.linkCount }) > 0 else { throw .posix(Errno.noEntry) }
            try directory.checkChangeable(adding: true)
            try requireProject(of: target, in: directory)
            let view = Directory(volume: volume, inode: directory)
            let plan = try view.planInsert(name)
            let (space, credits) = try spaceForInsert(plan, into: directory, caller)
            return try target.lock.withWriteLock { () throws(Ext4Error) in
                let links = target.field { $0.linkCount }
                guard links > 0 || inodes.isNameless(number) else { throw .posix(Errno.noEntry) }
                try target.checkChangeable()
                guard links < Self.maximumLinks else { throw .posix(Errno.tooManyLinks) }
                try volume.withHandle(credits: credits + 1 + OrphanTable.credits) { handle throws(Ext4Error) in
                    if links == 0 { try orphans.remove(target, volume, inodes, in: handle) }
                    try view.insert(plan, inode: number, type: target.type?.entryCode ?? 0, from: space, in: handle)
                    let now = volume.now()
                    try touch(directory, now, in: handle)
                    try target.update(in: handle, volume) { record throws(Ext4Error) in
                        record.linkCount += 1
                        record.change = now
                    }
                }
                if links == 0 { inodes.markNamed(number) }
                inodes.retain(number)
                return target.attributes(volume)
            }
        }
    }

    private func spaceForInsert(
        _ plan: InsertPlan, into directory: Inode, _ caller: Caller
    ) throws(Ext4Error) -> (BlockReservation, credits: Int) {
        let growth = try volume.spaceForAppend(to: directory, blocks: plan.blockCount)
        let space = try volume.reserve(growth.blocks, for: directory, privileged: volume.isPrivileged(caller))
        return (space, growth.credits + Directory.insertCredits + 2)
    }

    /// The times of a directory whose names changed.
    func touch(_ directory: Inode, _ now: Timestamp, links: Int = 0, in handle: borrowing Handle) throws(Ext4Error) {
        try directory.update(in: handle, volume) { record throws(Ext4Error) in
            record.modification = now
            record.change = now
            if links != 0 { record.countDirectoryLink(links) }
        }
    }

    // MARK: rename

    package func rename(
        _ name: FileName, in parent: InodeNumber, to newName: FileName, in newParent: InodeNumber, flags: RenameFlags,
        by caller: Caller = .root
    ) throws(Ext4Error) {
        try requireWritable()
        guard flags.isSubset(of: .all), !flags.contains(.exchange) || flags == .exchange else {
            throw .posix(Errno.invalid)
        }
        guard !name.isDotOrDotDot, !newName.isDotOrDotDot else { throw .posix(Errno.invalid) }
        var gone: InodeNumber?
        try withDirectories(parent, newParent) { from, to, ancestors throws(Ext4Error) in
            gone = try rename(name, from, newName, to, ancestors, flags, caller)
        }
        if let gone { deleteOrLeave(gone) }
        try settle(try inode(parent))
        if parent != newParent { try settle(try inode(newParent)) }
    }

    /// EXDEV: where a directory gives its project to what is made in it, nothing of another project comes in.
    private func requireProject(of inode: Inode, in directory: Inode) throws(Ext4Error) {
        let (flags, project) = directory.field { ($0.flags, $0.project) }
        guard !flags.contains(.projectInherit) || project == inode.field({ $0.project }) else {
            throw .posix(Errno.crossDevice)
        }
    }

    /// Locks both directories. Across directories the tree stands still, and an ancestor is locked before what is below
    /// it, as unlink and rmdir do; directories apart from each other go by number.
    private func withDirectories(
        _ parent: InodeNumber, _ newParent: InodeNumber, _ body: (Inode, Inode, Ancestors) throws(Ext4Error) -> Void
    ) throws(Ext4Error) {
        let from = try inode(parent), to = try inode(newParent)
        guard from !== to else {
            return try from.lock.withWriteLock { () throws(Ext4Error) in
                try from.requireDirectory()
                try body(from, from, Ancestors())
            }
        }
        try renameLock.withWriteLock { () throws(Ext4Error) in
            try from.requireDirectory()
            try to.requireDirectory()
            let ancestors = Ancestors(ofOld: try ancestors(of: from), ofNew: try ancestors(of: to))
            let isBelow = ancestors.ofOld.contains(to.number)
            let isFirst = ancestors.ofNew.contains(from.number) || !isBelow && from.number < to.number
            let (first, second) = isFirst ? (from, to) : (to, from)
            try first.lock.withWriteLock { () throws(Ext4Error) in
                try second.lock.withWriteLock { () throws(Ext4Error) in try body(from, to, ancestors) }
            }
        }
    }

    /// The directories above the two of a rename, and themselves. Empty where both are one.
    private struct Ancestors {
        var ofOld: Set<InodeNumber> = []
        var ofNew: Set<InodeNumber> = []
    }

    /// The way to the root, `directory` included. The rename lock is held, so it stays right; no inode lock is, since
    /// each directory on the way is locked for the look at its "..". Bounded: on a damaged image it may run in a
    /// circle.
    private func ancestors(of directory: Inode) throws(Ext4Error) -> Set<InodeNumber> {
        var current = directory
        var seen: Set<InodeNumber> = [current.number]
        while current.number != .root {
            let parent = try current.lock.withReadLock { () throws(Ext4Error) in
                // The way out of a removed directory may lead to one that has been deleted.
                guard current.field({ $0.linkCount }) > 0 else { throw .posix(Errno.noEntry) }
                return try Directory(volume: volume, inode: current).parent()
            }
            guard seen.insert(parent).inserted else {
                throw .corrupt("directory", where: "inode \(parent.rawValue) is its own ancestor")
            }
            current = try inode(parent)
            try current.requireDirectory()
        }
        return seen
    }

    /// Both directories are locked. Answers an inode to delete.
    private func rename(
        _ name: FileName, _ from: Inode, _ newName: FileName, _ to: Inode, _ ancestors: Ancestors, _ flags: RenameFlags,
        _ caller: Caller
    ) throws(Ext4Error) -> InodeNumber? {
        guard from.field({ $0.linkCount }) > 0, to.field({ $0.linkCount }) > 0 else { throw .posix(Errno.noEntry) }
        let fromView = Directory(volume: volume, inode: from), toView = Directory(volume: volume, inode: to)
        let source = try fromView.planRemove(name)
        let moved = try child(source.entry)
        try from.checkChangeable()
        try moved.checkChangeable()
        try requireProject(of: moved, in: to)
        // What names there are is asked first, as in Linux.
        let existing = try toView.lookup(newName)
        if flags.contains(.noReplace), existing != nil { throw .posix(Errno.exists) }
        if flags.contains(.exchange), existing == nil { throw .posix(Errno.noEntry) }
        if ancestors.ofNew.contains(moved.number) { throw .posix(Errno.invalid) }
        if moved === from || moved === to {
            throw .corrupt("directory", where: "inode \(moved.number.rawValue) contains itself")
        }
        guard let existing else {
            try to.checkChangeable(adding: true)
            return try moveToNewName(source, moved, from, newName, to, flags, caller)
        }
        let target = try child(existing)
        if target === moved { return nil }
        try to.checkChangeable()
        if flags.contains(.exchange) {
            try target.checkChangeable()
            try requireProject(of: target, in: from)
        }
        if ancestors.ofOld.contains(target.number) {
            throw .posix(flags.contains(.exchange) ? Errno.invalid : Errno.notEmpty)
        }
        if target === from || target === to {
            throw .corrupt("directory", where: "inode \(target.number.rawValue) contains itself")
        }
        return try withChildren(of: from, to, moved, target, removing: !flags.contains(.exchange)) {
            () throws(Ext4Error) in
            let place = try toView.planRemove(newName)
            if flags.contains(.exchange) {
                try exchange((source, moved, from), (place, target, to))
                return nil
            }
            return try replace(source, moved, from, place, target, to, flags, caller)
        }
    }

    /// Locks what the two names of a rename stand for. Directories come first: who makes a link to a file in one has
    /// that one's lock when it takes the file's.
    ///
    /// Two directories may be locked by number only while the tree stands still. Within one directory it does not, and
    /// there a directory that stays is not locked: of it only the change time moves.
    private func withChildren<R>(
        of from: Inode, _ to: Inode, _ moved: Inode, _ target: Inode, removing: Bool,
        _ body: () throws(Ext4Error) -> R
    ) throws(Ext4Error) -> R {
        var locked = [moved, target]
        if from === to { locked.removeAll { $0.isDirectory && !(removing && $0 === target) } }
        locked.sort { $0.isDirectory == $1.isDirectory ? $0.number < $1.number : $0.isDirectory }
        func lock(_ rest: ArraySlice<Inode>) throws(Ext4Error) -> R {
            guard let first = rest.first else { return try body() }
            return try first.lock.withWriteLock { () throws(Ext4Error) in try lock(rest.dropFirst()) }
        }
        return try lock(locked[...])
    }

    private func moveToNewName(
        _ source: RemovePlan, _ moved: Inode, _ from: Inode, _ newName: FileName, _ to: Inode, _ flags: RenameFlags,
        _ caller: Caller
    ) throws(Ext4Error) -> InodeNumber? {
        let view = Directory(volume: volume, inode: to)
        let changesParent = moved.isDirectory && from !== to
        if changesParent { try checkLinkLimit(of: to) }
        let plan = try view.planInsert(newName)
        let (space, credits) = try spaceForInsert(plan, into: to, caller)
        let successor = try planSuccessor(in: from, flags, caller)
        try moved.lock.withWriteLock { () throws(Ext4Error) in
            let type = moved.type?.entryCode ?? 0
            if changesParent { try checkParentEntry(of: moved) }
            try volume.withHandle(credits: credits + 8 + successor.credits) { handle throws(Ext4Error) in
                // The old name goes first: where both are in one directory, inserting may move it to another block.
                try giveUp(source, in: from, to: successor, in: handle)
                let fresh = from === to ? try view.planInsert(newName) : plan
                try view.insert(fresh, inode: moved.number, type: type, from: space, in: handle)
                try finishMove(moved, from, to, changesParent, in: handle)
            }
        }
        return nil
    }

    /// What the old name stands for after a rename: with RENAME_WHITEOUT a device 0:0 of no mode, as overlays read it.
    private struct Successor {
        var whiteout: (new: NewInode, space: BlockReservation)?
        var credits: Int { whiteout == nil ? 0 : NewInode.credits }
    }

    private func planSuccessor(
        in directory: Inode, _ flags: RenameFlags, _ caller: Caller
    ) throws(Ext4Error) -> Successor {
        guard flags.contains(.whiteout) else { return Successor() }
        let type = FileType.characterDevice.rawValue
        let new = try planInode(in: directory, mode: type, caller, .device(major: 0, minor: 0))
        let space = try volume.reserve(new.blockCount, for: directory, privileged: volume.isPrivileged(caller))
        return Successor(whiteout: (new, space))
    }

    private func giveUp(
        _ source: RemovePlan, in directory: Inode, to successor: Successor, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let view = Directory(volume: volume, inode: directory)
        guard let (new, space) = successor.whiteout else { return try view.remove(source, in: handle) }
        let whiteout = try make(new, in: directory, from: space, in: handle)
        try view.replace(source, with: whiteout.number, type: whiteout.type?.entryCode ?? 0, in: handle)
    }

    /// That ".." of a directory can be changed is found out before anything is.
    private func checkParentEntry(of moved: Inode) throws(Ext4Error) {
        let view = Directory(volume: volume, inode: moved)
        try view.requireChangeable()
        _ = try view.parent()
    }

    /// Times of all three, and where a directory moved, its ".." and both counts.
    private func finishMove(
        _ moved: Inode, _ from: Inode, _ to: Inode, _ changesParent: Bool, removedDirectory: Bool = false,
        in handle: borrowing Handle
    ) throws(Ext4Error) {
        let now = volume.now()
        try touch(from, now, links: changesParent ? -1 : from === to && removedDirectory ? -1 : 0, in: handle)
        if from !== to { try touch(to, now, links: (changesParent ? 1 : 0) - (removedDirectory ? 1 : 0), in: handle) }
        try moved.update(in: handle, volume, isData: false) { record throws(Ext4Error) in record.change = now }
        if changesParent { try Directory(volume: volume, inode: moved).setParent(to.number, in: handle) }
    }

    /// rename over an existing name.
    private func replace(
        _ source: RemovePlan, _ moved: Inode, _ from: Inode, _ place: RemovePlan, _ target: Inode, _ to: Inode,
        _ flags: RenameFlags, _ caller: Caller
    ) throws(Ext4Error) -> InodeNumber? {
        try checkRemovable(target, directory: moved.isDirectory)
        let changesParent = moved.isDirectory && from !== to
        if changesParent { try checkParentEntry(of: moved) }
        let type = moved.type?.entryCode ?? 0
        let successor = try planSuccessor(in: from, flags, caller)
        var isGone = false
        try volume.withHandle(credits: Self.removalCredits + 8 + successor.credits) { handle throws(Ext4Error) in
            let toView = Directory(volume: volume, inode: to)
            try toView.replace(place, with: moved.number, type: type, in: handle)
            try giveUp(source, in: from, to: successor, in: handle)
            try finishMove(moved, from, to, changesParent, removedDirectory: target.isDirectory, in: handle)
            isGone = try dropLink(target, at: volume.now(), in: handle)
        }
        return isGone ? target.number : nil
    }

    private typealias End = (plan: RemovePlan, inode: Inode, directory: Inode)

    private func exchange(_ a: End, _ b: End) throws(Ext4Error) {
        let crosses = a.directory !== b.directory
        for end in [a, b] where crosses && end.inode.isDirectory {
            try checkParentEntry(of: end.inode)
        }
        let change = crosses ? (b.inode.isDirectory ? 1 : 0) - (a.inode.isDirectory ? 1 : 0) : 0
        try volume.withHandle(credits: 12) { handle throws(Ext4Error) in
            let now = volume.now()
            for (here, there) in [(a, b), (b, a)] {
                let view = Directory(volume: volume, inode: here.directory)
                try view.replace(
                    here.plan, with: there.inode.number, type: there.inode.type?.entryCode ?? 0, in: handle)
                try here.inode.update(in: handle, volume, isData: false) { record throws(Ext4Error) in
                    record.change = now
                }
                if crosses && here.inode.isDirectory {
                    try Directory(volume: volume, inode: here.inode).setParent(there.directory.number, in: handle)
                }
            }
            try touch(a.directory, now, links: change, in: handle)
            if crosses { try touch(b.directory, now, links: -change, in: handle) }
        }
    }
}
