import Ext4Format
import Testing

private func list(_ entries: (AccessControlList.Tag, UInt16, UInt32)...) throws -> AccessControlList {
    try #require(AccessControlList(entries.map { AccessControlList.Entry($0.0, $0.1, id: $0.2) }))
}

@Suite struct AccessControlListTests {
    private let value: [UInt8] = [
        1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 6, 0, 77, 0, 0, 0, 4, 0, 5, 0, 8, 0, 4, 0, 1, 2, 0, 0, 0x10, 0, 6, 0, 0x20, 0, 0,
        0,
    ]

    /// Two systems must read the same rights from one disk.
    @Test(.enabled(if: ExtendedAttributeImage.hasKernelMounts, "needs root, loop devices, setfattr, setfacl"))
    func storedListsBecomeWhatTheKernelAnswers() throws {
        let image = try ExtendedAttributeImage()
        let answer = try image.mounted(
            """
            mkdir $M/d
            setfacl -m u:77:rw,u:4000000000:x,g:513:r,o::- $M/d
            setfacl -d -m u:5:rwx,o::r $M/d
            getfattr --absolute-names -e hex -n system.posix_acl_access $M/d
            getfattr --absolute-names -e hex -n system.posix_acl_default $M/d
            """)
        let theirs = answer.matches(of: #/=0x([0-9a-f]+)/#).map { String($0.1) }
        for (index, name) in [ExtendedAttributeName.accessACL, .defaultACL].enumerated() {
            let stored = try #require(try image.value(name, of: "d"))
            let list = try #require(try AccessControlList.decoding(stored: stored))
            let hex = list.call.map { String(UInt16($0) | 0x100, radix: 16).dropFirst() }.joined()
            #expect(theirs[index] == hex)
            #expect(list.stored == stored)
            #expect(try AccessControlList.decoding(call: list.call) == list)
        }
    }

    /// P6: a list decides who may read a file, so nothing doubtful is taken for one.
    @Test func damagedListsAreRefused() throws {
        #expect(try AccessControlList.decoding(stored: value)?.stored == value)
        #expect(try AccessControlList.decoding(stored: [1, 0, 0, 0]) == nil)
        for count in [0, 3, 5, 6, 8, 12, 20, 34, 35] {
            #expect(throws: Ext4Error.self) { try AccessControlList.decoding(stored: Array(value.prefix(count))) }
        }
        for (index, byte) in [(0, 2), (4, 3), (6, 8), (8, 1), (20, 2), (28, 0x20), (32, 0x40)] as [(Int, UInt8)] {
            var bad = value
            bad[index] = byte
            #expect(throws: Ext4Error.self, "byte \(index)") { try AccessControlList.decoding(stored: bad) }
        }
    }

    /// The errno that setfacl shows.
    @Test func listsOfCallersAreValidated() throws {
        func error(_ value: [UInt8]) -> Ext4Error? {
            do throws(Ext4Error) { _ = try AccessControlList.decoding(call: value) } catch { return error }
            return nil
        }
        let good = try #require(try AccessControlList.decoding(stored: value)).call
        #expect(error(good) == nil)
        #expect(try AccessControlList.decoding(call: []) == nil)
        #expect(try AccessControlList.decoding(call: [2, 0, 0, 0]) == nil)
        #expect(error([1] + good.dropFirst()) == .posix(95))
        #expect(error([2, 0, 0]) == .posix(22))
        #expect(error(good.dropLast()) == .posix(22))
        #expect(error(good.dropLast(8)) == .posix(22))
        #expect(error(good + good.suffix(8)) == .posix(22))
        let entries = try #require(try AccessControlList.decoding(call: good)).entries
        #expect(AccessControlList(entries.filter { $0.tag != .mask }) == nil)
        #expect(AccessControlList(entries + [.init(.other, 0)]) == nil)
        let nobody: [AccessControlList.Tag] = [.owner, .user, .owningGroup, .mask, .other]
        #expect(AccessControlList(nobody.map { .init($0, 7) }) == nil)
    }

    /// A list that only repeats the mode is not stored: stat must show what it says, and fewer files need one.
    @Test func aListWithoutNamesAndMaskIsTheMode() throws {
        let plain = try list((.owner, 6, 0), (.owningGroup, 4, 0), (.other, 1, 0))
        #expect(plain.isEquivalentToMode && plain.permissions == 0o641)
        let masked = try list((.owner, 6, 0), (.owningGroup, 4, 0), (.mask, 2, 0), (.other, 1, 0))
        #expect(!masked.isEquivalentToMode && masked.permissions == 0o621)
    }

    /// chmod and creation under a default list are the kernel's own algebra, over every kind of list and some modes.
    @Test(.enabled(if: ExtendedAttributeImage.hasKernelMounts, "needs root, loop devices, setfattr, setfacl"))
    func chmodAndInheritanceAgreeWithTheKernel() throws {
        let image = try ExtendedAttributeImage()
        let defaults = ["u::rwx,g::rx,o::r", "u::rw,g::rwx,o::-,m::rx", "u:9:rwx,u::rx,g::r,g:8:rw,m::rw,o::x"]
        let modes: [UInt16] = [0o777, 0o640, 0o4027, 0o700, 0o1171]
        var script = "umask 077\n"
        for (row, acl) in defaults.enumerated() {
            script += "mkdir $M/d\(row); setfacl -b -d --set \(acl) $M/d\(row)\n"
            script += "touch $M/c\(row); setfacl --set \(acl) $M/c\(row)\n"
            for mode in modes {
                let octal = String(mode, radix: 8), path = "$M/d\(row)/\(octal)"
                script += "python3 -c 'import os,sys; os.mkdir(sys.argv[1], 0o\(octal))' \(path)\n"
                script += "cp -a $M/c\(row) $M/c\(row).\(octal); chmod \(octal) $M/c\(row).\(octal)\n"
            }
        }
        try image.mounted(script)
        for row in defaults.indices {
            let parent = try #require(try image.value(.defaultACL, of: "d\(row)"))
            let before = try image.value(.accessACL, of: "c\(row)")
            for mode in modes {
                let octal = String(mode, radix: 8)
                var inherited = try #require(try AccessControlList.decoding(stored: parent))
                let result = inherited.restrict(toMode: mode & 0o1777)
                try expect(inherited, result, image, "d\(row)/\(octal)")
                guard let before else { continue }
                var changed = try #require(try AccessControlList.decoding(stored: before))
                changed.change(permissions: mode)
                try expect(changed, mode, image, "c\(row).\(octal)")
            }
        }
    }

    private func expect(
        _ list: AccessControlList, _ mode: UInt16, _ image: ExtendedAttributeImage, _ file: String
    ) throws {
        let slot = try image.slot(of: try image.inode(of: file)).bytes
        #expect(try InodeRecord(decoding: slot.span.bytes).mode & 0o7777 == mode, "\(file)")
        #expect(list.permissions == mode & 0o777)
        let stored = try image.value(.accessACL, of: file)
        #expect(stored == (list.isEquivalentToMode ? nil : list.stored), "\(file)")
    }
}
