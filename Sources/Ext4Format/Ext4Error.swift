/// Everything that can go wrong with a volume, at any layer. Our own mistakes trap instead.
@usableFromInline package enum Ext4Error: Error, Equatable, Sendable {
    /// The device failed. `errno` is what the system said; offset and count are bytes on the device.
    case io(errno: Int32, operation: String, offset: UInt64, count: Int)
    /// The image contradicts itself or a checksum: EUCLEAN by name. `what` names the structure and `where` its place.
    case corrupt(_ what: String, where: String)
    /// The image has features that the policy does not allow this way; their names as in mke2fs -O.
    case unsupported(features: [String], hint: String)
    /// The journal has been aborted by an earlier failure; nothing can be written any more.
    case aborted
    /// What waited to become durable never will: the journal was aborted by what the text says. EIO.
    case lost(String)
    /// The volume was shut down by FS_IOC_SHUTDOWN, or by errors=panic: EIO for everything.
    case shutDown
    /// A POSIX result of the operation itself (ENOENT, ENOSPC, ...): the volume is fine.
    case posix(Int32)
    /// The request makes no sense for this image or machine; the text is for the user.
    case refused(String)
}

extension Ext4Error {
    /// The same with the image that it is about, for who has several; as it is when it says that already.
    package func named(_ image: String) -> Ext4Error {
        let text = description
        return text.contains(image) ? self : .refused("\(image): \(text)")
    }
}

extension Ext4Error: CustomStringConvertible {
    @usableFromInline package var description: String {
        switch self {
        case .io(let number, let operation, _, 0): "\(operation) failed: \(systemText(number))"
        case .io(let number, let operation, let offset, let count):
            "\(operation) of \(count) bytes at byte \(offset) failed: \(systemText(number))"
        case .corrupt(let what, let place): "corrupt \(what) (\(place))"
        case .unsupported(let features, let hint): "unsupported feature \(features.joined(separator: ", ")): \(hint)"
        case .aborted: "the journal was aborted by an earlier error; the volume is read-only"
        case .lost(let cause): "lost, as the journal was aborted: \(cause)"
        case .shutDown: "the volume was shut down"
        case .posix(let number): systemText(number)
        case .refused(let text): text
        }
    }
}
