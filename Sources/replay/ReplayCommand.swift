internal import ArgumentParser
internal import Ext4Format
internal import FileSystem
internal import Glibc

struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jext4-replay",
        abstract: "Show, plan, apply and take back what the journal of an unmounted ext4 image holds; read write logs.",
        discussion:
            "Exits as fsck does: 0 nothing to do, 1 changed, 4 damage, 8 failed, 16 usage. See jext4-replay(1).",
        version: Product.version,
        subcommands: [Show.self, Plan.self, Apply.self, Undo.self, Extract.self, Log.self, Crash.self])

    /// Parses and runs; answers the exit status. ArgumentParser's own status for a bad command line is not fsck's.
    static func start(_ arguments: [String]) -> CInt {
        var command: any ParsableCommand
        do {
            command = try parseAsRoot(arguments)
        } catch {
            let isHelp = exitCode(for: error).isSuccess
            Output.write(fullMessage(for: error) + "\n", toErrors: !isHelp)
            return isHelp ? Status.nothing : Status.usage
        }
        do {
            try command.run()
            return Status.nothing
        } catch let status as Status {
            return status.code
        } catch let error as Ext4Error {
            Output.write("jext4-replay: \(error)\n", toErrors: true)
            return Status(of: error).code
        } catch {
            // Only --help and the like of a command without a body end here.
            let isHelp = exitCode(for: error).isSuccess
            Output.write(fullMessage(for: error) + "\n", toErrors: !isHelp)
            return isHelp ? Status.nothing : Status.usage
        }
    }
}

/// fsck's exit bits, thrown by a command that ends with another than 0.
struct Status: Error {
    let code: CInt
    static var nothing: CInt { 0 }
    /// The log was replayed, or a replay was taken back.
    static var changed: CInt { 1 }
    static var damaged: CInt { 4 }
    static var failed: CInt { 8 }
    static var usage: CInt { 16 }

    init(_ code: CInt) { self.code = code }

    /// What contradicts itself was left as it is; what could not be read, written or claimed is operational.
    init(of error: Ext4Error) {
        switch error {
        case .corrupt, .unsupported: code = Self.damaged
        case .io, .aborted, .lost, .shutDown, .posix, .refused: code = Self.failed
        }
    }
}

/// What every command takes.
struct ImageOptions: ParsableArguments {
    @Flag(help: "Print JSON Lines, as docs/jext4-replay.md describes them.")
    var json = false
    @Flag(help: "Tell on standard error how far it has come; on a terminal that is done whenever it takes a while.")
    var progress = false
    @Option(help: "Byte of the file where the volume begins, a multiple of 512.")
    var offset: UInt64 = 0
    @Option(
        help: ArgumentHelp("The device or file with the journal of a volume that has it elsewhere.", valueName: "file"),
        completion: .file())
    var journal: String?
    @Argument(help: ArgumentHelp("An image file or block device with ext4.", valueName: "image"), completion: .file())
    var image: String

    func validate() throws {
        guard offset % 512 == 0 else { throw ValidationError("--offset must be a multiple of 512") }
    }
}
