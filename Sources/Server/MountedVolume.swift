internal import BlockIO
package import Ext4Format
package import FileSystem
internal import Threads

/// A mounted file system and what holds its image; closed exactly once, whoever comes first: the kernel's DESTROY, or
/// the end of the server.
package final class MountedVolume: Sendable {
    package let fileSystem: FileSystem
    /// Nil: nobody else can have the device.
    private let claim: ImageClaim?
    /// Of the device with the journal, where the volume has it elsewhere.
    private let journalClaim: ImageClaim?
    private let recording: Recording?

    var isBlockDevice: Bool { claim?.isBlockDevice ?? false }

    private enum State {
        case open
        case closing
        case closed(Ext4Error?)
    }
    private let state = Monitor(State.open)
    /// Held in common by who asks from outside of the session, and alone by the unmount.
    private let gate = ReaderWriterLock()

    init(_ fileSystem: FileSystem, _ claim: ImageClaim, journal: ImageClaim?, _ recording: Recording?) {
        self.fileSystem = fileSystem
        self.claim = claim
        journalClaim = journal
        self.recording = recording
    }

    /// On a device of the caller's own.
    package init(_ fileSystem: FileSystem) {
        self.fileSystem = fileSystem
        (claim, journalClaim, recording) = (nil, nil, nil)
    }

    /// Runs `body` while the volume stays open. `.refused` once it is being closed. For threads that serve no requests:
    /// those have ended, or wait, when the volume is closed.
    func use<R>(_ body: (FileSystem) throws(Ext4Error) -> R) throws(Ext4Error) -> R {
        try gate.withReadLock { () throws(Ext4Error) in
            let isOpen = state.withLock { if case .open = $0 { true } else { false } }
            guard isOpen else { throw .refused("the volume is being unmounted") }
            return try body(fileSystem)
        }
    }

    /// Puts a mark into the log of `-o record=LOG`, right here: what is not flushed comes behind it. `.refused` without
    /// a log, and once the volume is being closed.
    func mark(_ label: String) throws(Ext4Error) {
        guard let recording else { throw .refused("nothing is recorded here: mount with -o record=LOG") }
        try use { _ in recording.device.mark(label) }
    }

    /// Brings everything to the device, then lets go of the image. A later call waits for the first, and gives the
    /// same.
    @discardableResult package func close() -> Ext4Error? {
        let isMine = state.withLock { state in
            guard case .open = state else { return false }
            state = .closing
            return true
        }
        if isMine {
            var failure: Ext4Error?
            do throws(Ext4Error) {
                try gate.withWriteLock { () throws(Ext4Error) in try fileSystem.unmount() }
            } catch {
                failure = error
            }
            do throws(Ext4Error) { try recording?.finish() } catch { failure = failure ?? error }
            claim?.release()
            journalClaim?.release()
            state.withLock { $0 = .closed(failure) }
            state.notifyAll()
        }
        let outcome: [Ext4Error] = state.wait { state in
            guard case .closed(let failure) = state else { return nil }
            return failure.map { [$0] } ?? []
        }
        return outcome.first
    }
}
