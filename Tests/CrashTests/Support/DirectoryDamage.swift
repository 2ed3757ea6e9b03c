import Ext4Format
import Testing

extension Damage {
    static let directories = [
        Damage(.directoryBlock, "a record past the end") { image in
            try image.editLeaf("/sub", 0) { $0[LE<UInt16>(12 + 4)] = 4000 }
        },
        Damage(.directoryBlock, "checksum") { image in
            image.editBlock(image.blocks("/sub")[0]) { $0[LE<UInt8>(900)] ^= 1 }
        },
        Damage(.directoryBlock, "a slash in a name") { image in
            try image.editRecord("/sub", named: "leaf") { $0[LE<UInt8>($1.nameRange.lowerBound)] = 0x2F }
        },
        Damage(.directoryBlock, "an unwritten block") { image in
            try image.editInode(image.inode("/sub")) { $0[LE<UInt16>(0x28 + 12 + 4)] |= 0x8000 }
        },
        Damage(.dots, "another directory's") { image in
            let root = InodeNumber.root.rawValue
            try image.editLeaf("/sub/leaf", 0) { $0[LE<UInt32>(0)] = root }
        },
        Damage(.dots, "another parent") { image in
            try image.editLeaf("/sub/leaf", 0) { $0[LE<UInt32>(12)] = InodeNumber.root.rawValue }
        },
        Damage(.entryTarget, "an inode that is free") { image in
            let free = try image.firstFreeInode().rawValue
            try image.editRecord("/sub", named: "second") { $0[LE<UInt32>($1.offset)] = free }
        },
        Damage(.entryTarget, "a reserved inode") { image in
            try image.editRecord("/sub", named: "second") { $0[LE<UInt32>($1.offset)] = 8 }
        },
        Damage(.entryType, "a file as a directory") { image in
            try image.editRecord("/sub", named: "second") { $0[LE<UInt8>($1.offset + 7)] = 2 }
        },
        Damage(.uniqueName, "two of one name") { image in
            try image.editRecord("/sub", named: "other") { bytes, entry in
                bytes[LE<UInt8>(entry.offset + 6)] = 4
                bytes.copy(Array("leaf".utf8), at: entry.nameRange.lowerBound)
            }
        },
        Damage(.directoryNames, "two") { image in
            let leaf = image.inode("/sub/leaf").rawValue
            try image.editRecord("/sub", named: "other") { $0[LE<UInt32>($1.offset)] = leaf }
        },
        Damage(.directoryNames, "none") { image in
            try image.editRecord("/sub", named: "leaf") { $0[LE<UInt32>($1.offset)] = 0 }
        },
        Damage(.reachable, "a directory that is its own parent") { image in
            let sub = image.inode("/sub").rawValue
            try image.editRecord("/", named: "sub") { $0[LE<UInt32>($1.offset)] = 0 }
            let format = image.format
            try image.editLeaf("/sub/leaf", 0) { bytes in
                let span = Array("up".utf8)
                bytes[LE<UInt16>(12 + 4)] = 12
                format.write(
                    &bytes, at: 24, byteCount: format.leafByteCount - 24, inode: sub, name: span.span.bytes, type: 2)
            }
        },
    ]

