import Allocator
import BlockIO
import Ext4Format
import Foundation
import Journal
import Testing

/// What a damaged group may cost: itself, and nothing else.
@Suite struct DamageTests {
    private static func descriptor(_ bytes: [UInt8], _ group: UInt32, _ layout: VolumeLayout) -> GroupDescriptor {
        let place = layout.descriptor(of: GroupNumber(group))
        let start = Int(place.block.rawValue) * layout.blockByteCount
        return GroupDescriptor(
            decoding: bytes.span.bytes.extracting(start + place.bytes.lowerBound..<start + place.bytes.upperBound))
    }

    /// A bitmap with a wrong checksum takes its group out of use by name, is never rewritten, and the volume goes on.
    @Test func aDamagedBlockBitmapCostsItsGroupOnly() throws {
        var place = 0
        let volume = try Volume(damage: { bytes, layout in
            place = Int(Self.descriptor(bytes, 0, layout).blockBitmap.rawValue) * layout.blockByteCount
            bytes[place + 250] ^= 4
        })
        let old = Array(volume.device.bytes[place..<place + 1024])
        let lost = UInt64(try volume.groups.descriptor(GroupNumber(0)).freeBlockCount)
        let free = volume.blocks.freeBlockCount
        let run = try volume.take(10, goal: 600)
        #expect(volume.layout.place(of: run.start)?.group != GroupNumber(0))
        #expect(volume.groups.damage.count == 1)
        #expect("\(volume.groups.damage)".contains("block bitmap"))
        #expect(volume.blocks.freeBlockCount == free - lost - UInt64(run.count))
        #expect(throws: Ext4Error.self) { try volume.free(BlockRun(start: FSBlock(1999), count: 1)) }
        #expect(throws: Ext4Error.posix(ENOSPC)) { try volume.blocks.reserve(free - lost, privileged: true) }
        let space = try volume.blocks.reserve(volume.blocks.freeBlockCount, privileged: true)
        while space.remaining > 0 {
            let run = try volume.blocks.stage(upTo: 3000, goal: FSBlock(600), from: space)
            try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(run, in: handle) }
        }
        try volume.journal.close()
        #expect(Array(volume.device.bytes[place..<place + 1024]) == old, "a damaged bitmap was rewritten")
        #expect(volume.groups.damage.count == 1)
    }

    /// A descriptor with a wrong checksum takes its own group out of use, not those that share its block.
    @Test func aDamagedDescriptorCostsItsGroupOnly() throws {
        let volume = try Volume(damage: { bytes, layout in
            let place = layout.descriptor(of: GroupNumber(2))
            bytes[Int(place.block.rawValue) * layout.blockByteCount + place.bytes.lowerBound + 0xC] ^= 1
        })
        #expect(throws: Ext4Error.self) { try volume.groups.descriptor(GroupNumber(2)) }
        #expect(try volume.groups.descriptor(GroupNumber(3)).freeBlockCount > 0)
        let space = try volume.blocks.reserve(volume.blocks.freeBlockCount, privileged: true)
        while space.remaining > 0 {
            let run = try volume.blocks.stage(upTo: 3000, goal: FSBlock(5000), from: space)
            #expect(volume.layout.place(of: run.start)?.group != GroupNumber(2))
        }
        let inode = try volume.change { handle throws(Ext4Error) in
            try volume.inodes.allocate(
                parent: volume.layout.inode(3, in: GroupNumber(2)), isDirectory: false, isTopLevel: false, in: handle)
        }
        #expect(volume.layout.place(of: inode)?.group != GroupNumber(2))
    }

    /// A bitmap that goes bad on the device after its group was loaded is found when it is next changed: before any
    /// change, so the journal lives, and the group gives out nothing more.
    @Test func aBitmapThatGoesBadLaterIsNotRewritten() throws {
        let volume = try Volume()
        let first = try volume.take(10, goal: 600)
        try #require(volume.layout.place(of: first.start)?.group == GroupNumber(0))
        try volume.journal.commitNow()
        try volume.journal.checkpointNow()
        let bitmap = try volume.groups.descriptor(GroupNumber(0)).blockBitmap
        volume.cache.drop(bitmap, count: 1)
        let place = bitmap.rawValue * 1024
        let bad = [UInt8](repeating: 0xAA, count: 1024)
        try volume.device.write(bad.span.bytes, at: place, mode: .cached)
        let space = try volume.blocks.reserve(20, privileged: true)
        let run = try volume.blocks.stage(upTo: 10, goal: first.start, from: space)
        #expect(throws: Ext4Error.self) {
            try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(run, in: handle) }
        }
        volume.blocks.unstage(run)
        #expect(!volume.journal.isAborted && volume.groups.damage.count == 1)
        let other = try volume.blocks.stage(upTo: 10, goal: first.start, from: space)
        #expect(volume.layout.place(of: other.start)?.group != GroupNumber(0))
        try volume.change { handle throws(Ext4Error) in try volume.blocks.publish(other, in: handle) }
        #expect(throws: Ext4Error.self) { try volume.free(first) }
        try volume.journal.close()
        #expect(Array(volume.device.bytes[Int(place)..<Int(place) + 1024]) == bad)
    }

    /// The same for an inode bitmap; inodes of other groups can be had and freed.
    @Test func aDamagedInodeBitmapCostsItsGroupOnly() throws {
        let volume = try Volume(damage: { bytes, layout in
            let place = Int(Self.descriptor(bytes, 0, layout).inodeBitmap.rawValue) * layout.blockByteCount
            bytes[place] ^= 1
        })
        let inode = try volume.change { handle throws(Ext4Error) in
            try volume.inodes.allocate(parent: .root, isDirectory: false, isTopLevel: false, in: handle)
        }
        #expect(volume.layout.place(of: inode)?.group != GroupNumber(0))
        #expect("\(volume.groups.damage)".contains("inode bitmap"))
        #expect(throws: Ext4Error.self) { try volume.inodes.isAllocated(InodeNumber(2)) }
        #expect(!volume.journal.isAborted)
    }

    /// Any bytes in descriptors and bitmaps of a volume without checksums give errors or work, never a trap.
    @Test(arguments: [UInt64](1...12)) func randomDamageNeverTraps(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        let shape = Volume.Shape("-b 1024 -g 1024 -O ^metadata_csum,^uninit_bg,^64bit -N 512", kilobytes: 8_000)
        let volume = try Volume(
            shape,
            damage: { bytes, layout in
                let table = Int(layout.descriptor(of: GroupNumber(0)).block.rawValue) * layout.blockByteCount
                for _ in 0..<20 {
                    let byte = table + Int.random(in: 0..<Int(layout.groupCount) * 32, using: &random)
                    if seed % 2 == 0 { bytes[byte] = UInt8.random(in: 0...255, using: &random) }
                    let group = UInt32.random(in: 0..<layout.groupCount, using: &random)
                    let place = Int(Self.descriptor(bytes, group, layout).blockBitmap.rawValue) * layout.blockByteCount
                    if place + 1024 <= bytes.count {
                        bytes[place + Int.random(in: 0..<128, using: &random)] ^= UInt8.random(
                            in: 1...255, using: &random)
                    }
                }
            })
        var runs: [BlockRun] = []
        for _ in 0..<60 {
            let goal = UInt64.random(in: 0..<volume.superBlock.blockCount, using: &random)
            if let run = try? volume.take(UInt32.random(in: 1...300, using: &random), goal: goal) { runs.append(run) }
            let start = FSBlock(UInt64.random(in: 0...volume.superBlock.blockCount, using: &random))
            try? volume.free(BlockRun(start: start, count: UInt32.random(in: 0...2000, using: &random)))
            if let run = runs.randomElement(using: &random) { try? volume.free(run) }
            let parent = InodeNumber(UInt32.random(in: 0...volume.superBlock.inodeCount, using: &random))
            _ = try? volume.change { handle throws(Ext4Error) in
                try volume.inodes.allocate(parent: parent, isDirectory: false, isTopLevel: false, in: handle)
            }
            try? volume.change { handle throws(Ext4Error) in
                try volume.inodes.free(parent, wasDirectory: false, in: handle)
            }
            try? volume.journal.commitNow()
        }
        try? volume.journal.close()
    }
}
