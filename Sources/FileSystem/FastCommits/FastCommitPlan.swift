internal import Ext4Format
internal import Journal

/// One inode from its making to its removal: fast commits may free a number and give it out again.
final class FastCommitInode {
    typealias NameChange = (before: FastCommitInode?, after: FastCommitInode?)

    let number: InodeNumber
    /// The inode as it is on disk; nil for one that the log makes.
    let base: Inode?
    private(set) var type: FileType?
    /// Names on disk. A directory has one, whatever its link count.
    private let baseNameCount: Int
    /// The fields as the log last tells them; nil when it does not. An inode with neither these nor a base was made and
    /// removed within the log, which tells only some of its names.
    private(set) var fields: FastCommitFields?
    var record: InodeRecord? { fields?.record }
    var edits = RangeEdits()
    /// Of a directory: the names that differ from those on disk, before and after.
    var names: [FileName: NameChange] = [:]
    /// Of a directory: where the log has put it.
    var parent: FastCommitInode?
    /// Of a directory: names that were looked for on disk and are not there.
    var missing: Set<FileName> = []
    /// Of a directory that the log makes: known to hang on one that is there.
    var isRooted = false
    /// Names that came less those that went.
    private(set) var nameChange = 0
    private var wasNamed: Bool

    init(number: InodeNumber, base: Inode?, fields: FastCommitFields?) {
        self.number = number
        self.base = base
        self.fields = fields
        let (mode, links) = base?.field { ($0.mode, Int($0.linkCount)) } ?? (fields?.record.mode ?? 0, 0)
        type = FileType(mode: mode)
        baseNameCount = type == .directory ? min(links, 1) : links
        wasNamed = baseNameCount > 0
    }

    func addName() {
        nameChange += 1
        wasNamed = true
    }
    func dropName() { nameChange -= 1 }
    /// It had a name, and has none any more.
    var hasEnded: Bool { wasNamed && !isAlive }

    var isDirectory: Bool { type == .directory }
    /// In an order of their own, so that the same log is always carried out alike.
    var sortedNames: [(key: FileName, value: NameChange)] {
        names.sorted { $0.key.bytes.lexicographicallyPrecedes($1.key.bytes) }
    }
    var generation: UInt32? { base?.generation ?? record?.generation }

    /// Later fields of the same life.
    func tell(_ fields: FastCommitFields) throws(Ext4Error) {
        guard FileType(mode: fields.record.mode) == type else {
            throw .corrupt("fast commit", where: "inode \(number.rawValue) changes its type")
        }
        self.fields = fields
    }

    /// Of anything but a directory: its data are inside of it in the end.
    var hasDataInside: Bool { !isDirectory && (fields.map { $0.inlineValue != nil } ?? (base?.isInline == true)) }
    /// What is inside on disk gets blocks: data because the log says so, names because some of them change.
    var movesOut: Bool { base?.isInline == true && (isDirectory ? !names.isEmpty : !hasDataInside) }

    var isToldExtents: Bool { record?.flags.contains(.extents) == true }

    /// Names that lead to it in the end. Counted from the names themselves, so that the link counts are right whatever
    /// the log says of them.
    var nameCount: Int { baseNameCount + nameChange }
    var isAlive: Bool { number == .root || nameCount > 0 }
}

/// What a volume must become so that its fast commits have happened: the records of all of them put together, and
/// compared with what is on disk. Nothing is changed.
///
/// A log tells of a directory's blocks where they were to be, and not what is in them: so ranges of directories are
/// left out, and their blocks follow from the names. In the same way link counts follow from names, and block counts
/// from mappings.
struct FastCommitPlan {
    private let fileSystem: FileSystem
    private var volume: Volume { fileSystem.volume }
    /// By number, in the order of their lives; at most the first is on disk.
    private var lives: [InodeNumber: [FastCommitInode]] = [:]
    /// In the order of their first mention, so that the same log is always carried out alike.
    private(set) var inodes: [FastCommitInode] = []
    /// The fields that the log has yet to tell of each number, the next ones last.
    private var upcoming: [InodeNumber: [FastCommitFields]] = [:]

    /// `.corrupt` when the records contradict each other or the volume, `.unsupported` for what cannot be replayed.
    init(_ log: FastCommitLog, on fileSystem: FileSystem) throws(Ext4Error) {
        self.fileSystem = fileSystem
        for record in log.records {
            guard case .inode(let number, let bytes) = record else { continue }
            upcoming[number, default: []].append(try FastCommitFields(bytes, number, volume))
        }
        for number in upcoming.keys { upcoming[number]?.reverse() }
        for record in log.records { try take(record) }
        for inode in inodes {
            dropBlocks(of: inode)
            try check(inode)
        }
    }

