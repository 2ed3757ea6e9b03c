import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// Volumes with clusters of several blocks (bigalloc): what differs from others.
@Suite struct ClusterTests {
    /// P2 and P3 where blocks are given up of a cluster that stays the file's: what is written there next must not show
    /// in what was there, and what is left must not be lost.
    enum Cut: CaseIterable {
        case punch, truncate, truncateWithinABlock, preallocateAgain

        func append(to work: inout WorkloadBuilder, _ unit: Int) {
            switch self {
            case .punch: work.punch("f", at: unit, count: 2 * unit)
            case .truncate: work.truncate("f", to: 6 * unit)
            case .truncateWithinABlock: work.truncate("f", to: 6 * unit - 300)
            case .preallocateAgain:
                work.punch("f", at: unit, count: 2 * unit)
                work.allocate("f", at: unit, count: 2 * unit, keepsSize: true)
            }
        }
    }

    @Test(arguments: Cut.allCases, [TestVolume.clusters, .largeClusters])
    func whatIsGivenUpOfAClusterIsNotWrittenTooEarly(cut: Cut, volume: TestVolume) throws {
        let unit = volume.blockByteCount
        var work = WorkloadBuilder(ModelTree(blockByteCount: unit))
        work.create("f")
        work.write("f", at: 0, count: 11 * unit + 321)
        work.write("f", at: 14 * unit, count: unit)
        work.syncAll()
        cut.append(to: &work, unit)
        work.write("f", at: unit + 17, count: unit)
        work.write("f", at: 6 * unit, count: 3 * unit)
        work.create("g")
        work.sync("g")
        cut.append(to: &work, unit)
        work.write("f", at: 12 * unit, count: unit)
        var campaign = CrashCampaign(seed: 901, volume: volume, operations: work.operations)
        campaign.name = "clusters: \(cut)"
        try campaign.runThroughAllStates(moreThan: 5)
    }

    /// Threads that write different blocks of one cluster get it once, and none waits for ever.
    @Test(arguments: 1...6) func threadsShareTheClustersOfAFile(seed: Int) throws {
        let work = ConcurrentWorkload(seed: UInt64(seed), threadCount: 3, profile: .shared(30))
        let found = try ConcurrentCampaign(volume: .clusters, work).failures()
        #expect(found.list.isEmpty && found.stateCount > 20, "\(found.list.joined(separator: "\n"))")
    }

    /// What the server accepts is there after an unmount, up to the last cluster; what is there already can be written
    /// over when there is none; and all comes back.
    @Test(arguments: [TestVolume.clusters, .largeClusters])
    func aVolumeIsFilledToItsLastCluster(volume: TestVolume) throws {
        let disk = OverlayDevice(over: MemoryDevice(try volume.make()))
        var system = try FileSystem.mount(on: disk, options: .deterministic())
        let before = system.statistics(), perCluster = UInt64(volume.clusterByteCount / volume.blockByteCount)
        var files: [InodeNumber] = []
        var isFull = false
        while !isFull {
            let name = try FileName(Array("f\(files.count)".utf8))
            do {
                let file = try system.createFile(name, in: .root, mode: 0o644, caller: .root).inode
                files.append(file)
                for index in 0..<40 {
                    try Self.write(system, file, at: index * 3 * volume.clusterByteCount, count: 100)
                }
            } catch Ext4Error.posix(Errno.noSpace) { isFull = true }
        }
        // A node of the map may have to be found as well, so that the last ones are not for data.
        #expect(system.statistics().availableBlocks < 4 * perCluster)
        for file in files.dropLast() {
            let used = try system.attributes(of: file).sectorCount
            try Self.write(system, file, at: 10, count: 20)
            #expect(try system.attributes(of: file).sectorCount == used)
        }
        try system.unmount()
        #expect(try Structure.complaints(of: disk) == [])
        system = try FileSystem.mount(on: disk, options: .deterministic())
        for index in files.indices {
            let name = try FileName(Array("f\(index)".utf8))
            #expect(try system.lookup(name, in: .root)?.inode == files[index])
            try system.unlink(name, in: .root)
            system.forget(files[index], count: 1)
        }
        try system.syncAll()
        let kept = try system.attributes(of: .root).sectorCount * 512 / UInt64(volume.blockByteCount)
        #expect(system.statistics().freeBlocks + kept - perCluster == before.freeBlocks)
        try system.unmount()
        #expect(try Structure.complaints(of: disk) == [])
    }

