internal import ArgumentParser
internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Server

struct Command: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jext4", abstract: "Mount ext4 images and disks in user space, with a journal.",
        version: Product.version, subcommands: [Mount.self, Umount.self, Sync.self, Status.self, Mark.self])
}

/// What the commands exit with beside 0; 64 is a command line that makes no sense.
enum Failure {
    /// As mount(8) and umount(8) have it.
    static var mount: CInt { 32 }
    static var other: CInt { 1 }

    /// Says one line and gives the exit status.
    static func say(_ error: Ext4Error, _ status: CInt) -> CInt {
        let line = "jext4: \(error)\n"
        unsafe line.withCString { _ = unsafe write(STDERR_FILENO, $0, strlen($0)) }
        return status
    }

    /// Runs `body`; when it fails, says why and ends the program.
    static func orExit(_ status: CInt, _ body: () throws(Ext4Error) -> Void) {
        do throws(Ext4Error) { try body() } catch { exit(say(error, status)) }
    }
}

struct Mount: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Mount IMAGE, an ext4 image file or block device, on DIR.",
        discussion: """
            Returns when the mount answers; with -f, when it has been unmounted. Options as with mount(8), among them \
            ro, norecovery, offset=BYTES, commit=SECONDS, errors=continue|remount-ro|panic, cache_size=N[kmg], \
            discard, allow_other, noacl, nosuid, nodev, noexec, lockfile=FILE and record=LOG. See jext4(1).
            """)

    @Flag(name: .customShort("f"), help: "Stay in the foreground.")
    var isForeground = false
    @Option(name: .customShort("o"), help: ArgumentHelp("Mount options.", valueName: "options"))
    var lists: [String] = []
    @Argument(help: ArgumentHelp("The image file or block device.", valueName: "image"), completion: .file())
    var image: String
    @Argument(help: ArgumentHelp("The directory to mount on.", valueName: "dir"), completion: .directory)
    var directory: String

    func run() {
        Failure.orExit(Failure.mount) { () throws(Ext4Error) in
            let words = try MountWords(parsing: lists)
            try Launcher.mount(
                MountPlan(
                    image: image, directory: directory, words: words, isForeground: isForeground,
                    recorder: startRecording))
        }
    }
}

struct Umount: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Unmount DIR, and return when everything is on the device.")

    @Argument(help: ArgumentHelp("Where it is mounted.", valueName: "dir"), completion: .directory)
    var directory: String

    func run() {
        Failure.orExit(Failure.mount) { () throws(Ext4Error) in try MountClient(directory).unmount() }
    }
}

struct Sync: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Return when everything written to DIR so far is on the device.")

    @Argument(help: ArgumentHelp("Where it is mounted.", valueName: "dir"), completion: .directory)
    var directory: String

    func run() {
        Failure.orExit(Failure.other) { () throws(Ext4Error) in try MountClient(directory).sync() }
    }
}

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show what is mounted on DIR, and how it is.")

    @Flag(name: .customLong("json"), help: "One JSON object on one line.")
    var isJSON = false
    @Argument(help: ArgumentHelp("Where it is mounted.", valueName: "dir"), completion: .directory)
    var directory: String

    func run() {
        Failure.orExit(Failure.other) { () throws(Ext4Error) in
            print(try MountClient(directory).status(json: isJSON), terminator: "")
        }
    }
}

struct Mark: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Put a mark into the log of a mount with -o record=LOG.",
        discussion: "The mark comes behind all that is durable by now. See docs/RECORDING.md.")

    @Argument(help: ArgumentHelp("Where it is mounted.", valueName: "dir"), completion: .directory)
    var directory: String
    @Argument(help: ArgumentHelp("One line of 1 to 479 bytes.", valueName: "label"))
    var label: String

    func run() {
        Failure.orExit(Failure.other) { () throws(Ext4Error) in try MountClient(directory).mark(label) }
    }
}