    static let indexes = [
        Damage(.directoryIndex, "a hash version") { image in
            try image.editIndex("/many") { bytes, _ in bytes[LE<UInt8>(0x1C)] = 9 }
        },
        Damage(.directoryIndex, "checksum") { image in
            image.editBlock(image.blocks("/many")[0]) { $0[LE<UInt32>(32 + 12)] ^= 1 }
        },
        Damage(.directoryIndex, "limit") { image in
            try image.editIndex("/many") { bytes, _ in bytes[LE<UInt16>(32)] -= 1 }
        },
        Damage(.directoryIndex, "hashes out of order") { image in
            try image.editIndex("/many") { bytes, _ in bytes[LE<UInt32>(32 + 8)] = .max - 1 }
        },
        Damage(.directoryIndex, "a block behind the end") { image in
            try image.editIndex("/many") { bytes, _ in bytes[LE<UInt32>(32 + 12)] = 4000 }
        },
        Damage(.directoryIndex, "a node's limit") { image in
            let node = Int(image.number(LE<UInt32>(36), ofBlock: image.blocks("/deep")[0]))
            try image.editIndex("/deep", node) { bytes, _ in bytes[LE<UInt16>(8)] -= 1 }
        },
        Damage(.indexCoverage, "a leaf twice") { image in
            try image.editIndex("/many") { bytes, _ in bytes[LE<UInt32>(32 + 12)] = bytes[LE<UInt32>(36)] }
        },
        Damage(.indexCoverage, "a leaf not at all") { image in
            let format = image.format
            try image.editIndex("/many") { bytes, index in format.truncate(&bytes, &index, to: index.count - 1) }
        },
        // As far as it goes: almost all names of a leaf are on the wrong side then.
        Damage(.indexOrder, "a border that moved") { image in
            try image.editIndex("/many") { bytes, _ in bytes[LE<UInt32>(32 + 8)] = bytes[LE<UInt32>(32 + 16)] - 2 }
        },
        Damage(.indexOrder, "below a node") { image in
            let node = Int(image.number(LE<UInt32>(36), ofBlock: image.blocks("/deep")[0]))
            try image.editIndex("/deep", node) { bytes, _ in bytes[LE<UInt32>(8 + 8)] = bytes[LE<UInt32>(8 + 16)] - 2 }
        },
        Damage(.dots, "of an indexed directory") { image in
            try image.editIndex("/many") { bytes, _ in bytes[LE<UInt32>(12)] = 11 }
        },
    ]
}

extension DamagedImage {
    /// The record of a name in the one block of a directory.
    mutating func editRecord(
        _ directory: String, named name: String, _ body: (inout MutableRawSpan, DirectoryEntry) -> Void
    ) throws {
        let format = format, wanted = Array(name.utf8)
        try editLeaf(directory, 0) { bytes in
            let block = FSBlock(0)
            let match = try #require(try format.find(wanted.span.bytes, in: bytes.bytes, block: block))
            body(&bytes, match.entry)
        }
    }

    /// The first block of a file with a single extent.
    func extentStart(_ inode: InodeNumber) -> UInt64 { UInt64(field(LE<UInt32>(0x28 + 12 + 8), of: inode)) }

    mutating func editOrphanBlock(_ body: (inout MutableRawSpan) -> Void) throws {
        let inode = InodeNumber(superBlock.orphanFileInode), block = extentStart(inode)
        var crc = CRC32C(seed: try checksum(inode).seed)
        editBlock(block) { bytes in
            body(&bytes)
            crc.update(littleEndian: block)
            crc.update(bytes.bytes.extracting(0..<1016))
            bytes[LE<UInt32>(1020)] = crc.value
        }
    }

    mutating func editJournal(_ body: (inout JournalSuperBlock) -> Void) {
        editBlock(extentStart(.journal)) { bytes in
            guard var journal = try? JournalSuperBlock(decoding: bytes.bytes) else { return }
            body(&journal)
            journal.encode(into: &bytes)
        }
    }

    /// The bit of the first block of "/file" in the bitmap of its group.
    mutating func editBlockBits(_ body: (inout MutableRawSpan, Int) -> Void) throws {
        let place = try #require(layout.place(of: FSBlock(blocks("/file")[0])))
        editBlockBitmap(place.group.rawValue) { body(&$0, Int(place.bit)) }
    }

    func firstFreeInode() throws -> InodeNumber {
        let bitmap = descriptor(0).inodeBitmap.rawValue
        let used = superBlock.inodesPerGroup - descriptor(0).unusedInodeCount
        let index = try #require(
            (0..<used).first { number(LE<UInt8>(Int($0 / 8)), ofBlock: bitmap) >> UInt8($0 % 8) & 1 == 0 })
        return layout.inode(index, in: GroupNumber(0))
    }
}
