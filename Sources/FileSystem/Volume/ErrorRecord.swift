internal import BlockIO
internal import Ext4Format
internal import Synchronization

/// What has gone wrong with a mounted volume: counted, kept for the super block, and answered as `errors=` asks.
///
/// While the journal works the record goes to the super block with the next transaction. When it was aborted nothing
/// goes through it any more, and the record is written to the super block in place: see `SuperBlockFile.write`.
/// Every call may come with any lock of the volume held, and takes none but its own.
final class ErrorRecord: Sendable {
    private struct State {
        var errors: VolumeErrors
        /// The super block does not say yet what `errors` says.
        var isPending = false
        /// The journal is about to be aborted for the last error, which is counted already.
        var isAborting = false
        var hasPanicked = false
    }
    private let state: Mutex<State>
    /// nil where nothing may be written: a read-only mount.
    private let device: (any BlockDevice)?
    private let options: MountOptions
    private let hasChecksums: Bool
    private let behaviour: MountOptions.ErrorBehaviour
    private let stopped = Atomic(false)
    private let shutDown = Atomic(false)

    /// What the caller has to do about an error that was noted.
    enum Consequence {
        case none
        /// The journal is to be aborted, before another byte is written.
        case abort
    }

    init(_ superBlock: SuperBlock, device: (any BlockDevice)?, _ options: MountOptions) {
        state = Mutex(State(errors: superBlock.errors))
        self.device = device
        self.options = options
        hasChecksums = superBlock.hasMetadataChecksums
        behaviour = options.errors ?? MountOptions.ErrorBehaviour(onDisk: superBlock.errorsBehaviour)
    }

    /// No change is to begin any more.
    var isStopped: Bool { stopped.load(ordering: .relaxed) }
    /// Nothing at all is to be answered any more.
    var isShutDown: Bool { shutDown.load(ordering: .relaxed) }
    var hasPanicked: Bool { state.withLock { $0.hasPanicked } }
    var errors: VolumeErrors { state.withLock { $0.errors } }
    var isPending: Bool { state.withLock { $0.isPending } }

    func shutDown(_ text: String) {
        if !shutDown.exchange(true, ordering: .relaxed) { options.notify(text) }
    }

    /// Damage, or metadata that cannot be read.
    func note(
        _ error: Ext4Error, function: String, inode: InodeNumber? = nil, block: FSBlock? = nil
    ) -> Consequence {
        state.withLock { $0.isAborting = behaviour == .panic }
        add(error, function, inode, block)
        switch behaviour {
        case .continue: break
        case .remountReadOnly:
            guard device != nil, !stopped.exchange(true, ordering: .relaxed) else { break }
            options.notify("\(error): the volume is read-only now")
        case .panic:
            if device != nil { return .abort }
            panic()
        }
        return .none
    }

    /// For `Journal.setAfterAbort`.
    func recordAbort(_ cause: Ext4Error) {
        options.notify("the journal was aborted, and the volume is read-only now: \(cause)")
        var function = "journal"
        if case .io(_, let operation, _, _) = cause { function += " \(operation)" }
        if case .corrupt(let what, _) = cause { function = what }
        if !state.withLock({ $0.isAborting }) { add(cause, function, nil, nil) }
        writeInPlace()
        if behaviour == .panic { panic() }
    }

    private func panic() {
        state.withLock { $0.hasPanicked = true }
        shutDown("panic, as errors=panic asks: nothing is written or answered any more")
    }

    private func add(_ error: Ext4Error, _ function: String, _ inode: InodeNumber?, _ block: FSBlock?) {
        let event = VolumeErrors.Event(
            seconds: UInt64(max(1, options.clock().seconds)), inode: inode?.rawValue ?? 0, block: block?.rawValue ?? 0,
            function: function, code: VolumeErrors.Code(error))
        state.withLock { state in
            state.errors.add(event)
            state.isPending = true
        }
    }

    /// Brings the record into the bytes of the super block, in a handle of the journal.
    func merge(into bytes: inout MutableRawSpan) {
        state.withLock { state in
            guard state.isPending else { return }
            state.errors.encode(into: &bytes)
            state.isPending = false
        }
    }

    /// As best it can: the device is failing already.
    private func writeInPlace() {
        guard let device else { return }
        do throws(Ext4Error) {
            // What the checkpoint wrote last must be on the medium before one of its two sectors is written over.
            try device.flush()
            let file = try SuperBlockFile(device: device)
            try file.write(errors, hasChecksums: hasChecksums)
            state.withLock { $0.isPending = false }
        } catch {}
    }
}

extension MountOptions.ErrorBehaviour {
    /// `s_errors`: 1 is continue, which Linux also takes for a number that it does not know.
    init(onDisk number: UInt16) {
        switch number {
        case 2: self = .remountReadOnly
        case 3: self = .panic
        default: self = .continue
        }
    }
}

extension VolumeErrors.Code {
    init(_ error: Ext4Error) {
        switch error {
        case .io: self = .io
        case .corrupt(let what, let place):
            self = what.contains("checksum") || place.contains("checksum") ? .badChecksum : .corrupted
        default: self = .unknown
        }
    }
}
