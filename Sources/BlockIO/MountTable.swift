internal import Glibc

/// One line of /proc/self/mountinfo.
package struct MountRecord: Equatable, Sendable {
    /// "major:minor" of the file system, as stat(2) gives it for its files.
    package let device: String
    package let directory: String
    package let type: String
    package let source: String
    /// Who mounted it, by the mount's own option; root for a mount without one.
    package let user: UInt32
    /// The group of that user, in the same way.
    package let group: UInt32

    package init(device: String, directory: String, type: String, source: String, user: UInt32, group: UInt32) {
        self.device = device
        self.directory = directory
        self.type = type
        self.source = source
        self.user = user
        self.group = group
    }

    /// Whether a jext4 serves it.
    package var isOurs: Bool { type == "fuse.\(MountTable.subtype)" || type == "fuseblk.\(MountTable.subtype)" }
    /// Whether the kernel treats it as a disk: it then sends syncfs, and waits for us at umount.
    package var isBlock: Bool { type.hasPrefix("fuseblk") }
}

package enum MountTable {
    /// What the type of our mounts says after "fuse." or "fuseblk.".
    package static var subtype: String { "jext4" }

    /// The file system that is on top at `directory`, an absolute path without symbolic links.
    package static func record(at directory: String) -> MountRecord? {
        records.last { $0.directory == directory }
    }

    /// What this process sees, in the order of mounting.
    package static var records: [MountRecord] { records(in: readText("/proc/self/mountinfo") ?? "") }

    /// Fields 3 and 5, and 1 and 2 behind the lone hyphen (proc(5)).
    package static func records(in text: String) -> [MountRecord] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ", omittingEmptySubsequences: false)
            guard fields.count > 6, let hyphen = fields[6...].firstIndex(of: "-"), hyphen + 2 < fields.count else {
                return nil
            }
            let options = fields.last ?? ""
            return MountRecord(
                device: String(fields[2]), directory: unescape(fields[4]), type: unescape(fields[hyphen + 1]),
                source: unescape(fields[hyphen + 2]), user: number("user_id=", in: options),
                group: number("group_id=", in: options))
        }
    }

    /// 0 where the options do not have it.
    private static func number(_ name: String, in options: Substring) -> UInt32 {
        let word = options.split(separator: ",").first { $0.hasPrefix(name) }
        return word.flatMap { UInt32($0.dropFirst(name.count)) } ?? 0
    }

    /// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
    private static func unescape(_ field: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(field.utf8)[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3, digits.allSatisfy({ (0x30...0x37).contains($0) }) {
                bytes.append(digits.reduce(0) { $0 &* 8 &+ ($1 - 0x30) })
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// The absolute path without symbolic links. Nil (and errno) when there is no such file.
package func resolvedPath(_ path: String) -> String? {
    guard let resolved = unsafe realpath(path, nil) else { return nil }
    defer { unsafe free(resolved) }
    return unsafe String(cString: resolved)
}
