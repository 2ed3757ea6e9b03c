import Allocator
import Ext4Format
import Foundation
import Journal
import Testing

@Suite struct InodeAllocatorTests {
    private func allocate(
        _ volume: Volume, parent: InodeNumber = .root, isDirectory: Bool = false, isTopLevel: Bool = false
    ) throws(Ext4Error) -> InodeNumber {
        try volume.change { handle throws(Ext4Error) in
            try volume.inodes.allocate(parent: parent, isDirectory: isDirectory, isTopLevel: isTopLevel, in: handle)
        }
    }

    private func free(_ volume: Volume, _ inode: InodeNumber, wasDirectory: Bool = false) throws(Ext4Error) {
        try volume.change { handle throws(Ext4Error) in
            try volume.inodes.free(inode, wasDirectory: wasDirectory, in: handle)
        }
    }

    /// The unused tail of an inode table stays long when low numbers go first, and a freed number is used again.
    @Test func theLowestFreeNumberIsTakenAndReused() throws {
        let volume = try Volume()
        // mke2fs has made lost+found, the first that is not reserved.
        let first = try allocate(volume)
        #expect(first == InodeNumber(12))
        #expect(try allocate(volume) == InodeNumber(13))
        #expect(try allocate(volume) == InodeNumber(14))
        try free(volume, InodeNumber(13))
        #expect(try volume.inodes.isAllocated(InodeNumber(13)) == false)
        #expect(try allocate(volume) == InodeNumber(13))
        #expect(try volume.inodes.isAllocated(InodeNumber(13)))
        #expect(try allocate(volume) == InodeNumber(15))
        let facts = try volume.groups.descriptor(GroupNumber(0))
        #expect(facts.unusedInodeCount == volume.superBlock.inodesPerGroup - 15)
    }

    /// A group whose inodes were never written gets a bitmap with the right padding at its first inode.
    @Test(arguments: Volume.Shape.all) func aGroupIsInitialisedAtItsFirstInode(shape: Volume.Shape) throws {
        let volume = try Volume(shape)
        let group = GroupNumber(volume.layout.groupCount - 1)
        let inode = try allocate(volume, parent: volume.layout.inode(5, in: group))
        #expect(inode == volume.layout.inode(0, in: group))
        let facts = try volume.groups.descriptor(group)
        #expect(facts.freeInodeCount == volume.superBlock.inodesPerGroup - 1)
        #expect(!volume.superBlock.hasGroupChecksums || !facts.flags.contains(.inodesUninitialized))
        try volume.journal.sync()
        try volume.audit()
        try free(volume, inode)
        try volume.journal.close()
        #expect(try volume.complaints() == "")
    }

    /// Every inode can be had, no number twice, then ENOSPC without any change; and all can be given back.
    @Test func allInodesCanBeTaken() throws {
        let volume = try Volume()
        let count = volume.inodes.freeInodeCount
        var taken: Set<InodeNumber> = []
        for index in 0..<count {
            let inode = try allocate(volume, isDirectory: index % 3 == 0, isTopLevel: index % 2 == 0)
            #expect(taken.insert(inode).inserted && inode.rawValue >= volume.superBlock.firstInode)
            if index % 3 == 0 {
                try free(volume, inode, wasDirectory: true)
                #expect(try allocate(volume, parent: inode) == inode)
            }
        }
        #expect(volume.inodes.freeInodeCount == 0)
        #expect(throws: Ext4Error.posix(ENOSPC)) { try allocate(volume) }
        #expect(!volume.journal.isAborted)
        for inode in taken { try free(volume, inode) }
        try volume.journal.close()
        #expect(try volume.complaints() == "")
    }

    /// A damaged directory entry must not free a reserved inode or one that is free.
    @Test func freeingWhatIsFreeOrReservedIsCorrupt() throws {
        let volume = try Volume()
        for number in [0, 1, 2, 8, 10, 100, volume.superBlock.inodeCount, volume.superBlock.inodeCount + 1, .max] {
            do {
                try free(volume, InodeNumber(number))
                Issue.record("freed inode \(number)")
            } catch {
                guard case .corrupt = error else { Issue.record("\(error)"); continue }
            }
        }
        #expect(!volume.journal.isAborted)
        #expect(throws: Ext4Error.self) { try volume.inodes.isAllocated(InodeNumber(0)) }
        #expect(try volume.inodes.isAllocated(.root))
    }

    /// Orlov: top-level directories spread over the flex groups, files and deeper directories stay with their parent.
    @Test func topLevelDirectoriesSpreadAndChildrenStay() throws {
        let volume = try Volume(.init("-b 1024 -g 1024 -G 2 -N 4096", kilobytes: 32_000))
        var homes: Set<GroupNumber> = []
        for _ in 0..<12 {
            let directory = try allocate(volume, isDirectory: true, isTopLevel: true)
            let home = try #require(volume.layout.place(of: directory)?.group)
            homes.insert(home)
            for _ in 0..<3 {
                let file = try allocate(volume, parent: directory)
                #expect(volume.layout.place(of: file)?.group == home)
            }
            let child = try allocate(volume, parent: directory, isDirectory: true)
            let distance = Int64(try #require(volume.layout.place(of: child)?.group.rawValue)) - Int64(home.rawValue)
            #expect(abs(distance) < 8)
        }
        #expect(homes.count >= 8)
        let sum = try volume.groups.sum()
        #expect(sum.directories == 2 + 24)
    }
}
