internal import CFuseShims
internal import Ext4Format
internal import FileSystem

// The set-user-id and set-group-id bits of files, which FUSE_HANDLE_KILLPRIV_V2 leaves to the server.
extension Request {
    /// The permissions that a change of the owner or of the data leaves to a file; nil when it leaves all. Without are
    /// the set-user-id bit and the set-group-id bit; the second stays where the group may not execute the file, and the
    /// caller belongs to it or may set the bit anyway.
    func unprivilegedMode(of inode: InodeNumber) throws(Ext4Error) -> UInt16? {
        let attributes = try fileSystem.attributes(of: inode)
        let mode = attributes.mode
        guard FileType(mode: mode) != .directory, mode & 0o6000 != 0 else { return nil }
        let keepsGroup = mode & 0o2010 == 0o2000 && (isInGroup(attributes.gid) || holds(.keepSetID))
        let kept: UInt16 = keepsGroup ? 0o3777 : 0o1777
        return mode & 0o7777 == mode & kept ? nil : mode & kept
    }

    /// A change of the data by someone who may not keep them takes the bits away.
    func killPrivileges(of inode: InodeNumber) throws(Ext4Error) {
        guard let mode = try unprivilegedMode(of: inode), !holds(.keepSetID) else { return }
        var changes = AttributeChanges()
        changes.mode = mode
        _ = try fileSystem.setAttributes(of: inode, changes)
        // The kernel would go on to run the file with the mode that it remembers.
        session.forgetAttributes(of: inode)
    }

    private func isInGroup(_ group: UInt32) -> Bool {
        caller.gid == group || jext4_has_group(callerProcess.id, group)
    }
}
