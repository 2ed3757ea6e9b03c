internal import Allocator
internal import BlockIO
internal import Ext4Format
internal import Journal

/// Carries a `FastCommitPlan` out: all of it in one handle, and so in one transaction. Used by one thread on a volume
/// that nobody else has.
struct FastCommitReplay {
    private let fileSystem: FileSystem
    private let plan: FastCommitPlan
    private let mappings: [Mapping]
    private var volume: Volume { fileSystem.volume }

    /// What becomes of the mapping of one inode.
    private struct Mapping {
        let inode: FastCommitInode
        let steps: [Step]
        /// Whole clusters that the file gets.
        let taken: [BlockRun]
    }
    private struct Step {
        let old: Extent?
        let new: Extent?
        var range: Range<UInt64> { (new ?? old).map { UInt64($0.first.rawValue)..<$0.end } ?? 0..<0 }
        /// Blocks that the file gets, and those that it gives up; an extent that only becomes written is neither.
        var taken: Extent? { old?.start == new?.start ? nil : new }
        var given: Extent? { old?.start == new?.start ? nil : old }
    }

    /// Compares the plan with what is on disk, and takes the blocks that the log names out of the allocator's map, so
    /// that nothing else gets them. Nothing on disk changes.
    init(_ log: FastCommitLog, on fileSystem: FileSystem) throws(Ext4Error) {
        self.fileSystem = fileSystem
        plan = try FastCommitPlan(log, on: fileSystem)
        var mappings: [Mapping] = []
        for inode in plan.inodes where inode.isAlive && !inode.edits.isEmpty {
            let steps = try Self.steps(of: inode, fileSystem.volume)
            let taken = try Self.newClusters(steps.compactMap(\.taken), of: inode, fileSystem.volume)
            mappings.append(Mapping(inode: inode, steps: steps, taken: taken))
        }
        self.mappings = mappings
        try checkTargets()
        for mapping in mappings { try stage(mapping) }
    }

    private func stage(_ mapping: Mapping) throws(Ext4Error) {
        for run in mapping.taken {
            do throws(Ext4Error) {
                try volume.blocks.stage(exactly: run)
            } catch {
                guard case .corrupt = error else { throw error }
                // With data=writeback Linux gives blocks out again before the transaction that freed them commits.
                let place = "inode \(mapping.inode.number.rawValue) takes blocks in use, from \(run.start.rawValue) on"
                throw .corrupt("fast commit", where: "\(place); with data=writeback only Linux replays that")
            }
        }
    }

    /// Linux logs an inode while others change it, so a range may lie behind the size that is logged with it. Written
    /// blocks there were never acknowledged, and no file may have them: they stay what they were, or go.
    private static func steps(of inode: FastCommitInode, _ volume: Volume) throws(Ext4Error) -> [Step] {
        let unit = UInt64(volume.blockByteCount)
        let end = ((inode.record?.size ?? inode.base?.size ?? 0) + unit - 1) / unit
        var steps: [Step] = []
        for segment in inode.edits.merged() {
            for range in [segment.range.clamped(to: 0..<end), segment.range.clamped(to: end..<FileBlock.end)]
            where !range.isEmpty {
                let isBehind = range.lowerBound >= end
                for old in try pieces(of: inode, range, volume) {
                    let piece = old.range.clamped(to: range)
                    var (before, after): (Extent?, Extent?) = (nil, segment.extent?.part(piece))
                    if case .extent(let extent) = old { before = extent.part(piece) }
                    if isBehind, after?.isUnwritten == false { after = before?.isUnwritten == true ? before : nil }
                    if before != after { steps.append(Step(old: before, new: after)) }
                }
            }
        }
        return steps
    }

