internal import Ext4Format

/// What a new inode gets from the default list of its directory.
struct InheritedACL: Equatable {
    /// The mode that was asked for, with the permissions that remain; all other bits as they came.
    let mode: UInt16
    /// As ext4 stores them; nil for none.
    let access: [UInt8]?
    let defaults: [UInt8]?

    /// `parentDefault` is the directory's default list as ext4 stores it. Without one the umask counts, and only then.
    /// Not for symbolic links, which have neither. `.corrupt` when the list is none.
    static func from(
        parentDefault: [UInt8]?, mode: UInt16, umask: UInt16, isDirectory: Bool
    ) throws(Ext4Error) -> InheritedACL {
        guard let parentDefault, var list = try AccessControlList.decoding(stored: parentDefault) else {
            return InheritedACL(mode: mode & ~(umask & 0o777), access: nil, defaults: nil)
        }
        let defaults = isDirectory ? list.stored : nil
        let restricted = list.restrict(toMode: mode)
        return InheritedACL(mode: restricted, access: list.isEquivalentToMode ? nil : list.stored, defaults: defaults)
    }
}