    /// A file that got shorter keeps no blocks behind its end but those that the log names. One with its data inside
    /// has none, and what older kernels log of it when it is cut are its data, taken for the numbers of blocks.
    private func dropBlocks(of inode: FastCommitInode) {
        if inode.hasDataInside { inode.edits = RangeEdits() }
        guard inode.type == .regular, let base = inode.base, let size = inode.record?.size, size < base.size else {
            return
        }
        let unit = UInt64(volume.blockByteCount)
        inode.edits.removeFirst((size + unit - 1) / unit..<1 << 32)
    }

    /// Whether the number of a dead inode was given out again.
    func isReused(_ inode: FastCommitInode) -> Bool { lives[inode.number]?.last !== inode }

    private static func corrupt(_ what: String) -> Ext4Error { .corrupt("fast commit", where: what) }

    // MARK: Records

    private mutating func take(_ record: FastCommitRecord) throws(Ext4Error) {
        switch record {
        case .inode(let number, _): try takeInode(number)
        case .addRange(let number, let extent):
            guard extent.start.rawValue < volume.superBlock.blockCount,
                UInt64(extent.count) <= volume.superBlock.blockCount - extent.start.rawValue
            else { throw Self.corrupt("inode \(number.rawValue): blocks past the end of the volume") }
            let offset = UInt64(volume.superBlock.clusterBlockCount - 1)
            guard (extent.start.rawValue ^ UInt64(extent.first.rawValue)) & offset == 0 else {
                throw Self.corrupt("inode \(number.rawValue): blocks that are out of place in their cluster")
            }
            if let inode = try mapped(number) { inode.edits.add(extent) }
        case .deleteRange(let number, let range):
            if let inode = try mapped(number) { inode.edits.remove(range) }
        case .create(let name): try takeName(name, isCreation: true)
        case .link(let name): try takeName(name, isCreation: false)
        case .unlink(let name): try takeRemoval(name)
        case .pad, .tail, .head: break
        }
    }

    /// The last life of a number; nil when it is free on disk and in the log.
    private mutating func current(_ number: InodeNumber) throws(Ext4Error) -> FastCommitInode? {
        if let known = lives[number] { return known.last }
        guard volume.layout.place(of: number) != nil,
            number == .root || number.rawValue >= volume.superBlock.firstInode,
            number.rawValue != volume.superBlock.orphanFileInode
        else { throw Self.corrupt("inode \(number.rawValue) is none that a file can have") }
        guard try volume.inodes.isAllocated(number) else { return nil }
        let inode = FastCommitInode(number: number, base: try fileSystem.inodes.inode(number, volume), fields: nil)
        add(inode)
        return inode
    }

    private mutating func add(_ inode: FastCommitInode) {
        lives[inode.number, default: []].append(inode)
        inodes.append(inode)
    }

    /// The life of a number that a name or a range is about.
    ///
    /// Linux tells a name or a range before the fields of its inode now and then, but for a creation, and leaves out
    /// the making of what is gone again by the time of the commit, but not its other names. So where the last life has
    /// no name, the fields that come next say whose record this is; and where none come, it may be of somebody gone.
    private mutating func life(of number: InodeNumber, isCreation: Bool = false) throws(Ext4Error) -> FastCommitInode {
        let current = try current(number)
        if let current {
            if current.isAlive || current.generation == nil { return current }
            if isCreation && current.base == nil && !current.hasEnded { return current }
        }
        let next = upcoming[number]?.last
        if let current, let next, current.generation == next.record.generation { return current }
        if let current, next == nil, !current.hasEnded { return current }
        let inode = FastCommitInode(number: number, base: nil, fields: next)
        add(inode)
        return inode
    }

    /// Nil when the number is not, or no more, a directory: then its names are gone as well.
    private mutating func directory(_ number: InodeNumber) throws(Ext4Error) -> FastCommitInode? {
        guard let inode = try current(number), inode.isAlive, inode.generation != nil else { return nil }
        guard inode.isDirectory else { throw Self.corrupt("inode \(number.rawValue) is no directory") }
        return inode
    }

    /// The inode whose mapping a range changes; nil for a directory, and for what is gone.
    private mutating func mapped(_ number: InodeNumber) throws(Ext4Error) -> FastCommitInode? {
        let inode = try life(of: number)
        switch inode.type {
        case .directory, nil: return nil
        case .regular, .symlink: return inode
        default: throw Self.corrupt("inode \(number.rawValue) has no blocks")
        }
    }

    private mutating func takeInode(_ number: InodeNumber) throws(Ext4Error) {
        guard let fields = upcoming[number]?.popLast() else { preconditionFailure("each was decoded before") }
        guard let inode = try current(number) else {
            return add(FastCommitInode(number: number, base: nil, fields: fields))
        }
        if inode.generation == fields.record.generation { return try inode.tell(fields) }
        guard !inode.isAlive else { throw Self.corrupt("inode \(number.rawValue) is reused while it has a name") }
        add(FastCommitInode(number: number, base: nil, fields: fields))
    }

