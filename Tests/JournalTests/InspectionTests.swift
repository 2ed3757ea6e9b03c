import BlockIO
import Ext4Format
import Foundation
import Testing

/// debugfs on what apply leaves, and dumpe2fs, say what show and plan must have said before it.
@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct InspectionTests {
    private static let kinds: [[String]] = [
        ["-b", "1024"], ["-b", "1024", "-g", "2048", "-O", "^flex_bg,^64bit"],
        ["-b", "2048", "-O", "^metadata_csum,^metadata_csum_seed,uninit_bg"],
    ]

    private func applied(_ image: ImageFile) throws -> ImageFile {
        let copy = try image.copy()
        #expect(try replay("apply", copy.path).status == 1)
        let check = try copy.fsck(["-fn"])
        #expect(check.status == 0, "\(check.output)")
        return copy
    }

    /// Who wonders what a replay will touch is told whose each block is; the oracle is icheck after the replay.
    @Test(arguments: kinds) func showNamesTheOwnerOfEachBlock(arguments: [String]) throws {
        let lived = try LivedImage(arguments)
        let before = try lived.image.bytes()
        let show = try replay("show", "--blocks", "--json", lived.image.path)
        #expect(show.status == 0, "\(show.output)")
        #expect(try lived.image.bytes() == before)
        let blocks = try jsonLines(show.output).filter { $0["type"] as? String == "block" }
        let after = try applied(lived.image)
        var owned: [Int: Int] = [:]
        for block in blocks {
            let number = try #require(block["block"] as? Int)
            #expect(block["owner_kind"] is String, "block \(number) has no owner")
            if let inode = block["inode"] as? Int, block["former"] as? Bool == false { owned[number] = inode }
        }
        let check = try E2fsprogs.run([
            "debugfs", "-R", "icheck " + owned.keys.map(String.init).joined(separator: " "), after.path,
        ])
        let pairs = check.output.split(separator: "\n").compactMap { line -> (Int, Int)? in
            let words = line.split(separator: "\t").compactMap { Int($0) }
            return words.count == 2 ? (words[0], words[1]) : nil
        }
        #expect(Dictionary(pairs) { $1 } == owned, "\(check.output)")
        let kinds = Set(blocks.compactMap { $0["owner_kind"] as? String })
        for kind in [
            "super block", "group descriptors", "block bitmap", "inode bitmap", "inode table", "directory",
            "extent node", "attribute block", "symlink",
        ] { #expect(kinds.contains(kind), "\(kind)") }
        try checkGroups(blocks, after)
        try checkPaths(blocks)
    }

    /// dumpe2fs lists where bitmaps and tables lie.
    private func checkGroups(_ blocks: [[String: Any]], _ image: ImageFile) throws {
        let dump = try E2fsprogs.run(["dumpe2fs", image.path]).output
        var group = 0
        var found: [String: Int] = [:]
        for line in dump.split(separator: "\n") {
            let words = line.split(whereSeparator: { " :,()".contains($0) })
            if words.first == "Group", words.count > 1, let number = Int(words[1]) { group = number }
            for kind in ["Block bitmap", "Inode bitmap", "Inode table"] {
                guard let place = line.range(of: "\(kind) at ") else { continue }
                let number = line[place.upperBound...].prefix { $0.isNumber }
                found["\(kind.lowercased()) \(number)"] = group
            }
        }
        var count = 0
        for block in blocks {
            guard let kind = block["owner_kind"] as? String, let number = block["block"] as? Int,
                let expected = found["\(kind) \(number)"]
            else { continue }
            count += 1
            #expect(block["first_group"] as? Int == expected)
        }
        #expect(count > 0)
    }

    private func checkPaths(_ blocks: [[String: Any]]) throws {
        let paths = Set(blocks.compactMap { $0["path"] as? String })
        #expect(paths.isSuperset(of: ["/", "/old", "/new", "/new/link", "/cut", "/fragments"]), "\(paths)")
    }

    /// Block lists of ext3 are owners too; and a block that its file has given up is said to have been that.
    @Test func showNamesIndirectBlocksAndFormerOwners() throws {
        let image = try ImageFile.make(["-t", "ext3", "-b", "1024"], size: "8M")
        let payload = ImageFile()
        try Data(repeating: 0x11, count: 400 * 1024).write(to: URL(fileURLWithPath: payload.path))
        _ = try image.debugfs(["write \(payload.path) long"])
        let stat = try E2fsprogs.run(["debugfs", "-R", "stat long", image.path]).output
        func blocks(_ kind: String) -> [String] {
            stat.components(separatedBy: "(\(kind)):").dropFirst().map { String($0.prefix { $0.isNumber }) }
        }
        let maps = blocks("IND") + blocks("DIND")
        try #require(maps.count == 3)
        for map in maps {
            let copy = ImageFile()
            try image.bytes()[(try #require(Int(map))) * 1024..<(try #require(Int(map)) + 1) * 1024]
                .withUnsafeBytes { try Data($0).write(to: URL(fileURLWithPath: copy.path)) }
            _ = try image.debugfs(["journal_open", "journal_write -b \(map) \(copy.path)", "journal_close"])
        }
        let output = try replay("show", "--blocks", image.path).output
        for (map, level) in zip(maps, [1, 1, 2]) {
            #expect(output.contains("block \(map) at"), "\(output)")
            #expect(output.contains("indirect block of level \(level) of inode 12"), "\(output)")
        }
    }

    /// A log is anybody's bytes: no number in it may bring down the command that looks at it.
    @Test func aCommitFarInTheFutureIsShown() throws {
        let image = try ImageFile.make(["-t", "ext4", "-b", "1024"], size: "4M")
        let homes = try image.addPayload(blocks: 1, of: 1024)
        let device = try FileDevice(path: image.path, readOnly: false)
        let log = try image.log(on: device, blockByteCount: 1024)
        var author = LogAuthor(LogAuthor.Format(), end: log.blockCount)
        author.log([LogAuthor.Item(home: homes[0], content: [UInt8](repeating: 0xC3, count: 1024))])
        author.commit(at: 67_767_976_233_532_800)
        try author.write(to: log)
        let show = try replay("show", image.path)
        #expect(show.status == 0 && show.output.contains("committed 2147483648-01-01T"), "\(show.output)")
    }

    /// A log that changes the geometry: a block that only the volume before has is read as that one lays it out.
    @Test func aFormerOwnerIsReadWithItsOwnGeometry() throws {
        let image = try ImageFile.make(["-t", "ext4", "-b", "1024", "-N", "1024", "-I", "256"], size: "4M")
        let dump = try E2fsprogs.run(["dumpe2fs", image.path]).output
        let place = try #require(dump.range(of: "Inode table at "))
        let table = try #require(UInt64(dump[place.upperBound...].prefix { $0.isNumber }))
        // Half as many blocks of tables, with inodes twice as large.
        let other = try image.copy()
        _ = try other.debugfs([
            "ssv inode_size 512", "ssv inodes_per_group 256", "ssv inodes_count 256", "ssv free_inodes_count 100",
        ])
        let superBlock = ImageFile(), inodes = ImageFile()
        try Data(try other.bytes()[1024..<2048]).write(to: URL(fileURLWithPath: superBlock.path))
        try Data(repeating: 0xC3, count: 1024).write(to: URL(fileURLWithPath: inodes.path))
        _ = try image.debugfs([
            "journal_open -c", "journal_write -b 1 \(superBlock.path)",
            "journal_write -b \(table + 200) \(inodes.path)", "journal_close",
        ])
        let show = try replay("show", "--blocks", image.path)
        #expect(show.status == 0 && show.output.contains("block \(table + 200) at"), "\(show.output)")
        #expect(show.output.contains("formerly"), "\(show.output)")
        let plan = try replay("plan", image.path)
        #expect(plan.status == 0 && plan.output.contains("inode 801"), "\(plan.status) \(plan.output)")
    }

    /// The sums of a plan are what dumpe2fs sees change, and its names are those that come and go.
    @Test(arguments: kinds) func planTellsWhatChangesByName(arguments: [String]) throws {
        let lived = try LivedImage(arguments)
        let plan = try replay("plan", "--json", lived.image.path)
        #expect(plan.status == 0, "\(plan.output)")
        let lines = try jsonLines(plan.output)
        let changes = lines.filter { $0["type"] as? String == "change" }
        func names(_ side: String, not other: String) -> Set<String> {
            Set(
                changes.compactMap { change in
                    guard change["of"] as? String == "directory", change[side] is Int, !(change[other] is Int),
                        let path = change["path"] as? String, let name = change["name"] as? String
                    else { return nil }
                    return path + ":" + name
                })
        }
        var added: Set = ["/:new", "/:fragments", "/new:g1", "/new:link", "/old:h2"]
        for index in 0..<60 { added.insert("/new:a file with a long name \(index)") }
        #expect(names("after", not: "before") == added)
        #expect(names("before", not: "after") == ["/old:f0", "/old:f1", "/old:f2"])
        func field(_ name: String, _ inode: Int) -> [String: Any]? {
            changes.first {
                $0["of"] as? String == "inode" && $0["number"] as? Int == inode && $0["field"] as? String == name
            }
        }
        let cut = try #require(changes.first { $0["field"] as? String == "attribute block" }?["number"] as? Int)
        #expect(field("size", cut)?["before"] as? Int == 40_000 && field("size", cut)?["after"] as? Int == 100)
        #expect(field("links", 2)?["before"] as? Int == 4 && field("links", 2)?["after"] as? Int == 5)
        #expect(changes.contains { $0["field"] as? String == "attribute" && $0["after"] as? String == "user.long" })
        #expect(field("created", Int(lived.fragmented.rawValue))?["after"] as? String == "file")

        let summary = try #require(lines.first { $0["type"] as? String == "plan" })
        let free = try [lived.image, applied(lived.image)].map { try groupSums($0) }
        func sum(_ key: String) throws -> Int { try #require(summary[key] as? Int) }
        #expect(try sum("blocks_taken") - sum("blocks_freed") == free[0].blocks - free[1].blocks)
        #expect(try sum("inodes_created") - sum("inodes_deleted") == free[0].inodes - free[1].inodes)
        #expect(try sum("names_added") == added.count && sum("names_removed") == 3 && sum("names_replaced") == 0)
        let text = try replay("plan", lived.image.path).output
        #expect(text.contains("of inode 2 /: name new added"), "\(text)")
    }

    /// From the descriptors: the super block of a volume that needs recovery is old.
    private func groupSums(_ image: ImageFile) throws -> (blocks: Int, inodes: Int) {
        var sums = (blocks: 0, inodes: 0)
        for line in try E2fsprogs.run(["dumpe2fs", image.path]).output.split(separator: "\n") {
            let words = line.split(whereSeparator: { " ,".contains($0) })
            guard words.count >= 6, words[1] == "free", words[2] == "blocks", words[4] == "free" else { continue }
            sums.blocks += Int(words[0]) ?? 0
            sums.inodes += Int(words[3]) ?? 0
        }
        return sums
    }

    /// Nothing that an image says may bring the command down, or make it run for ever.
    @Test(arguments: 1...6) func damagedStructuresAreSurvived(seed: Int) throws {
        let lived = try LivedImage()
        var bytes = try lived.image.bytes()
        var state = UInt64(seed) &* 0x9E37_79B9_7F4A_7C15
        func next() -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33)
        }
        // Descriptors, bitmaps, tables, directories, tree nodes; neither super block nor log.
        let log = Set(try lived.image.blocks(of: "<8>").map { Int($0) })
        for _ in 0..<2000 {
            let block = 2 + next() % 1000
            if !log.contains(block) { bytes[block * 1024 + next() % 1024] = UInt8(truncatingIfNeeded: next()) }
        }
        try Data(bytes).write(to: URL(fileURLWithPath: lived.image.path))
        for command in [["show", "--blocks"], ["plan"], ["plan", "--json"]] {
            let result = try replay(command + [lived.image.path])
            #expect([0, 4, 8].contains(result.status), "\(result.output.suffix(300))")
        }
    }
}

@Suite(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) struct ExtractTests {
    /// One good block out of a log can be all that somebody needs; what comes out is what the home would hold.
    @Test func extractWritesTheVersionOfATransaction() throws {
        let (image, homes, _) = try dirtyImage()
        let payload = ImageFile()
        // Begins with the magic of jbd2, so that it is escaped in the log.
        var escaped: [UInt8] = [0xC0, 0x3B, 0x39, 0x98] + [UInt8](repeating: 0xEE, count: 1020)
        try Data(escaped).write(to: URL(fileURLWithPath: payload.path))
        _ = try image.debugfs(["journal_open", "journal_write -b \(homes[0]) \(payload.path)", "journal_close"])
        let list = try jsonLines(try replay("extract", "--block", "\(homes[0])", "--list", "--json", image.path).output)
        #expect(list.compactMap { $0["transaction"] as? Int } == [1, 3])
        #expect(list.compactMap { $0["escaped"] as? Bool } == [false, true])
        for (arguments, expected) in [([String](), escaped), (["--tid", "1"], [UInt8](repeating: 0xC3, count: 1024))] {
            let file = NewPath()
            let command = ["extract", "--block", "\(homes[0])", "--output", file.path] + arguments + [image.path]
            #expect(try replay(command).status == 0)
            #expect([UInt8](try Data(contentsOf: URL(fileURLWithPath: file.path))) == expected)
            #expect(try replay(command).status == 8, "nothing is overwritten")
        }
        #expect(try replay("extract", "--block", "\(homes[0])", "--tid", "2", image.path).status == 8)
        #expect(try replay("extract", "--block", "3", image.path).status == 8)
        #expect(try replay("apply", image.path).status == 1)
        escaped = Array(try image.bytes()[Int(homes[0]) * 1024..<Int(homes[0] + 1) * 1024])
        #expect(escaped.prefix(4) == [0xC0, 0x3B, 0x39, 0x98])
    }

    /// What damage keeps from being applied cannot take back what is applied.
    @Test func aRevokeThatIsNotAppliedHidesNothingThatIs() throws {
        let image = try ImageFile.make(["-t", "ext4", "-b", "1024"], size: "4M")
        let homes = try image.addPayload(blocks: 4, of: 1024)
        let payload = ImageFile()
        try Data(repeating: 0xC3, count: 4096).write(to: URL(fileURLWithPath: payload.path))
        _ = try image.debugfs([
            "journal_open -c", "journal_write -b \(homes[0]) \(payload.path)",
            "journal_write -b \(homes[0]),\(homes[1]) -r \(homes[0]) \(payload.path)", "journal_close",
        ])
        // The last commit block: super block; descriptor, block, commit; descriptor, two blocks, revokes, commit.
        try image.put([0xFF, 0, 0xFF, 0], at: image.blocks(of: "<8>")[8] * 1024 + 0x10)
        let output = try replay("extract", "--block", "\(homes[0])", "--list", "--json", image.path).output
        let versions = try jsonLines(output).map { [$0["applied"] as? Bool, $0["revoked"] as? Bool] }
        #expect(versions == [[true, false], [false, true]], "\(output)")
    }

    /// A damaged copy must not pass for a good one; a revoked one is still a version.
    @Test func extractVerifiesAndTellsWhatWasRevoked() throws {
        let (image, homes, log) = try dirtyImage()
        _ = try image.debugfs(["journal_open", "journal_write -r \(homes[0])", "journal_close"])
        let list = try jsonLines(try replay("extract", "--block", "\(homes[0])", "--list", "--json", image.path).output)
        #expect(list.first?["revoked"] as? Bool == true && list.first?["applied"] as? Bool == true)
        try image.put([0], at: log[2] * 1024 + 100)
        let path = NewPath()
        let arguments = ["extract", "--block", "\(homes[0])", "--tid", "1", "--output", path.path, image.path]
        #expect(try replay(arguments).status == 4)
        #expect(!FileManager.default.fileExists(atPath: path.path))
        let output = try replay("extract", "--block", "\(homes[0])", "--list", image.path).output
        #expect(output.contains("bad checksum") && output.contains("not applied"), "\(output)")
    }
}

/// Who drops transactions says which, and gets just those before.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func applyGoesNoFurtherThanItsOwnerWants() throws {
    let (image, homes, log) = try dirtyImage()
    let damaged = try image.copy()
    #expect(try replay("apply", "--up-to", "9", image.path).status == 8)
    #expect(try replay("apply", "--up-to", "1", "--up-to-damage", image.path).status == 16)
    let plan = try replay("plan", "--up-to", "1", image.path)
    #expect(plan.status == 0 && plan.output.contains("from transaction 2 on is left out"), "\(plan.output)")
    #expect(try replay("apply", "--up-to", "1", image.path).status == 1)
    let after = try image.bytes()
    #expect(after[Int(homes[0]) * 1024] == 0xC3 && after[Int(homes[2]) * 1024] == 0x5A)
    try damaged.put([0], at: log[6] * 1024 + 100)
    let refused = try replay("apply", damaged.path)
    #expect(refused.status == 4 && refused.output.contains("--up-to 1 "), "\(refused.output)")
    #expect(try replay("apply", "--up-to", "1", damaged.path).status == 5)
    #expect(try damaged.bytes()[Int(homes[0]) * 1024] == 0xC3)
}

/// Scripts log how far a long recovery has come; nobody else is bothered.
@Test(.enabled(if: E2fsprogs.isPresent, E2fsprogs.need)) func progressIsToldWhenItIsWanted() throws {
    let (image, _, _) = try dirtyImage()
    #expect(!(try replay("show", image.path).output.contains("verifying")))
    let result = try replay("apply", "--progress", image.path).output
    for word in ["verifying the log", "waiting for the device"] {
        #expect(result.contains(word), "\(result)")
    }
}
