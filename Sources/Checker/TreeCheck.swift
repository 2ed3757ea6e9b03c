internal import Ext4Format

/// What the names of all directories together must give: one tree, and the link counts.
extension Survey {
    /// A directory with more links than this may say 1 instead (dir_nlink).
    private static var mostLinks: Int { 65_000 }

    func checkTree() {
        guard kinds[Int(InodeNumber.root.rawValue)] == 4 else {
            return report(.reachable, inode: .root, "the root is no directory in use")
        }
        parents[Int(InodeNumber.root.rawValue)] = InodeNumber.root.rawValue
        for directory in directories { checkParent(directory) }
        checkReachable()
        checkLinks()
    }

    private func checkParent(_ directory: Directory) {
        let named = parents[Int(directory.inode.rawValue)]
        if named == 0 {
            report(.directoryNames, inode: directory.inode, "it has none")
        } else if directory.parent != named {
            report(.dots, inode: directory.inode, "\"..\" is inode \(directory.parent), and \(named) has its name")
        }
    }

    /// Goes up from each directory until it meets one that is known.
    private func checkReachable() {
        var isKnown = [Bool](repeating: false, count: kinds.count)
        isKnown[Int(InodeNumber.root.rawValue)] = true
        var reached = isKnown
        for directory in directories {
            var path: [Int] = [], at = Int(directory.inode.rawValue)
            while at != 0, !isKnown[at] {
                isKnown[at] = true
                path.append(at)
                at = Int(parents[at])
            }
            // Known and not reached: an end without a parent, or the path bites its own tail.
            guard at != 0, reached[at] else {
                report(.reachable, inode: directory.inode, "its parents do not lead to the root")
                continue
            }
            for inode in path { reached[inode] = true }
        }
    }

    private func checkLinks() {
        for directory in directories {
            let links = Int(linkCounts[Int(directory.inode.rawValue)])
            var expected = 2 + directory.subdirectoryCount
            let mayOverflow = superBlock.features.readOnlyCompatible.contains(.directoryLinks)
            if expected > Self.mostLinks, mayOverflow { expected = 1 }
            if links != expected { report(.linkCount, inode: directory.inode, "\(links) instead of \(expected)") }
        }
        for number in Int(superBlock.firstInode)..<kinds.count where kinds[number] != 0 && kinds[number] != 4 {
            // These two are named by the super block.
            let isNamed = number == superBlock.orphanFileInode || number == superBlock.journalInode
            let expected = isNamed && nameCounts[number] == 0 ? 1 : nameCounts[number]
            if UInt32(linkCounts[number]) != expected {
                report(.linkCount, inode: InodeNumber(UInt32(number)), "\(linkCounts[number]) instead of \(expected)")
            }
        }
    }
}
