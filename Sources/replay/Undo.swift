internal import ArgumentParser
internal import BlockIO
internal import Ext4Format
internal import FileSystem
internal import Offline

struct Undo: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Take back what apply --undo did.",
        discussion: """
            Also takes back an apply that was cut short, and undo files of e2fsprogs. The whole file is verified \
            before anything is written. An image that something else has changed since is left alone.

            Example:
              jext4-replay undo disk.undo disk.img
            """)
    @Flag(help: "Print JSON Lines, as docs/jext4-replay.md describes them.")
    var json = false
    @Flag(help: "Write back the blocks even if something else has changed the volume since.")
    var force = false
    @Flag(name: .customLong("ignore-mmp"), help: "Nobody has the volume mounted, whatever its MMP block says.")
    var ignoreMMP = false
    @Option(help: "Byte of the image where the volume begins, if not where the undo file says.")
    var offset: UInt64?
    @Argument(help: ArgumentHelp("What apply --undo made.", valueName: "undo-file"), completion: .file())
    var file: String
    @Argument(help: ArgumentHelp("The image that it was made from.", valueName: "image"), completion: .file())
    var image: String

    func validate() throws {
        guard (offset ?? 0) % 512 == 0 else { throw ValidationError("--offset must be a multiple of 512") }
    }

    func run() throws {
        let undo = try UndoFile(file)
        let claim = try OpenImage.claim(image, forWriting: true)
        let device = try FileDevice(path: claim.path, readOnly: false, direct: .never, start: offset ?? undo.offset)
        if !force { try undo.check(device) }
        if !ignoreMMP { try OfflineVolume.requireUnused(device) }
        try undo.restore(to: device)
        Report(json: json).undone(blocks: undo.blockCount)
        throw Status(Status.changed)
    }
}
