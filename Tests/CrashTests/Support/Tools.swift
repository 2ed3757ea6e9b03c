import Foundation
import Glibc

/// What a program left behind.
struct ProgramResult {
    /// The exit code; 128 + n for a program that signal n killed, so that a crashed checker never looks content.
    var status: Int32
    /// Standard output and standard error, as they came.
    var output: String
}

enum Tools {
    /// Runs a program of the system and waits. Not by Process: that costs more than e2fsck itself.
    static func run(_ arguments: String...) -> ProgramResult { run(arguments) }

    static func run(_ arguments: [String], outputFile: String? = nil) -> ProgramResult {
        let path = outputFile ?? TemporaryFile.newPath("out")
        defer { if outputFile == nil { unlink(path) } }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        // A frozen time makes the same image from the same arguments.
        let settings = [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "MKE2FS_SYNC=0", "E2FSPROGS_FAKE_TIME=1700000000",
            "E2FSCK_TIME=1700000000",
        ]
        var environment: [UnsafeMutablePointer<CChar>?] = settings.map { strdup($0) } + [nil]
        defer { (words + environment).forEach { free($0) } }
        var child: pid_t = 0
        let result = posix_spawnp(&child, arguments[0], &actions, nil, &words, &environment)
        guard result == 0 else { return ProgramResult(status: 127, output: "\(arguments[0]): errno \(result)") }
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        let signal = status & 0x7f
        let code = signal != 0 ? 128 + signal : (status >> 8) & 0xff
        guard outputFile == nil, let text = FileManager.default.contents(atPath: path) else {
            return ProgramResult(status: code, output: "")
        }
        return ProgramResult(status: code, output: String(decoding: text, as: UTF8.self))
    }
}

/// A file that goes away with the object; in memory where the system has such a place.
final class TemporaryFile {
    let path: String

    init(_ name: String, contents: [UInt8]? = nil) {
        path = Self.newPath(name)
        if let contents { write(contents) }
    }

    deinit { unlink(path) }

    static func newPath(_ name: String) -> String {
        let folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : NSTemporaryDirectory()
        return "\(folder)/jext4-\(getpid())-\(UInt32.random(in: 0 ... .max))-\(name)"
    }

    func write(_ contents: [UInt8]) {
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        precondition(file >= 0, "cannot write \(path): errno \(errno)")
        defer { close(file) }
        var done = 0
        while done < contents.count {
            let count = contents.withUnsafeBytes { Glibc.write(file, $0.baseAddress! + done, contents.count - done) }
            precondition(count > 0, "cannot write \(path): errno \(errno)")
            done += count
        }
    }

    var contents: [UInt8] { [UInt8](FileManager.default.contents(atPath: path) ?? Data()) }
}

/// What a test needs beyond the package. On a CI machine a missing need fails the test instead of skipping it.
enum Need {
    static let isCI = ProcessInfo.processInfo.environment["CI"] == "true"
    /// Whether samples are to be all there is: `make soak`.
    static let isSoak = ProcessInfo.processInfo.environment["JEXT4_SOAK_MINUTES"] != nil

    /// The folder of shared fixtures: JEXT4_SHARED, or ../shared beside the package.
    static let sharedFolder: String = {
        if let path = ProcessInfo.processInfo.environment["JEXT4_SHARED"] { return path }
        let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        return package.deletingLastPathComponent().appendingPathComponent("shared").path
    }()

    static let sharedFixtures = isCI || access(sharedFolder + "/fixtures", R_OK) == 0
    static let loopMounts = isCI || geteuid() == 0 && access("/dev/loop-control", R_OK | W_OK) == 0
}
