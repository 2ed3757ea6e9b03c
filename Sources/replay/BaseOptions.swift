internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format

/// The disk before a log began.
struct BaseOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("The disk before the log began; without it, one of zeros.", valueName: "image"),
        completion: .file())
    var base: String?
    @Option(help: ArgumentHelp("Of the disk without --base; as far as the log reaches by default.", valueName: "bytes"))
    var size: UInt64?

    func validate() throws {
        guard size.map({ $0 > 0 && $0 % 4096 == 0 && $0 < 1 << 63 }) ?? true else {
            throw ValidationError("--size must be a multiple of 4096 that a file can have")
        }
    }

    func open(_ options: LogOptions) throws(Ext4Error) -> BaseDisk { try BaseDisk(self, options) }
}

/// That disk, claimed and opened for reading.
struct BaseDisk {
    let device: any BlockDevice
    /// Nil for zeros.
    let path: String?
    private let claim: ImageClaim?

    init(_ start: BaseOptions, _ options: LogOptions) throws(Ext4Error) {
        claim = try start.base.map { name throws(Ext4Error) in try OpenImage.claim(name, forWriting: false) }
        path = claim?.path
        if let claim {
            device = try FileDevice(path: claim.path, readOnly: true)
            guard device.byteCount > 0 else { throw .refused("\(claim.path) is too short for a disk") }
        } else {
            let byteCount = if let size = start.size { size } else { try options.reach() }
            device = EmptyDevice(byteCount: byteCount, sectorByteCount: try options.open().sectorByteCount)
        }
    }
}
