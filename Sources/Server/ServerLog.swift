internal import CFuseShims
internal import Glibc
package import Logging
internal import Synchronization

/// Lines to standard error and, from a server in the background, to the system log.
package struct ServerLogHandler: LogHandler {
    package var metadata: Logger.Metadata = [:]
    package var logLevel: Logger.Level = .info
    package let usesSystemLog: Bool

    package init(usesSystemLog: Bool) { self.usesSystemLog = usesSystemLog }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        // In the background it is the terminal's until the mount answers, and nobody's from then on.
        let line = "jext4: \(event.message)\n"
        unsafe line.withCString { _ = unsafe write(STDERR_FILENO, $0, strlen($0)) }
        guard usesSystemLog else { return }
        let priority =
            switch event.level {
            case .trace, .debug: LOG_DEBUG
            case .info: LOG_INFO
            case .notice: LOG_NOTICE
            case .warning: LOG_WARNING
            case .error: LOG_ERR
            case .critical: LOG_CRIT
            }
        unsafe jext4_syslog(priority, "jext4: \(event.message)")
    }
}

/// Says each thing once: a damaged directory that is read in a loop must not fill the log.
final class OnceLog: Sendable {
    private let logger: Logger
    private let said = Mutex(Set<String>())
    /// After so many different lines nothing new is said.
    private static let limit = 256

    init(_ logger: Logger) { self.logger = logger }

    func error(_ text: String) {
        let isNew = said.withLock { said in
            guard said.count < Self.limit else { return false }
            return said.insert(text).inserted
        }
        if isNew { logger.error("\(text)") }
    }
}
