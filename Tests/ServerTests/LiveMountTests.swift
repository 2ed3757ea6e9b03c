import Glibc
import Testing

/// Mounts for real: root, /dev/fuse and the tools of e2fsprogs. With CI=true the tests run, and fail, without them.
private var canMount: Bool {
    if getenv("CI").map({ String(cString: $0) }) == "true" { return true }
    return geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0 && run(["mke2fs", "-V"]) == 0
}

/// Runs a program with its output thrown away: its exit status, 128 + n after a signal, 127 when it is not there.
@discardableResult private func run(_ words: [String]) -> Int32 {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    for output in [Int32(1), 2] { posix_spawn_file_actions_addopen(&actions, output, "/dev/null", O_WRONLY, 0) }
    var arguments = words.map { strdup($0) } + [nil]
    defer { arguments.forEach { free($0) } }
    var environment = [strdup("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), nil]
    defer { environment.forEach { free($0) } }
    var process = pid_t()
    guard posix_spawnp(&process, words[0], &actions, nil, &arguments, &environment) == 0 else { return 127 }
    var status: Int32 = 0
    while waitpid(process, &status, 0) < 0 && errno == EINTR {}
    return status & 0x7f == 0 ? status >> 8 & 0xff : 128 + status & 0x7f
}

/// The command, which is built beside the tests.
private var jext4: String {
    var path = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = max(0, readlink("/proc/self/exe", &path, path.count))
    let own = String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let tests = CommandLine.arguments.first { $0.contains(".xctest") } ?? own
    var folder = tests.split(separator: "/", omittingEmptySubsequences: false)
    while let last = folder.last, !last.hasSuffix(".xctest"), folder.count > 1 { folder.removeLast() }
    return (folder.dropLast() + ["jext4"]).joined(separator: "/")
}

@Suite(.enabled(if: canMount, "needs root, /dev/fuse and e2fsprogs"), .serialized) struct LiveMountTests {
    private let folder: String
    private var image: String { "\(folder)/image" }
    private var mount: String { "\(folder)/mount" }

    init() {
        var template = Array("/tmp/jext4-live-XXXXXX".utf8CString)
        folder = mkdtemp(&template).map { String(cString: $0) } ?? ""
        mkdir(mount, 0o755)
        run(["mke2fs", "-q", "-F", "-t", "ext4", image, "32M"])
    }

    private func cleanUp() {
        run(["umount", "-l", mount])
        run(["rm", "-rf", folder])
    }

    /// The whole way: a mount that answers, data that is on the image when umount returns, an image without complaint.
    @Test func whatIsWrittenIsOnTheImageAfterUmount() throws {
        defer { cleanUp() }
        try #require(run([jext4, "mount", image, mount]) == 0)
        let text = String(repeating: "written through FUSE\n", count: 5000)
        let file = open("\(mount)/file", O_CREAT | O_EXCL | O_RDWR, 0o640)
        #expect(write(file, text, text.utf8.count) == text.utf8.count && fsync(file) == 0 && close(file) == 0)
        #expect(mkdir("\(mount)/dir", 0o755) == 0 && rename("\(mount)/file", "\(mount)/dir/renamed") == 0)
        #expect(run([jext4, "status", mount, "--json"]) == 0 && run([jext4, "sync", mount]) == 0)
        #expect(run([jext4, "umount", mount]) == 0)
        #expect(run(["e2fsck", "-fn", image]) == 0)
        try #require(run([jext4, "mount", "-o", "ro", image, mount]) == 0)
        var status = stat()
        #expect(stat("\(mount)/dir/renamed", &status) == 0 && Int(status.st_size) == text.utf8.count)
        #expect(mkdir("\(mount)/other", 0o755) == -1 && errno == EROFS)
        #expect(run([jext4, "umount", mount]) == 0)
    }

    /// A suite that marks the log of dm-log-writes, by dmsetup, marks that of the mount.
    @Test func marksReachTheLog() throws {
        defer { cleanUp() }
        let log = "\(folder)/log"
        try #require(run([jext4, "mount", "-o", "record=\(log)", image, mount]) == 0)
        #expect(run([jext4, "mark", mount, "by hand"]) == 0)
        let script = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined() + "/scripts/dmsetup-marks"
        let settings = ["env", "JEXT4=\(jext4)", "JEXT4_DIR=\(mount)"]
        #expect(run(settings + [script, "message", "dev", "0", "mark", "by dmsetup"]) == 0)
        #expect(run([jext4, "umount", mount]) == 0)
        #expect(run(["grep", "-qaF", "by hand", log]) == 0 && run(["grep", "-qaF", "by dmsetup", log]) == 0)
        try #require(run([jext4, "mount", image, mount]) == 0)
        #expect(run([jext4, "mark", mount, "nowhere"]) == 1)
        #expect(run([jext4, "umount", mount]) == 0)
    }

    /// Two servers on one image would destroy it.
    @Test func anImageInUseIsRefused() throws {
        defer { cleanUp() }
        try #require(run([jext4, "mount", image, mount]) == 0)
        let other = "\(folder)/other"
        mkdir(other, 0o755)
        #expect(run([jext4, "mount", image, other]) == 32)
        #expect(run([jext4, "umount", mount]) == 0)
        #expect(run([jext4, "mount", image, other]) == 0 && run([jext4, "umount", other]) == 0)
    }

    /// mount(8) and scripts go by the status alone.
    @Test func aMountThatCannotBeIsStatus32() {
        defer { cleanUp() }
        #expect(run([jext4, "mount", "\(folder)/none", mount]) == 32)
        #expect(run([jext4, "mount", image, image]) == 32)
        #expect(run([jext4, "mount", "-o", "nonsense", image, mount]) == 32)
        #expect(run([jext4, "mount", "/dev/null", mount]) == 32)
        #expect(run([jext4, "umount", mount]) == 32)
        truncate(image, 4096)
        #expect(run([jext4, "mount", image, mount]) == 32)
    }
}
