package import BlockIO
package import Ext4Format

extension RecoveryPlan {
    /// The volume as `apply` would leave its blocks, for looking at: read-only, and each replaced block that the scan
    /// has not kept is read from the log when it is asked for. Neither `device` nor the log may change meanwhile.
    package func replayed(over device: any BlockDevice, from log: LogArea) -> PatchedDevice {
        let copies = copies, superBlock = superBlock, memory = memory
        return PatchedDevice(
            over: device, blockByteCount: log.blockByteCount, blocks: copies.map(\.home.rawValue)
        ) { index, block throws(Ext4Error) in
            let copy = copies[index]
            if copy.place != LogMemory.none {
                memory.part(at: copy.place).withBytes { block.copy($0, at: 0) }
                if copy.isEscaped { JournalHeader.setMagic(JournalHeader.magic, in: &block) }
                return
            }
            let logged = try log.copy(
                at: copy.position, of: copy.transaction, isEscaped: copy.isEscaped, checksum: copy.checksum, superBlock)
            logged.withBytes { block.copy($0, at: 0) }
        }
    }
}

extension LogArea {
    /// One logged block as its home is to hold it. `.corrupt` when it does not have the checksum that its tag demands.
    package func copy(
        at position: UInt32, of transaction: TransactionID, isEscaped: Bool, checksum: UInt32,
        _ superBlock: JournalSuperBlock
    ) throws(Ext4Error) -> AlignedBuffer {
        let buffer = AlignedBuffer(byteCount: blockByteCount)
        try read(position, count: 1, into: buffer)
        let format = JournalFormat(superBlock)
        guard buffer.withBytes({ format.tagChecksum($0, in: transaction) == checksum }) else {
            throw .corrupt("logged block", where: "log block \(position): checksum")
        }
        if isEscaped { buffer.withMutableBytes { JournalHeader.setMagic(JournalHeader.magic, in: &$0) } }
        return buffer
    }
}
