import Ext4Format
import Testing

private func attribute(_ name: String, _ value: [UInt8]) throws -> ExtendedAttribute {
    ExtendedAttribute(name: try ExtendedAttributeName(full: bytes(name)), value: value)
}

@Suite struct ExtendedAttributeTests {
    /// What debugfs writes into an inode and into a block is what other systems will hand us.
    @Test(
        .enabled(if: ExtendedAttributeImage.hasTools, "needs e2fsprogs"),
        arguments: ["metadata_csum", "^metadata_csum"])
    func attributesThatDebugfsWroteAreRead(feature: String) throws {
        let image = try ExtendedAttributeImage(["-b", "1024", "-I", "256", "-O", feature])
        _ = try image.debugfs("mkdir d")
        let long = (0..<500).map { UInt8(truncatingIfNeeded: $0 * 7) }
        try image.set("user.short", bytes("abc"), on: "d")
        try image.set("user.long", long, on: "d")
        try image.set("trusted.t", bytes("12345"), on: "d")
        try image.set("security.selinux", bytes("system_u:object_r"), on: "d")
        let found = try image.attributes(of: "d")
        #expect(!found.inode.isEmpty && found.block.contains { $0.value == long })
        let all = Dictionary(uniqueKeysWithValues: (found.inode + found.block).map { ($0.name.full, $0.value) })
        #expect(
            all == [
                bytes("user.short"): bytes("abc"), bytes("user.long"): long, bytes("trusted.t"): bytes("12345"),
                bytes("security.selinux"): bytes("system_u:object_r"),
            ])
    }

    /// The kernel shares blocks by their hash and e2fsck checks each entry's, so both must be the kernel's own.
    @Test(.enabled(if: ExtendedAttributeImage.hasKernelMounts, "needs root, loop devices, setfattr, setfacl"))
    func hashesAreTheKernelsForBlocksThatItWrote() throws {
        let image = try ExtendedAttributeImage(["-b", "1024", "-I", "128"])
        try image.mounted(
            """
            touch $M/f
            setfattr -n user.\u{e9}t\u{e9} -v summer $M/f
            setfattr -n user.bb -v 12345 $M/f
            setfattr -n user.a -v x $M/f
            setfattr -n trusted.\u{3b1} -v four $M/f
            setfattr -n user.empty $M/f
            setfacl -m u:77:rw $M/f
            """)
        let found = try image.attributes(of: "f"), number = try #require(found.number)
        #expect(found.inode.isEmpty && found.block.count == 6)
        let theirs = try image.block(number)
        var ours = ExtendedAttributeBlock.encode(found.block.reversed(), byteCount: 1024)
        #expect(ours[0xC..<0x10] == theirs[0xC..<0x10])
        try ours.withVerified(at: number, image.superBlock)
        let again = try ExtendedAttributeBlock.decode(ours.span.bytes, at: number)
        #expect(again.map(\.name) == found.block.map(\.name))
        #expect(again.map { Array(ours[$0.value]) } == found.block.map(\.value))
    }

    /// A block that e2fsck or the kernel does not accept would cost the user the attributes.
    @Test(.enabled(if: ExtendedAttributeImage.hasTools, "needs e2fsprogs"), arguments: [1024, 4096])
    func aBlockThatWeWroteIsAcceptedByE2fsck(blockByteCount: Int) throws {
        let image = try ExtendedAttributeImage(["-b", "\(blockByteCount)", "-I", "128", "-O", "metadata_csum"])
        _ = try image.debugfs("mkdir d")
        try image.set("user.first", bytes("1"), on: "d")
        let number = try #require(try image.attributes(of: "d").number)
        let attributes = try [
            attribute("user.zeta", bytes("last letter")), attribute("user.\u{e9}", bytes("not ASCII")),
            attribute("user.empty", []), attribute("security.x", [UInt8](repeating: 7, count: 401)),
            attribute("user.b", [0, 255, 0, 255, 1]), attribute("trusted.q", bytes("abcd")),
        ]
        var block = ExtendedAttributeBlock.encode(attributes, byteCount: blockByteCount)
        try block.withVerified(at: number, image.superBlock)
        try image.write(block, at: Int(number.rawValue) * blockByteCount)
        try image.check()
        for attribute in attributes {
            let name = String(decoding: try #require(attribute.name.full), as: UTF8.self)
            #expect(try image.get(name, of: "d") == attribute.value)
        }
    }

    /// The same for the tail of an inode, up to the last byte of it.
    @Test(.enabled(if: ExtendedAttributeImage.hasTools, "needs e2fsprogs"))
    func anInodeAreaThatWeWroteIsAcceptedByE2fsck() throws {
        let image = try ExtendedAttributeImage(["-b", "1024", "-I", "256", "-O", "metadata_csum"])
        _ = try image.debugfs("mkdir d")
        let inode = try image.inode(of: "d")
        var (slot, offset) = try image.slot(of: inode)
        let record = try InodeRecord(decoding: slot.span.bytes)
        let range = try #require(ExtendedAttributeArea.range(slotByteCount: 256, extraSize: record.extraSize))
        #expect(range.count == 96)
        let attributes = try [
            attribute("user.fill", [UInt8](repeating: 9, count: 44)), attribute("user.e", [3, 3, 3, 3]),
        ]
        #expect(ExtendedAttributeArea.fits(attributes, range.count))
        #expect(!ExtendedAttributeArea.fits(attributes, range.count - 1))
        slot.replaceSubrange(range, with: ExtendedAttributeArea.encode(attributes, byteCount: range.count))
        let checksum = InodeChecksum(
            volumeSeed: image.superBlock.checksumSeed, inode: inode, generation: record.generation)
        slot.change { checksum.update(&$0) }
        try image.write(slot, at: offset)
        try image.check()
        #expect(try image.get("user.fill", of: "d") == attributes[0].value)
        #expect(try image.attributes(of: "d").inode == attributes)
    }

    /// The kernel's search in a block ends at the first greater name: an unsorted block would hide attributes.
    @Test func entriesOfABlockAreSortedByIndexLengthAndName() throws {
        let names = ["user.b", "security.a", "user.aa", "user.a", "trusted.zz", "system.posix_acl_access"]
        let block = ExtendedAttributeBlock.encode(try names.map { try attribute($0, [1]) }, byteCount: 1024)
        let found = try ExtendedAttributeBlock.decode(block.span.bytes, at: FSBlock(9))
        #expect(
            found.map { String(decoding: $0.name.full ?? [], as: UTF8.self) } == [
                "user.a", "user.b", "user.aa", "system.posix_acl_access", "trusted.zz", "security.a",
            ])
    }

    /// Each is an errno that programs act on.
    @Test func namesThatCannotBeStoredAreRefused() {
        func error(_ name: [UInt8]) -> Ext4Error? {
            do throws(Ext4Error) { _ = try ExtendedAttributeName(full: name) } catch { return error }
            return nil
        }
        #expect(error(bytes("user.x")) == nil)
        #expect(error(bytes("user." + String(repeating: "x", count: 250))) == nil)
        #expect(error(bytes("user." + String(repeating: "x", count: 251))) == .posix(34))
        #expect(error([]) == .posix(34))
        #expect(error(bytes("user.")) == .posix(22))
        #expect(error(bytes("user.a\0b")) == .posix(22))
        for name in ["user", "os2.x", "system.data", "system.richacl", "system.posix_acl_access.x"] {
            #expect(error(bytes(name)) == .posix(95))
        }
    }
}

