internal import Ext4Format
internal import FileSystem
internal import Offline

/// The owner of a block, in words and in the fields of JSON Lines.
struct OwnerText {
    private let owner: BlockOwner
    private let path: [UInt8]?

    /// `path` is that of the inode, as far as it is known.
    init(_ owner: BlockOwner, path: [UInt8]?) {
        self.owner = owner
        self.path = path
    }

    var text: String {
        var text = (owner.isFormer ? "formerly " : "") + what
        if let group = owner.copyInGroup { text += " (copy in group \(group))" }
        if let inode = owner.inode { text += " of inode \(inode.rawValue)" }
        if let path { text += " \(PrintableText.of(path))" }
        return text
    }

    private var what: String {
        let group = owner.groups.map { "\($0.lowerBound)" } ?? "?"
        let block = owner.fileBlock.map { " block \($0.rawValue)" } ?? ""
        switch owner.kind {
        case .groupDescriptors:
            guard let groups = owner.groups else { return "group descriptors" }
            return groups.count == 1
                ? "group descriptor of group \(group)"
                : "group descriptors of groups \(group)-\(groups.upperBound)"
        case .blockBitmap, .inodeBitmap: return "\(owner.kind.rawValue) of group \(group)"
        case .inodeTable:
            let inodes = owner.inodes.map { ", inodes \($0.lowerBound)-\($0.upperBound)" } ?? ""
            return "inode table of group \(group)\(inodes)"
        case .extentNode: return "extent node of depth \(owner.level ?? 0)"
        case .indirectBlock: return "indirect block of level \(owner.level ?? 0)"
        case .superBlock, .reservedDescriptors, .attributes: return owner.kind.rawValue
        case .directory, .symlink, .file, .attributeValue, .journal, .orphanFile, .quota:
            return owner.kind.rawValue + block
        }
    }

    static func add(_ owner: OwnerText?, to line: inout JSONLine) {
        line.add("owner", owner?.text)
        guard let found = owner?.owner else { return }
        line.add("owner_kind", found.kind.rawValue)
        line.add("former", found.isFormer)
        if let groups = found.groups {
            line.add("first_group", groups.lowerBound)
            line.add("last_group", groups.upperBound)
        }
        if let group = found.copyInGroup { line.add("copy_in_group", group) }
        if let inodes = found.inodes {
            line.add("first_inode", inodes.lowerBound)
            line.add("last_inode", inodes.upperBound)
        }
        if let inode = found.inode { line.add("inode", inode.rawValue) }
        if let block = found.fileBlock { line.add("file_block", block.rawValue) }
        if let level = found.level { line.add("level", level) }
        if let path = owner?.path { line.add("path", PrintableText.of(path)) }
    }
}
