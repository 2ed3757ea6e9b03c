package import Ext4Format
package import Journal

// What becomes of a volume that fails, and of one that is made to.
extension FileSystem {
    /// For the errors of operations: damage is counted, recorded in the super block and answered as `errors=` asks, or
    /// where that says nothing `s_errors`. `inode` is what the operation was about. Called with no lock of the volume
    /// held and no handle open.
    ///
    /// continue: nothing more. remount-ro: every change is EROFS from now on; what has finished still commits. panic:
    /// not another byte is written but the record, and everything is EIO.
    package func report(_ error: Ext4Error, about inode: InodeNumber? = nil) {
        if case .corrupt(let what, _) = error,
            volume.errors.note(error, function: what, inode: inode) == .abort
        {
            volume.journal?.abort(error)
        }
        guard volume.errors.isPending, let journal = volume.journal, !journal.isAborted else { return }
        // Should this fail, the journal has been aborted, and the record was written on the way.
        try? volume.withHandle(credits: 1) { handle throws(Ext4Error) in
            try volume.modifySuperBlock(in: handle) { volume.errors.merge(into: &$0) }
        }
    }

    /// What the super block says of errors, or will when the next transaction is durable.
    package var errors: VolumeErrors { volume.errors.errors }
    /// Why the journal was aborted; nil while it works.
    package var abortCause: Ext4Error? { volume.journal?.abortCause }
    package var isShutDown: Bool { volume.errors.isShutDown }
    /// An error met errors=panic.
    package var hasPanicked: Bool { volume.errors.hasPanicked }

    /// The inodes that the kernel, or another user of the library, refers to; and the root.
    package var referencedInodes: [InodeNumber] { [.root] + inodes.referenced }

    /// FS_IOC_SHUTDOWN: everything is EIO from now on, and the image stays as a power cut would leave it. When it
    /// returns, no more than data of writes in flight reaches the device. Throws when what the mode asks for could not
    /// be made durable first; the volume is shut down all the same.
    package func shutDown(_ mode: ShutdownMode) throws(Ext4Error) {
        volume.errors.shutDown("shut down by FS_IOC_SHUTDOWN, mode \(mode.rawValue)")
        guard try volume.journal?.shutDown(mode) == true else { return }
        // As after a freeze. Should it fail, the next mount finds an empty log.
        try SuperBlockFile(device: volume.device).setNeedsRecovery(false, hasChecksums: volume.hasChecksums)
    }
}
