internal import BlockIO
package import Ext4Format

/// The same recovery of the same disk writes the same bytes, and one more changes none.
package struct IdempotenceOracle: Oracle {
    private static let chunkByteCount = 64 << 10

    package init() {}

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        let second = OverlayDevice(over: state.crashed)
        _ = try RecoveredState.recover(second, state.options)
        guard try Self.difference(state.recovered, second) == nil else {
            return ["a second recovery of the same disk leaves other bytes"]
        }
        let tree = try RecoveredState.recover(state.recovered.fork(), state.options)
        return tree == state.tree ? [] : ["a mount after the recovery shows another tree"]
    }

    /// The first byte, in units of a chunk, in which two devices of one size differ.
    private static func difference(_ a: any BlockDevice, _ b: any BlockDevice) throws(Ext4Error) -> UInt64? {
        for offset in stride(from: 0, to: a.byteCount, by: chunkByteCount) {
            let count = Int(min(UInt64(chunkByteCount), a.byteCount - offset))
            let left = AlignedBuffer(byteCount: count), right = AlignedBuffer(byteCount: count)
            try a.read(into: left, at: offset)
            try b.read(into: right, at: offset)
            if !left.isEqual(to: right) { return offset }
        }
        return nil
    }
}
