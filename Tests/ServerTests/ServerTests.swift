import BlockIO
import Ext4Format
import Server
import Testing

@Suite struct ErrorNumberTests {
    /// Programs decide by errno: damage must not look like a missing file, nor a full disk like a broken one.
    @Test(
        arguments: [
            (.io(errno: 6, operation: "read", offset: 0, count: 512), 5), (.corrupt("inode", where: "block 7"), 117),
            (.unsupported(features: ["verity"], hint: ""), 95), (.aborted, 30), (.posix(28), 28), (.posix(2), 2),
        ] as [(Ext4Error, Int32)])
    func eachErrorHasItsNumber(error: Ext4Error, number: Int32) {
        #expect(error.systemNumber == number)
    }

    /// ENOENT comes thousands of times a second and is no news; a bad checksum is.
    @Test func onlyFaultsOfVolumeAndDeviceAreLogged() {
        #expect(!Ext4Error.posix(2).isWorthLogging)
        #expect(Ext4Error.corrupt("inode", where: "block 7").isWorthLogging)
        #expect(Ext4Error.aborted.isWorthLogging)
    }
}

@Suite struct MountTableTests {
    private let table = """
        22 1 254:0 / / rw,relatime - ext4 /dev/root rw
        42 22 7:0 / /mnt/with\\040space rw,relatime shared:5 master:1 - fuseblk.jext4 /dev/loop0 rw,user_id=0,group_id=0
        43 22 0:51 / /mnt/user rw,nosuid,nodev - fuse.jext4 /home/u/a\\134b.img rw,user_id=1000,group_id=1000
        44 22 0:52 / /mnt/other rw - fuse.sshfs host: rw,user_id=1000
        45 22 0:53 / broken
        """

    /// The control socket is named by the device and trusted by the user: both are read from this line.
    @Test func aLineIsTakenApartAndUnescaped() throws {
        let records = MountTable.records(in: table)
        #expect(records.count == 4)
        let block = records[1], user = records[2]
        #expect(block.directory == "/mnt/with space" && block.device == "7:0" && block.isBlock && block.isOurs)
        #expect(block.user == 0)
        #expect(user.source == "/home/u/a\\b.img" && user.isOurs && !user.isBlock)
        #expect(user.user == 1000 && user.group == 1000)
        #expect(!records[0].isOurs && !records[3].isOurs)
    }
}

@Suite struct StatusReportTests {
    /// Volume names are bytes of an image: they must not be able to forge a field.
    @Test func textIsQuotedInJSON() {
        let report = StatusReport(fields: [
            ("name", .text("a\"b\\c\nd\u{1}")), ("blocks", .number(.max)), ("read_only", .truth(false)),
        ])
        #expect(
            report.json
                == "{\"name\":\"a\\\"b\\\\c\\u000ad\\u0001\",\"blocks\":18446744073709551615,\"read_only\":false}\n")
    }
}
