internal import Ext4Format
package import FileSystem
internal import Journal

/// What `jext4 status` tells of a mount. The names of the fields are a stable interface: none changes or goes away.
package struct StatusReport: Equatable, Sendable {
    package enum Value: Equatable, Sendable {
        case text(String)
        case number(UInt64)
        case truth(Bool)
    }
    package private(set) var fields: [(name: String, value: Value)] = []

    package static func == (a: Self, b: Self) -> Bool {
        a.fields.elementsEqual(b.fields) { $0.name == $1.name && $0.value == $1.value }
    }

    package init(fields: [(name: String, value: Value)]) { self.fields = fields }

    package init(
        _ fileSystem: FileSystem, image: String, directory: String, type: String, process: Int32, usesRings: Bool
    ) {
        let statistics = fileSystem.statistics()
        fields = [
            ("version", .text(Product.version)), ("process", .number(UInt64(process))), ("image", .text(image)),
            ("directory", .text(directory)), ("type", .text(type)), ("read_only", .truth(fileSystem.isReadOnly)),
            ("volume_name", .text(fileSystem.volumeName)), ("uuid", .text(Self.uuidText(fileSystem.uuid))),
            ("block_bytes", .number(UInt64(statistics.blockByteCount))), ("blocks", .number(statistics.blocks)),
            ("free_blocks", .number(statistics.freeBlocks)),
            ("available_blocks", .number(statistics.availableBlocks)), ("inodes", .number(statistics.inodes)),
            ("free_inodes", .number(statistics.freeInodes)),
            ("transport", .text(usesRings ? "io_uring" : "device")),
        ]
        addErrors(fileSystem)
        if let counters = fileSystem.journalCounters { add(counters) }
    }

    private mutating func addErrors(_ fileSystem: FileSystem) {
        let errors = fileSystem.errors
        fields += [
            ("shut_down", .truth(fileSystem.isShutDown)), ("errors", .number(UInt64(errors.count))),
        ]
        for (name, event) in [("first", errors.first), ("last", errors.last)] {
            guard let event else { continue }
            fields += [
                ("\(name)_error_time", .number(event.seconds)), ("\(name)_error_inode", .number(UInt64(event.inode))),
                ("\(name)_error_block", .number(event.block)), ("\(name)_error_function", .text(event.function)),
                ("\(name)_error_line", .number(UInt64(event.line))),
                ("\(name)_error_code", .number(UInt64(event.code.rawValue))),
            ]
        }
        if let cause = fileSystem.abortCause { fields.append(("journal_aborted", .text(cause.description))) }
    }

    /// The figures of /proc/fs/jbd2/DEVICE/info, with averages over the commits; times in microseconds.
    private mutating func add(_ counters: JournalCounters) {
        let commits = UInt64(max(counters.commits, 1))
        func average(_ nanoseconds: UInt64) -> Value { .number(nanoseconds / commits / 1000) }
        func each(_ count: Int) -> Value { .number(UInt64(count) / commits) }
        fields += [
            ("journal_transactions", .number(UInt64(counters.commits))),
            ("journal_requested", .number(UInt64(counters.requested))),
            ("journal_max_blocks", .number(UInt64(counters.maximumBlocks))),
            ("journal_wait_us", average(counters.waiting)),
            ("journal_request_delay_us", average(counters.requestDelay)),
            ("journal_running_us", average(counters.running)), ("journal_locked_us", average(counters.locked)),
            ("journal_flushing_us", average(counters.flushing)), ("journal_logging_us", average(counters.logging)),
            ("journal_commit_us", .number(counters.averageCommit / 1000)),
            ("journal_handles_per_transaction", each(counters.handles)),
            ("journal_blocks_per_transaction", each(counters.loggedBlocks)),
            ("journal_logged_blocks_per_transaction", each(counters.logBlocks)),
            ("journal_revokes", .number(UInt64(counters.revokes))),
            ("journal_checkpoints", .number(UInt64(counters.checkpoints))),
            ("journal_home_blocks", .number(UInt64(counters.homeBlocks))),
        ]
    }

    private static func uuidText(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef")
        var text = ""
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text.append("-") }
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return text
    }

    /// One JSON object on one line.
    package var json: String {
        var line = JSONLine()
        for field in fields {
            switch field.value {
            case .text(let text): line.add(field.name, text)
            case .number(let number): line.add(field.name, number)
            case .truth(let truth): line.add(field.name, truth)
            }
        }
        return line.text
    }

    /// One field per line, for people.
    package var text: String {
        fields.map { field in
            switch field.value {
            case .text(let text): "\(field.name): \(PrintableText.of(Array(text.utf8)))\n"
            case .number(let number): "\(field.name): \(number)\n"
            case .truth(let truth): "\(field.name): \(truth ? "yes" : "no")\n"
            }
        }.joined()
    }
}