    /// The clusters of `taken`, in the order of the file, but those that it has already: a step ends where what is on
    /// disk changes, so that only its first and its last cluster may be such.
    private static func newClusters(
        _ taken: [Extent], of inode: FastCommitInode, _ volume: Volume
    ) throws(Ext4Error) -> [BlockRun] {
        let layout = volume.layout, unit = UInt64(layout.superBlock.clusterBlockCount)
        let map = inode.base.map { FileMap(volume, $0) }
        var result: [BlockRun] = []
        var last: UInt64?
        for extent in taken {
            let file = layout.wholeClusters(UInt64(extent.first.rawValue)..<extent.end)
            let device = layout.wholeClusters(extent.start.rawValue..<extent.start.rawValue + UInt64(extent.count))
            var low = device.lowerBound, high = device.upperBound
            let isFirstOwn = try map?.isMapped(file.lowerBound..<file.lowerBound + unit, into: low) == true
            let isLastOwn = try map?.isMapped(file.upperBound - unit..<file.upperBound, into: high - unit) == true
            if isFirstOwn || low == last { low += unit }
            if isLastOwn { high -= unit }
            if low < high { result.append(BlockRun(start: FSBlock(low), count: UInt32(high - low))) }
            last = device.upperBound - unit
        }
        return result
    }

    private static func pieces(
        of inode: FastCommitInode, _ range: Range<UInt64>, _ volume: Volume
    ) throws(Ext4Error) -> [FileMap.Piece] {
        guard let base = inode.base else { return [.hole(range)] }
        return try FileMap(volume, base).pieces(range)
    }

    /// The block of a long symlink is metadata, so Linux may not have written it when it logged where it is. What lies
    /// there then is somebody else's.
    private func checkTargets() throws(Ext4Error) {
        let buffer = AlignedBuffer(byteCount: volume.blockByteCount)
        for mapping in mappings where mapping.inode.type == .symlink {
            for step in mapping.steps {
                guard let block = step.taken?.start, let size = mapping.inode.record?.size else { continue }
                try volume.device.read(into: buffer, at: volume.offset(of: block))
                let isTarget = buffer.withBytes { bytes in
                    size > 0 && size < bytes.byteCount
                        && bytes.array(0..<Int(size) + 1).firstIndex(of: 0) == Int(size)
                }
                guard isTarget else {
                    throw .corrupt(
                        "fast commit", where: "symlink \(mapping.inode.number.rawValue): its target is missing")
                }
            }
        }
    }

    // MARK: The one transaction

    func run() throws(Ext4Error) {
        guard let journal = volume.journal else { preconditionFailure("fast commits are replayed into a journal") }
        let space = try volume.blocks.reserve(blocksNeeded(), privileged: true, upkeep: true)
        try volume.withHandle(credits: journal.maximumCredits) { handle throws(Ext4Error) in
            for inode in plan.inodes where inode.movesOut { try moveOut(inode, from: space, in: handle) }
            for inode in plan.inodes { try removeNames(of: inode, in: handle) }
            for inode in plan.inodes where !inode.isAlive { try leave(inode, in: handle) }
            for inode in plan.inodes where inode.isAlive && inode.base == nil {
                try make(inode, from: space, in: handle)
            }
            for mapping in mappings { try change(mapping, from: space, in: handle) }
            for inode in plan.inodes where inode.isAlive { try insertNames(of: inode, from: space, in: handle) }
            for inode in plan.inodes where inode.isAlive { try setFields(of: inode, in: handle) }
        }
    }

    /// An upper bound of what directories and extent trees may grow by, as far as there is so much; clusters.
    private func blocksNeeded() -> UInt64 {
        let names = plan.inodes.reduce(0) { $0 + $1.names.count }
        let steps = mappings.reduce(0) { $0 + $1.steps.count }
        let perName = Directory.insertBlocks + ExtentTree.nodesNeeded(depth: 1)
        let wanted =
            UInt64(names) * perName + UInt64(steps) * ExtentTree.nodesNeeded(depth: 2) + UInt64(plan.inodes.count)
        return min(wanted, volume.blocks.freeBlockCount >> UInt64(volume.layout.clusterShift))
    }