    // MARK: Names

    private mutating func takeName(_ name: FastCommitRecord.Name, isCreation: Bool) throws(Ext4Error) {
        let inode = try life(of: name.inode, isCreation: isCreation)
        guard inode.number != .root else { throw Self.corrupt("a name for the root") }
        guard let parent = try directory(name.parent) else { return }
        try set(try FileName(name.bytes), in: parent, to: inode)
        guard inode.isDirectory else { return }
        if let base = inode.base, try Directory(volume: volume, inode: base).parent() != parent.number {
            throw Self.corrupt("directory \(inode.number.rawValue) moves to another one")
        }
        inode.parent = parent
    }

    /// A name that is not there, or leads elsewhere by now, has been taken away already.
    private mutating func takeRemoval(_ name: FastCommitRecord.Name) throws(Ext4Error) {
        let fileName = try FileName(name.bytes)
        guard let parent = try directory(name.parent),
            let inode = try target(of: fileName, in: parent), inode.number == name.inode
        else { return }
        try set(fileName, in: parent, to: nil)
    }

    private mutating func target(
        of name: FileName, in directory: FastCommitInode
    ) throws(Ext4Error) -> FastCommitInode? {
        if let change = directory.names[name] { return change.after }
        guard let base = directory.base, !directory.missing.contains(name) else { return nil }
        guard let entry = try Directory(volume: volume, inode: base).lookup(name) else {
            directory.missing.insert(name)
            return nil
        }
        _ = try current(entry.inode)
        guard let first = lives[entry.inode]?.first, first.base != nil else {
            throw Self.corrupt("a name for inode \(entry.inode.rawValue), which is free")
        }
        return first
    }

    private mutating func set(
        _ name: FileName, in directory: FastCommitInode, to inode: FastCommitInode?
    ) throws(Ext4Error) {
        let old = try target(of: name, in: directory)
        let before = directory.names[name].map { $0.before } ?? old
        old?.dropName()
        inode?.addName()
        directory.names[name] = (before, inode)
    }

    // MARK: The whole

    private func check(_ inode: FastCommitInode) throws(Ext4Error) {
        let place = "inode \(inode.number.rawValue)"
        guard inode.nameCount >= 0, inode.nameCount <= (inode.isDirectory ? 1 : Int(FileSystem.maximumLinks)) else {
            throw Self.corrupt("\(place): \(inode.nameCount) names")
        }
        for change in inode.names.values {
            guard let target = change.after else { continue }
            guard inode.isAlive, target.isAlive else { throw Self.corrupt("\(place): a name in or of what is gone") }
        }
        guard inode.isAlive else { return }
        if let base = inode.base {
            guard inode.edits.isEmpty || base.hasExtents || inode.movesOut && inode.isToldExtents else {
                throw .unsupported(features: ["^extent"], hint: "\(place) is mapped by indirect blocks")
            }
            if inode.hasDataInside, try FileMap(volume, base).last() != nil {
                throw Self.corrupt("\(place) takes its data inside, and has blocks")
            }
            guard inode.record.map({ $0.attributeBlock == base.record.attributeBlock }) ?? true else {
                throw Self.corrupt("\(place) changes its attribute block")
            }
        } else {
            try checkNew(inode)
        }
    }

    private func checkNew(_ inode: FastCommitInode) throws(Ext4Error) {
        let place = "inode \(inode.number.rawValue)"
        guard let record = inode.record else { throw Self.corrupt("\(place) has no fields") }
        guard inode.number != .root, record.attributeBlock == 0 else {
            throw Self.corrupt("\(place) is made with an attribute block")
        }
        let strange = record.flags.intersection([.encrypted, .verity, .casefold, .attributeInode])
        guard strange.isEmpty else {
            throw .unsupported(features: ["inode flags \(strange.rawValue)"], hint: "\(place) cannot be made anew")
        }
        let isInside = record.flags.contains(.inlineData)
        let needsExtents = !isInside && (inode.type == .regular || inode.isDirectory) || !inode.edits.isEmpty
        guard inode.isToldExtents || !needsExtents else {
            throw .unsupported(features: ["^extent"], hint: "\(place) is mapped by indirect blocks")
        }
        guard inode.isDirectory else { return }
        // A directory that the log makes hangs on one that is there: no ring of new ones.
        var way = [inode]
        while let above = way[way.count - 1].parent, above.isAlive, way.count <= inodes.count {
            guard above.base == nil, !above.isRooted else {
                for directory in way { directory.isRooted = true }
                return
            }
            way.append(above)
        }
        throw Self.corrupt("\(place): a directory without a way to the root")
    }
}