/// What the bytes of an image may try.
@Suite struct ExtendedAttributeDamageTests {
    private func block(_ change: (inout [UInt8]) -> Void) throws -> [UInt8] {
        var bytes = ExtendedAttributeBlock.encode(
            try [attribute("user.a", [1, 2, 3, 4]), attribute("user.bb", [5, 6, 7, 8, 9])], byteCount: 1024)
        change(&bytes)
        return bytes
    }

    /// P6: every damaged number is an error with the block's number in it.
    @Test func damagedBlocksAreCorruptByName() throws {
        let damages: [(String, (inout [UInt8]) -> Void)] = [
            ("magic", { $0[0] = 1 }), ("blocks", { $0[8] = 2 }),
            ("no references", { $0[4] = 0 }),
            (
                "1025 references",
                {
                    $0[4] = 1; $0[5] = 4
                }
            ),
            (
                "name past the end",
                {
                    $0.fillWithEntries(); $0[1008] = 200
                }
            ),
            ("NUL in the name", { $0[48] = 0 }),
            (
                "value past the end",
                {
                    $0[34] = 0xFD; $0[35] = 3
                }
            ),
            ("value of 4 GiB", { for index in 40..<44 { $0[index] = 255 } }),
            (
                "value in the entries",
                {
                    $0[34] = 40; $0[35] = 0
                }
            ),
            (
                "values overlap",
                {
                    $0[34] = $0[54]; $0[35] = $0[55]
                }
            ),
            ("no end", { $0.fillWithEntries() }),
        ]
        for (what, damage) in damages {
            let bytes = try block(damage)
            do throws(Ext4Error) {
                _ = try ExtendedAttributeBlock.decode(bytes.span.bytes, at: FSBlock(77))
                Issue.record("\(what) was accepted")
            } catch {
                guard case .corrupt("extended attributes", let place) = error, place.hasPrefix("block 77") else {
                    Issue.record("\(what): \(error)")
                    continue
                }
            }
        }
    }

