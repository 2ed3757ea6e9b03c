import BlockIO
import Checker

/// Whether a volume is sound, asked of two that know nothing of each other.
enum Structure {
    /// What our own checker and e2fsck have to say of a recovered volume; empty: nothing.
    static func complaints(of disk: any BlockDevice) throws -> [String] {
        let image = TemporaryFile("image", contents: try contents(disk))
        return VolumeChecker(disk).check().map(\.description) + e2fsck(image.path)
    }

    /// A count that e2fsck would correct is in its output alone, and not in its exit code.
    static func e2fsck(_ path: String) -> [String] {
        let check = Tools.run("e2fsck", "-fn", path)
        let isContent = check.status == 0 && !check.output.contains("counted=")
        return isContent ? [] : ["e2fsck: exit \(check.status)\n\(check.output)"]
    }
}
