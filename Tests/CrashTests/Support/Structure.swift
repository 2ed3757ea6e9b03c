import BlockIO
import Checker
import Foundation

/// Whether a volume is sound, asked of three that know nothing of each other.
enum Structure {
    /// Begins what is said where some complain and others do not.
    static let disagreement = "the oracles disagree"

    /// What our own checker, libext2fs and e2fsck have to say of a recovered volume; empty: nothing.
    static func complaints(of disk: any BlockDevice) throws -> [String] {
        let image = TemporaryFile("image", contents: try contents(disk))
        let judges = [
            ("our checker", VolumeChecker(disk).check().map(\.description)),
            ("libext2fs", LibraryCheck.complaints(of: image.path)), ("e2fsck", e2fsck(image.path)),
        ]
        let silent = judges.filter(\.1.isEmpty).map(\.0), complaints = judges.flatMap(\.1)
        guard !complaints.isEmpty, !silent.isEmpty else { return complaints }
        return ["\(disagreement): nothing from \(silent.joined(separator: " and "))"] + complaints
    }

    /// Of what e2fsck does not think grave it only says that it would correct it, and exits with 0. That a time lies in
    /// the future is said of our frozen clock, and an extent tree that could be shorter is sound.
    static func e2fsck(_ path: String) -> [String] {
        let check = Tools.run("e2fsck", "-fn", path)
        func count(_ text: String) -> Int { check.output.components(separatedBy: text).count - 1 }
        let harmless = count(" is in the future.\n") + count("Optimize? no\n")
        let isContent = check.status == 0 && count("? no\n") == harmless
        return isContent ? [] : ["e2fsck: exit \(check.status)\n\(check.output)"]
    }
}