    /// P5: a checksum that does not match is never taken, nor is a block that was copied to another place.
    @Test(.enabled(if: ExtendedAttributeImage.hasTools, "needs e2fsprogs"))
    func theChecksumCoversEveryByteAndThePlace() throws {
        let image = try ExtendedAttributeImage(["-b", "1024", "-I", "256", "-O", "metadata_csum"])
        var good = try block { _ in }
        good.change { ExtendedAttributeBlock.updateChecksum(&$0, at: FSBlock(50), image.superBlock) }
        try ExtendedAttributeBlock.verify(good.span.bytes, at: FSBlock(50), image.superBlock)
        #expect(throws: Ext4Error.self) {
            try ExtendedAttributeBlock.verify(good.span.bytes, at: FSBlock(51), image.superBlock)
        }
        for index in good.indices {
            var bad = good
            bad[index] ^= 0x10
            #expect(throws: Ext4Error.self) {
                try ExtendedAttributeBlock.verify(bad.span.bytes, at: FSBlock(50), image.superBlock)
            }
        }
    }

    /// P6: a value without room for its padding would be decoded and then not fit when it is encoded again.
    @Test func valuesLieApartWithTheirPadding() throws {
        func block(_ offsets: [UInt16]) -> [UInt8] {
            var block = [UInt8](repeating: 0, count: 1024)
            block.replaceSubrange(0..<12, with: [0, 0, 2, 0xEA, 1, 0, 0, 0, 1, 0, 0, 0])
            for (index, offset) in offsets.enumerated() {
                let entry = 32 + 20 * index
                block.replaceSubrange(entry..<entry + 4, with: [1, 1, UInt8(offset & 0xFF), UInt8(offset >> 8)])
                block[entry + 8] = 1
                block[entry + 16] = UInt8(ascii: "a") + UInt8(index)
            }
            return block
        }
        func count(_ offsets: [UInt16]) throws -> Int {
            try ExtendedAttributeBlock.decode(block(offsets).span.bytes, at: FSBlock(1)).count
        }
        #expect(try count([1020, 1016]) == 2)
        #expect(throws: Ext4Error.self) { try count([1021]) }
        #expect(throws: Ext4Error.self) { try count([1020, 1018]) }
        #expect(throws: Ext4Error.self) { try count((0..<40).map { 980 + $0 }) }
    }

    /// P6: no bytes at all may trap, whether they are noise or nearly right.
    @Test func noBytesTrapTheDecoders() throws {
        var generator = SystemRandomNumberGenerator()
        let good = try block { _ in }
        for round in 0..<3000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...6, using: &generator) {
                bytes[Int.random(in: round % 2 == 0 ? 32..<80 : 0..<1024, using: &generator)] = .random(in: 0...255)
            }
            let entries = try? ExtendedAttributeBlock.decode(bytes.span.bytes, at: FSBlock(1))
            for entry in entries ?? [] { #expect(entry.value.upperBound <= 1024) }
            var area = Array(bytes[28..<28 + Int.random(in: 0...96, using: &generator)])
            for index in area.indices.prefix(4) { area[index] = [0, 0, 2, 0xEA][index] }
            _ = try? ExtendedAttributeArea.decode(area.span.bytes, of: InodeNumber(12))
        }
    }
}

extension [UInt8] {
    mutating func change(_ body: (inout MutableRawSpan) -> Void) {
        var span = mutableSpan
        var bytes = span.mutableBytes
        body(&bytes)
    }
    /// Gives a block its checksum and checks it as a reader would.
    mutating func withVerified(at number: FSBlock, _ superBlock: SuperBlock) throws {
        change { ExtendedAttributeBlock.updateChecksum(&$0, at: number, superBlock) }
        try ExtendedAttributeBlock.verify(span.bytes, at: number, superBlock)
    }
    /// Entries without names up to the last byte.
    mutating func fillWithEntries() {
        for index in 32..<count { self[index] = index % 16 == 1 ? 1 : 0 }
    }
}