    private func object(_ inode: FastCommitInode) throws(Ext4Error) -> Inode {
        if let base = inode.base { return base }
        return try fileSystem.inodes.inode(inode.number, volume)
    }

    /// The names of a directory get a block; of a file the log tells the blocks.
    private func moveOut(
        _ inode: FastCommitInode, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        guard let base = inode.base else { return }
        let data = InlineData(volume: volume, inode: base)
        if inode.isDirectory { try data.moveOutNames(from: space, in: handle) } else { try data.drop(in: handle) }
    }

    private func removeNames(of directory: FastCommitInode, in handle: borrowing Handle) throws(Ext4Error) {
        guard let base = directory.base else { return }
        let view = Directory(volume: volume, inode: base)
        for (name, change) in directory.sortedNames {
            guard change.before != nil, change.before !== change.after else { continue }
            try view.remove(view.planRemove(name), in: handle)
        }
    }

    /// An inode without a name is deleted where its number is needed, and else becomes an orphan: its blocks may be
    /// more than one transaction can free.
    private func leave(_ inode: FastCommitInode, in handle: borrowing Handle) throws(Ext4Error) {
        guard let base = inode.base else { return }
        if inode.isDirectory {
            guard try Directory(volume: volume, inode: base).isEmpty() else {
                throw .corrupt("fast commit", where: "directory \(inode.number.rawValue) is removed and not empty")
            }
        }
        guard plan.isReused(inode) else {
            try base.update(in: handle, volume) { record throws(Ext4Error) in record.linkCount = 0 }
            return try fileSystem.orphans.add(base, volume, in: handle)
        }
        if base.hasMap { try freeBlocks(of: base, in: handle) }
        try fileSystem.free(base, in: handle)
    }

    private func freeBlocks(of inode: Inode, in handle: borrowing Handle) throws(Ext4Error) {
        let none = try volume.blocks.reserve(0, privileged: true)
        try inode.mapping.withWriteLock { () throws(Ext4Error) in
            let removed = try FileMap(volume, inode).replace(0..<1 << 32, with: [], from: none, in: handle)
            _ = try volume.free(removed, of: inode, in: handle)
        }
    }

    private func make(
        _ inode: FastCommitInode, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        guard var record = inode.record else { preconditionFailure("the plan has checked it") }
        for exposed in try volume.inodes.allocate(exactly: inode.number, isDirectory: inode.isDirectory, in: handle) {
            try Inode.clearSlot(exposed, volume, in: handle)
        }
        record.flags.subtract([.index, .hugeFile])
        record.deletionTime = 0
        record.blockCount = 0
        record.linkCount = inode.isDirectory ? 2 : UInt16(inode.nameCount)
        if inode.isDirectory { record.size = 0 }
        if inode.isDirectory && record.flags.contains(.inlineData) {
            record.flags.remove(.inlineData)
            record.makeEmptyMap(volume.superBlock)
        } else if record.flags.contains(.extents) {
            record.makeEmptyExtentRoot()
        }
        let object = try Inode(creating: inode.number, record, volume, in: handle)
        fileSystem.inodes.insert(object)
        if let parent = inode.parent, inode.isDirectory {
            try Directory(volume: volume, inode: object).initialize(parent: parent.number, from: space, in: handle)
        }
    }

    private func change(
        _ mapping: Mapping, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let inode = try object(mapping.inode)
        let tree = ExtentTree(volume: volume, inode: inode)
        try inode.mapping.withWriteLock { () throws(Ext4Error) in
            for run in mapping.taken { try volume.blocks.publish(run, in: handle) }
            for step in mapping.steps {
                _ = try tree.replace(step.range, with: step.new.map { [$0] } ?? [], from: space, in: handle)
            }
            // Only now is it known which clusters the file has nothing of any more.
            let freed = try volume.free(mapping.steps.compactMap(\.given), of: inode, in: handle)
            let taken = mapping.taken.reduce(0) { $0 + Int64($1.count >> volume.layout.clusterShift) }
            guard taken != freed else { return }
            try inode.update(in: handle, volume) { record throws(Ext4Error) in
                record.addClusters(taken - freed, volume.superBlock)
            }
        }
    }