    private static func write(_ system: FileSystem, _ file: InodeNumber, at offset: Int, count: Int) throws {
        let bytes = [UInt8](repeating: 0x61, count: count)
        let done = try system.write(file, at: UInt64(offset), bytes.span.bytes)
        #expect(done == count)
    }

    /// One cluster serves all blocks of the file that belong into it, in whatever order they come; it goes with the
    /// last of them.
    @Test func aClusterIsGivenOutOnce() throws {
        let volume = TestVolume.clusters, unit = volume.blockByteCount
        let disk = OverlayDevice(over: MemoryDevice(try volume.make()))
        let system = try FileSystem.mount(on: disk, options: .deterministic())
        let file = try system.createFile(try FileName(Array("f".utf8)), in: .root, mode: 0o644, caller: .root).inode
        let free = system.statistics().freeBlocks
        func expectClusters(_ count: UInt64) throws {
            #expect(try system.attributes(of: file).sectorCount == count * UInt64(volume.clusterByteCount) / 512)
            try system.syncAll()
            #expect(system.statistics().freeBlocks == free - count * 4)
        }
        for block in [6, 4, 7, 1] { try Self.write(system, file, at: block * unit, count: unit) }
        try expectClusters(2)
        #expect(try system.deviceBlock(of: file, at: 4) + 2 == system.deviceBlock(of: file, at: 6))
        #expect(try system.deviceBlock(of: file, at: 1) % 4 == 1)
        let punch: AllocationMode = [.punchHole, .keepSize]
        try system.allocate(file, at: UInt64(4 * unit), count: UInt64(3 * unit), mode: punch)
        try expectClusters(2)
        try system.allocate(file, at: UInt64(7 * unit), count: UInt64(unit), mode: punch)
        try expectClusters(1)
        try system.allocate(file, at: 0, count: UInt64(9 * unit), mode: .keepSize)
        try expectClusters(3)
        #expect(throws: Ext4Error.posix(Errno.invalid)) {
            try system.allocate(file, at: UInt64(unit), count: UInt64(unit), mode: .collapseRange)
        }
        try system.unmount()
        #expect(try Structure.complaints(of: disk) == [])
    }

    /// FITRIM takes the free clusters that lie in the range as a whole.
    @Test func whatIsTrimmedIsWholeClusters() throws {
        let volume = TestVolume.clusters, unit = UInt64(volume.clusterByteCount)
        let disk = OverlayDevice(over: MemoryDevice(try volume.make()))
        let system = try FileSystem.mount(on: disk, options: .deterministic())
        let statistics = system.statistics(), length = UInt64(volume.byteCount)
        let all = try system.trim(from: 0, count: length, least: 0)
        #expect(all == statistics.freeBlocks * UInt64(volume.blockByteCount))
        // Groups are of 2,048 clusters, and the second is free up to its end.
        let end = 2 * 2048 * unit
        #expect(try system.trim(from: end - 3 * unit, count: unit, least: 0) == unit)
        #expect(try system.trim(from: end - 3 * unit + 1024, count: 2 * unit, least: 0) == unit)
        #expect(try system.trim(from: end - 3 * unit + 1024, count: 2048, least: 0) == 0)
        #expect(try system.trim(from: 0, count: length, least: 2 * unit) <= all)
        try system.unmount()
        #expect(try Structure.complaints(of: disk) == [])
    }

    /// P6: maps that put blocks out of their place in a cluster, or two files into one, are damage and no trap.
    @Test(arguments: [UInt64](1...40)) func damagedMapsTrapNobody(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var image = try DamagedImage(ImageTree.Kind.clusters.tree())
        let paths = ["/file", "/plain", "/sparse", "/many"]
        let inodes = paths.map { image.inode($0) }
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            let offset = 12 + Int.random(in: 0..<28, using: &random), change = UInt8.random(in: 1...20, using: &random)
            if random.once(in: 2) {
                try image.editExtentBlock("/sparse") { $0[LE<UInt8>(offset * 4)] &+= change }
            } else {
                let inode = [inodes[0], inodes[1], inodes[3]][Int.random(in: 0..<3, using: &random)]
                try image.editInode(inode) { $0[LE<UInt8>(0x28 + offset)] &+= change }
            }
        }
        let disk = OverlayDevice(over: MemoryDevice(image.bytes))
        guard let system = try? FileSystem.mount(on: disk, options: .deterministic()) else { return }
        for inode in inodes.prefix(3) {
            var changes = AttributeChanges()
            for _ in 0..<6 {
                let offset = Int.random(in: 0..<70_000, using: &random)
                try? Self.write(system, inode, at: offset, count: 3_000)
                try? system.allocate(inode, at: UInt64(offset / 2), count: 5_000, mode: [.punchHole, .keepSize])
                try? system.allocate(inode, at: UInt64(offset / 3), count: 9_000, mode: .keepSize)
                changes.size = UInt64(offset)
                _ = try? system.setAttributes(of: inode, changes)
            }
        }
        for number in 0..<20 {
            _ = try? system.createFile(FileName(Array("n\(number)".utf8)), in: inodes[3], mode: 0o644, caller: .root)
        }
        for path in paths.prefix(3) { try? system.unlink(FileName(Array(path.utf8.dropFirst())), in: .root) }
        try? system.unmount()
    }

    /// A truncate moves a cluster of many pieces whole, whatever the journal can hold.
    @Test(arguments: [65_536, 1 << 20]) func aClusterOfManyPiecesIsCut(clusterByteCount: Int) throws {
        let volume = TestVolume(
            "1k-large-clusters", block: 1024, mebibytes: 64, journal: 1, "-O", "bigalloc", "-C", "\(clusterByteCount)")
        let disk = OverlayDevice(over: MemoryDevice(try volume.make()))
        let system = try FileSystem.mount(on: disk, options: .deterministic())
        let file = try system.createFile(try FileName(Array("f".utf8)), in: .root, mode: 0o644, caller: .root).inode
        for offset in stride(from: 0, to: clusterByteCount, by: 2048) {
            try Self.write(system, file, at: offset, count: 1024)
        }
        var changes = AttributeChanges()
        for size in [clusterByteCount / 2 + 100, clusterByteCount / 4 + 1023, 100] {
            changes.size = UInt64(size)
            _ = try system.setAttributes(of: file, changes)
            #expect(try system.attributes(of: file).size == UInt64(size))
        }
        // The map keeps its depth, of one or two nodes.
        #expect(try system.attributes(of: file).sectorCount <= UInt64(3 * clusterByteCount / 512))
        try system.unmount()
        #expect(try Structure.complaints(of: disk) == [])
    }

    /// Blocks of a cluster do not move one by one.
    @Test func nothingIsWrittenOutOfPlace() throws {
        let disk = OverlayDevice(over: MemoryDevice(try TestVolume.clusters.make()))
        var options = MountOptions.deterministic()
        options.outOfPlace = true
        #expect { try FileSystem.mount(on: disk, options: options) } throws: { "\($0)".contains("bigalloc") }
        let system = try FileSystem.mount(on: disk, options: .deterministic())
        let file = try system.createFile(try FileName(Array("f".utf8)), in: .root, mode: 0o644, caller: .root).inode
        #expect(throws: Ext4Error.posix(Errno.notSupported)) {
            try system.setExtendedAttribute(
                FileSystem.outOfPlaceAttribute, of: file, to: [0x31], create: false, replace: false)
        }
        #expect(throws: Ext4Error.posix(Errno.notSupported)) {
            try system.startBatch(file, owner: BatchOwner(process: 1, handle: 1), by: .root)
        }
        #expect(!system.mayDelegate)
        try system.unmount()
    }
}
