extension SuperBlock {
    private enum BackupLayout {
        static var magic: LE<UInt16> { LE(0) }
        static var sizeHigh: LE<UInt32> { LE(60) }
        static var sizeLow: LE<UInt32> { LE(64) }
    }

    /// The journal inode as the super block remembers it: enough to find its blocks. Nil when it remembers nothing.
    package var rememberedJournal: InodeRecord? {
        let backup = journalBackup
        guard !backup.isEmpty else { return nil }
        let bytes = unsafe backup.span.bytes
        var record = InodeRecord(mode: 0o100600, uid: 0, gid: 0, now: .zero, extraSize: 0, generation: 0)
        record.size = UInt64(bytes[BackupLayout.sizeHigh]) << 32 | UInt64(bytes[BackupLayout.sizeLow])
        if bytes[BackupLayout.magic] == ExtentNode.magic { record.flags.insert(.extents) }
        for index in 0..<InodeRecord.areaByteCount { record.blockArea[index] = backup[index] }
        return record
    }
}