    private func insertNames(
        of directory: FastCommitInode, from space: BlockReservation, in handle: borrowing Handle
    ) throws(Ext4Error) {
        let inode = try object(directory)
        let view = Directory(volume: volume, inode: inode)
        for (name, change) in directory.sortedNames {
            guard let target = change.after, change.before !== target else { continue }
            try view.insert(
                view.planInsert(name), inode: target.number, type: target.type?.entryCode ?? 0, from: space, in: handle)
        }
    }

    /// The fields that the log tells, but those that follow from names and mappings.
    private func setFields(of inode: FastCommitInode, in handle: borrowing Handle) throws(Ext4Error) {
        let subdirectories = inode.names.values.reduce(0) { count, change in
            count + (change.after?.isDirectory == true ? 1 : 0) - (change.before?.isDirectory == true ? 1 : 0)
        }
        let told = inode.base == nil ? nil : inode.record
        let object = try object(inode)
        if let told { try checkExtraSize(object, told) }
        if let value = inode.fields?.inlineValue { try takeInside(value, of: inode, object, in: handle) }
        let newest = told == nil ? inode.names.values.compactMap { $0.after?.record?.change }.max() : nil
        try object.update(in: handle, volume) { record throws(Ext4Error) in
            if let told { record.take(told) }
            // A directory that got a name changed no earlier than the inode behind it did.
            if let newest, inode.base != nil, newest > record.change {
                record.change = newest
                record.modification = max(record.modification, newest)
            }
            if inode.isDirectory {
                for _ in 0..<abs(subdirectories) { record.countDirectoryLink(subdirectories.signum()) }
            } else {
                record.linkCount = UInt16(inode.nameCount)
            }
        }
    }

    /// What is inside of a file becomes what the log tells.
    private func takeInside(
        _ value: [UInt8], of inode: FastCommitInode, _ object: Inode, in handle: borrowing Handle
    ) throws(Ext4Error) {
        guard let told = inode.record else { return }
        let attributes = ExtendedAttributes(volume: volume, inode: object)
        let plan = try attributes.plan(settingInlineValue: value)
        try object.update(in: handle, volume) { record throws(Ext4Error) in
            record.flags.remove(.extents)
            record.flags.insert(.inlineData)
            record.blockArea = told.blockArea
        }
        try attributes.apply(plan, from: nil, in: handle)
    }

    /// Attributes in the inode begin behind the fields: those cannot grow over them.
    private func checkExtraSize(_ inode: Inode, _ told: InodeRecord) throws(Ext4Error) {
        guard told.extraSize != inode.record.extraSize else { return }
        let attributes = ExtendedAttributes(volume: volume, inode: inode)
        let (names, value) = (try attributes.names(), try attributes.inlineValue())
        guard names.isEmpty, value == nil else {
            throw .corrupt("fast commit", where: "inode \(inode.number.rawValue) changes its size over its attributes")
        }
    }
}

extension InodeRecord {
    /// What a fast commit tells of an inode that is there already. What describes the mapping stays.
    fileprivate mutating func take(_ told: InodeRecord) {
        let own: Flags = [.index, .hugeFile, .extents, .inlineData, .encrypted, .verity, .casefold, .attributeInode]
        mode = told.mode
        uid = told.uid
        gid = told.gid
        if FileType(mode: mode) != .directory { size = told.size }
        access = told.access
        change = told.change
        modification = told.modification
        creation = told.creation
        flags = told.flags.subtracting(own).union(flags.intersection(own))
        version = told.version
        extraSize = told.extraSize
        project = told.project
    }
}
