internal import Ext4Format
internal import Glibc

extension Ext4Error {
    /// What a system call that met this error returns.
    package var systemNumber: CInt {
        switch self {
        case .io, .lost, .shutDown: EIO
        case .corrupt: EUCLEAN
        case .unsupported, .refused: EOPNOTSUPP
        case .aborted: EROFS
        case .posix(let number): number
        }
    }

    /// Whether the volume or the device is at fault, so that someone should read of it in the log.
    package var isWorthLogging: Bool {
        switch self {
        case .posix, .shutDown: false
        default: true
        }
    }
}
