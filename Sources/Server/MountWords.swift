package import Ext4Format
package import FileSystem

/// The words of `-o`, decided: what the volume, the connection and the kernel are to do.
package struct MountWords: Equatable, Sendable {
    package var isReadOnly = false
    package var skipsRecovery = false
    /// Where the volume starts in the image, in bytes.
    package var offset: UInt64 = 0
    /// The longest time in seconds that a change stays in memory alone.
    package var commitSeconds = 5
    package var errors: ErrorPolicy?
    /// Bytes for cached metadata; nil for the default.
    package var cacheByteCount: Int?
    package var discards = false
    package var isSynchronous = false
    package var hasSynchronousNames = false
    package var writesOutOfPlace = false
    package var allowsOther = false
    package var usesAccessLists = true
    package var lockFile: String?
    package var recordFile: String?
    /// The device or file with the journal of a volume that has it elsewhere.
    package var journalPath: String?
    package var allowsSetID = true
    package var allowsDevices = true
    package var allowsExecution = true
    package var movesAccessTimes = true
    package var movesDirectoryAccessTimes = true
    package var usesWritebackCache = false
    package var rings = Rings.asOffered
    /// The kernel is to move file data itself, or else there is no mount.
    package var demandsIomap = false

    /// Whether requests are to come over io_uring.
    package enum Rings: Sendable {
        /// Where the kernel offers it.
        case asOffered
        /// Or else there is no mount. As root, the kernel's switch is turned on for it.
        case demanded
        case never
    }

    package enum ErrorPolicy: String, Sendable {
        case remountReadOnly = "remount-ro"
        case ignore = "continue"
        case panic
    }

    package init() {}

    /// Reads comma lists as mount(8) passes them, the later word winning. `.refused` names a word that is not known or
    /// whose value makes no sense.
    package init(parsing lists: [String]) throws(Ext4Error) {
        for list in lists {
            for word in list.split(separator: ",", omittingEmptySubsequences: true) { try take(String(word)) }
        }
        if recordFile != nil && journalPath != nil {
            throw .refused("option 'record' logs one device, and 'journal_dev' names another")
        }
        if recordFile != nil && demandsIomap {
            throw .refused("option 'record' logs what this server writes, and with 'iomap' the kernel writes the data")
        }
        if rings == .demanded && demandsIomap { throw .refused("options 'io_uring' and 'iomap' are two ways for one") }
        if skipsRecovery && !isReadOnly { throw .refused("option 'norecovery' needs 'ro' beside it") }
    }

    private mutating func take(_ word: String) throws(Ext4Error) {
        if Self.isForOthers(word) { return }
        if let equals = word.firstIndex(of: "=") {
            try take(String(word[..<equals]), String(word[word.index(after: equals)...]), word)
        } else {
            try take(flag: word)
        }
    }

    /// Words for mount(8), systemd or the user's own use; those that say what is so anyway; and those with which ext4
    /// is tuned, so that a line of fstab may stay as it is.
    private static func isForOthers(_ word: String) -> Bool {
        let ignored: Set<String> = [
            "defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "group", "owner", "nofail",
            "_netdev", "loop", "relatime", "norelatime", "nolazytime", "user_xattr", "barrier", "barrier=1",
            "data=ordered", "default_permissions", "noiversion", "bsddf", "nogrpid", "sysvgroups", "nodelalloc",
            "auto_da_alloc", "block_validity",
            "delalloc", "lazytime", "dioread_lock", "dioread_nolock", "init_itable", "noinit_itable", "nombcache",
        ]
        let beginnings = [
            "x-", "X-", "comment=", "uhelper=", "helper=", "stripe=", "inode_readahead_blks=", "max_batch_time=",
            "min_batch_time=", "journal_ioprio=", "init_itable=",
        ]
        return ignored.contains(word) || beginnings.contains { word.hasPrefix($0) }
    }

    private mutating func take(flag word: String) throws(Ext4Error) {
        switch word {
        case "ro": isReadOnly = true
        case "rw": isReadOnly = false
        case "norecovery", "noload": skipsRecovery = true
        case "discard": discards = true
        case "nodiscard": discards = false
        case "sync": isSynchronous = true
        case "async": (isSynchronous, hasSynchronousNames) = (false, false)
        case "dirsync": hasSynchronousNames = true
        case "outofplace": writesOutOfPlace = true
        case "nooutofplace": writesOutOfPlace = false
        case "allow_other": allowsOther = true
        case "acl": usesAccessLists = true
        case "noacl": usesAccessLists = false
        case "suid": allowsSetID = true
        case "nosuid": allowsSetID = false
        case "dev": allowsDevices = true
        case "nodev": allowsDevices = false
        case "exec": allowsExecution = true
        case "noexec": allowsExecution = false
        case "atime": movesAccessTimes = true
        case "noatime": movesAccessTimes = false
        case "diratime": movesDirectoryAccessTimes = true
        case "nodiratime": movesDirectoryAccessTimes = false
        case "writeback": usesWritebackCache = true
        case "io_uring": rings = .demanded
        case "noio_uring": rings = .never
        case "iomap": demandsIomap = true
        case "noiomap": demandsIomap = false
        default: throw .refused("unknown mount option '\(word)'")
        }
    }

    private mutating func take(_ name: String, _ value: String, _ word: String) throws(Ext4Error) {
        func senseless(_ wanted: String) -> Ext4Error { .refused("mount option '\(word)': \(wanted)") }
        switch name {
        case "offset":
            guard let bytes = Self.byteCount(value), bytes % 512 == 0 else {
                throw senseless("a multiple of 512 bytes, or a number with k, m or g")
            }
            offset = bytes
        case "commit":
            // As with ext4, 0 means the default.
            guard let seconds = Int(value), (0...900).contains(seconds) else {
                throw senseless("0 to 900 seconds")
            }
            commitSeconds = seconds == 0 ? Self().commitSeconds : seconds
        case "errors":
            guard let policy = ErrorPolicy(rawValue: value) else {
                throw senseless("continue, remount-ro or panic")
            }
            errors = policy
        case "cache_size":
            guard let bytes = Self.byteCount(value), bytes >= 1 << 20, let count = Int(exactly: bytes) else {
                throw senseless("the cache needs 1m or more")
            }
            cacheByteCount = count
        case "lockfile":
            guard !value.isEmpty else { throw senseless("the name of a file") }
            lockFile = value
        case "journal_dev", "journal_path":
            guard !value.isEmpty else { throw senseless("the name of a file") }
            journalPath = value
        case "record":
            guard !value.isEmpty else { throw senseless("the name of a file") }
            recordFile = value
        default: throw .refused("unknown mount option '\(word)'")
        }
    }

    /// A count of bytes with an optional k, m or g (powers of 1024).
    static func byteCount(_ text: String) -> UInt64? {
        let units: [Character: UInt64] = ["k": 1 << 10, "m": 1 << 20, "g": 1 << 30]
        guard let last = text.last else { return nil }
        let unit = units[Character(last.lowercased())]
        guard let count = UInt64(unit == nil ? text : String(text.dropLast())) else { return nil }
        let (bytes, overflow) = count.multipliedReportingOverflow(by: unit ?? 1)
        return overflow ? nil : bytes
    }

    /// What the file system is told.
    package var volumeOptions: MountOptions {
        var options = MountOptions()
        options.readOnly = isReadOnly
        options.noRecovery = skipsRecovery
        options.commitSeconds = commitSeconds
        if let cacheByteCount { options.cacheByteCount = cacheByteCount }
        options.discard = discards
        options.synchronousNames = isSynchronous || hasSynchronousNames
        options.awaitsForgets = true
        options.outOfPlace = writesOutOfPlace
        options.usesAccessLists = usesAccessLists
        options.movesAccessTimes = movesAccessTimes
        options.movesDirectoryAccessTimes = movesDirectoryAccessTimes
        options.kernelKeepsTimes = usesWritebackCache
        options.errors =
            switch errors {
            case nil: nil
            case .remountReadOnly: .remountReadOnly
            case .ignore: .continue
            case .panic: .panic
            }
        return options
    }
}
