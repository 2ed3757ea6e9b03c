internal import BlockIO
internal import Ext4Format
internal import Glibc
internal import Offline
internal import Synchronization

/// Somebody's command that judges an image: it gets a fresh copy each time, and may write it.
struct CheckCommand: Sendable {
    /// With {} in the place of the image.
    let words: [String]
    /// What the copy is made of; nil: zeros.
    let base: String?
    let byteCount: UInt64

    /// How the command ended.
    struct Outcome {
        /// The exit status; nil when a signal ended it.
        let status: CInt?
        let signal: CInt?
        /// The last lines of what a command said that failed.
        let said: [String]

        /// `wait` is what waitpid(2) tells.
        init(wait: CInt, said: [String]) {
            let signal = wait & 0x7f
            (status, self.signal) = signal == 0 ? (wait >> 8 & 0xff, nil) : (nil, signal)
            self.said = said
        }

        var isGood: Bool { status == 0 }
        var how: String { status.map { "status \($0)" } ?? "killed by signal \(signal ?? 0)" }
    }
    private static let saidLineLimit = 20

    static func hasPlace(_ words: [String]) -> Bool { words.contains { $0.contains("{}") } }

    private static let serial = Atomic(0)

    /// Runs the command on a copy of the base that `change` has been done to. The copy is a sparse file in TMPDIR
    /// (/tmp) and goes away.
    func check(_ change: (FileDevice) throws(Ext4Error) -> Void) throws(Ext4Error) -> Outcome {
        let folder = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        let number = Self.serial.add(1, ordering: .relaxed).newValue
        let path = "\(folder)/jext4-replay-\(getpid())-\(number).img"
        try make(path, change)
        defer { NewFile.remove(path) }
        let said = path + ".said"
        try NewFile.make(said, byteCount: 0)
        defer { NewFile.remove(said) }
        let status = try spawn(words.map { Self.replacing($0, with: path) }, output: said)
        let lines = status == 0 ? [] : (readText(said) ?? "").split(whereSeparator: \.isNewline)
        return Outcome(wait: status, said: lines.suffix(Self.saidLineLimit).map { String($0) })
    }

    /// Makes a file of the base, and does `change` to it.
    func make(_ path: String, _ change: (FileDevice) throws(Ext4Error) -> Void) throws(Ext4Error) {
        if let base {
            try ImageCopy.make(of: base, at: path, isDurable: false)
        } else {
            try NewFile.make(path, byteCount: byteCount)
        }
        do throws(Ext4Error) {
            try change(try FileDevice(path: path, readOnly: false))
        } catch {
            NewFile.remove(path)
            throw error
        }
    }

    private static func replacing(_ word: String, with path: String) -> String {
        var result = "", rest = word[...]
        while let brace = rest.firstIndex(of: "{") {
            result += rest[..<brace]
            rest = rest[brace...]
            let isPlace = rest.hasPrefix("{}")
            result += isPlace ? path : "{"
            rest = rest.dropFirst(isPlace ? 2 : 1)
        }
        return result + rest
    }

    /// What it says on both streams goes to `output`, a new file. Answers what waitpid(2) tells of its end.
    private func spawn(_ words: [String], output: String) throws(Ext4Error) -> CInt {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        unsafe posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, O_WRONLY | O_NOFOLLOW, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
        defer { unsafe arguments.forEach { unsafe free($0) } }
        var process = pid_t()
        let result = unsafe posix_spawnp(&process, words[0], &actions, nil, &arguments, environ)
        guard result == 0 else { throw .refused("cannot run \(words[0]): \(systemText(result))") }
        var status: CInt = 0
        while unsafe waitpid(process, &status, 0) < 0 {
            guard errno == EINTR else { throw .refused("cannot wait for \(words[0]): \(systemText(errno))") }
        }
        return status
    }
}
