internal import Ext4Format
internal import FileSystem
internal import Glibc
internal import Journal

/// The requests of fuse-iomap.
extension DirectRequest {
    /// The answer behind its header; empty for none. ENOSYS where the connection has no fuse-iomap, and for a direct
    /// write that the page cache has to do.
    func serveIomap(_ session: Session, _ descriptor: CInt) throws(Ext4Error) -> [UInt8] {
        switch operation {
        case .iomapConfigure: return try configure(session, descriptor)
        case .iomapBegin: return try begin(session)
        case .iomapEnd:
            try end(session)
            return []
        case .iomapComplete: return try complete(session)
        case .freeze:
            _ = try session.iomap.device()
            // Nothing of the volume changes until it is thawed: the kernel keeps everybody waiting.
            try session.fileSystem.syncAll()
            return []
        case .thaw:
            _ = try session.iomap.device()
            return []
        case .shutDown:
            _ = try session.iomap.device()
            try session.shutDown(.afterFreeze)
            return []
        case .setxattr, .interrupt, .syncfs, .statx: throw .posix(ENOSYS)
        }
    }

    private func configure(_ session: Session, _ descriptor: CInt) throws(Ext4Error) -> [UInt8] {
        guard let request = IomapConfiguration.request(unsafe RawSpan(_unsafeBytes: body)) else { throw .posix(EINVAL) }
        try session.iomap.configure(descriptor, blockByteCount: session.fileSystem.blockByteCount)
        let limits = session.fileSystem.limits
        let configuration = IomapConfiguration(
            name: Array(session.fileSystem.volumeName.utf8), uuid: session.fileSystem.uuid,
            blockByteCount: UInt32(session.fileSystem.blockByteCount), maximumLinks: limits.linkCount,
            timeGranularity: limits.timeGranularity, times: limits.times,
            maximumByteCount: min(Int64(clamping: limits.fileByteCount), request.maximumByteCount))
        return configuration.encoded(accepted: request.accepted)
    }

    /// The inode that both the node and the request name.
    private func inode(_ told: UInt64) throws(Ext4Error) -> InodeNumber {
        let inode = NodeID.inode(node)
        guard UInt64(inode.rawValue) == told else { throw .posix(EINVAL) }
        return inode
    }

    private static func bytes(_ position: UInt64, _ count: UInt64) throws(Ext4Error) -> Range<UInt64> {
        let (end, overflow) = position.addingReportingOverflow(count)
        guard !overflow else { throw .posix(EINVAL) }
        return position..<end
    }

    // MARK: BEGIN

    private func begin(_ session: Session) throws(Ext4Error) -> [UInt8] {
        guard let request = IomapBegin(decoding: unsafe RawSpan(_unsafeBytes: body)) else { throw .posix(EINVAL) }
        let device = try session.iomap.device()
        let inode = try inode(request.inode)
        let bytes = try Self.bytes(request.position, request.count)
        let use = try use(request, session)
        let answer = try session.fileSystem.beginDelegated(inode, bytes, for: use, by: caller) { run in
            session.iomap.remember(Self.run(run, device), node: node, inode)
        }
        guard let found = answer else { throw .posix(ENOSYS) }
        var read = Self.run(found.read, device)
        var write = IomapRun(offset: read.offset, count: read.count, type: .pureOverwrite)
        if let target = found.write {
            write = Self.run(target, device)
            if use == .directWrite(isAtomic: true) { write.flags.insert(.atomic) }
        } else if use == .directWrite(isAtomic: true) {
            read.flags.insert(.atomic)
        }
        return IomapRun.pair(read, write)
    }

    private func use(_ request: IomapBegin, _ session: Session) throws(Ext4Error) -> DelegatedUse {
        let flags = request.use
        guard flags.subtracting(.known).isEmpty else { throw .posix(EOPNOTSUPP) }
        if flags.contains(.writeback) { return .writeback }
        if flags.contains(.report) { return .report }
        if flags.contains(.zero) { return .zero }
        guard flags.contains(.write) || flags.contains(.unshare) else { return .read }
        guard flags.contains(.direct) else {
            if flags.contains(.atomic) { throw .posix(EOPNOTSUPP) }
            return .bufferedWrite
        }
        let unit = UInt64(session.fileSystem.blockByteCount)
        if flags.contains(.atomic), request.position % unit != 0 || request.count != unit { throw .posix(EINVAL) }
        return .directWrite(isAtomic: flags.contains(.atomic))
    }

    private static func run(_ run: DelegatedRun, _ device: UInt32) -> IomapRun {
        let count = run.range.upperBound - run.range.lowerBound
        var answer = IomapRun(offset: run.range.lowerBound, count: count, type: .hole)
        switch run.kind {
        case .hole: break
        case .delayed: answer.type = .delayed
        case .mapped(let address):
            (answer.type, answer.address, answer.device) = (.mapped, address, device)
        case .unwritten(let address):
            (answer.type, answer.address, answer.device) = (.unwritten, address, device)
        }
        // Whether the transaction that leads to the data is durable is not looked up: then O_DSYNC asks by fsync.
        if answer.device != 0 { answer.flags.insert(.dirty) }
        if run.isShared { answer.flags.insert(.shared) }
        return answer
    }

    // MARK: END and IOEND

    /// Of writeback the kernel says nothing here: it stops after each mapping, as if it had written nothing.
    private func end(_ session: Session) throws(Ext4Error) {
        guard let request = IomapEnd(decoding: unsafe RawSpan(_unsafeBytes: body)) else { throw .posix(EINVAL) }
        _ = try session.iomap.device()
        let inode = try inode(request.inode)
        if request.use.contains(.writeback) || request.use.isDisjoint(with: [.write, .zero, .unshare]) { return }
        try session.fileSystem.endDelegated(
            inode, try Self.bytes(request.position, request.count), written: UInt64(max(request.written, 0)),
            isDirect: request.use.contains(.direct))
    }

    private func complete(_ session: Session) throws(Ext4Error) -> [UInt8] {
        guard let request = IomapCompletion(decoding: unsafe RawSpan(_unsafeBytes: body)) else { throw .posix(EINVAL) }
        _ = try session.iomap.device()
        let inode = try inode(request.inode)
        var address: DeviceAddress?
        if request.address != IomapRun.noAddress {
            let inSectors = request.address.multipliedReportingOverflow(by: 512)
            address = DeviceAddress(
                readings: inSectors.overflow ? [request.address] : [request.address, inSectors.partialValue])
        }
        let hasFailed = request.failure != 0
        let done = DelegatedCompletion(
            bytes: try Self.bytes(request.position, request.written), isDirect: request.flags.contains(.direct),
            hasFailed: hasFailed, isGivenUp: hasFailed && request.flags.isDisjoint(with: [.direct, .writeback]),
            publishes: !request.flags.isDisjoint(with: [.shared, .unwritten]),
            movesSize: request.flags.contains(.append), address: address)
        return IomapCompletion.answer(size: try session.fileSystem.finishDelegated(inode, done))
    }
}
