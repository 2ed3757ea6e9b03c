package import BlockIO
internal import Ext4Format

/// One disk that a power cut in an epoch may leave.
package struct CrashState: Sendable, CustomStringConvertible {
    package let choices: EpochChoices
    package let picks: Picks

    package init(_ choices: EpochChoices, _ picks: Picks) {
        self.choices = choices
        self.picks = picks
    }

    package var epoch: CrashModel.Epoch { choices.epoch }

    /// Names the state for good. `digest` is that of the trace.
    package func name(_ digest: String) -> CrashStateName {
        CrashStateName(digest: digest, disk: choices.model.disk, epoch: epoch.index, picks: picks)
    }

    /// The name without the trace.
    package var description: String { "epoch \(epoch.index), \(picks.text)" }
}

extension CrashModel {
    /// Makes the disks of states of this trace, in the order of their epochs. Each is the caller's: it may be written.
    ///
    /// Goes through the trace once: the cost is that of what each epoch left open, and of what is open in each state.
    package func forEach<E: Error>(
        _ states: [CrashState], _ body: (CrashState, OverlayDevice) throws(E) -> Void
    ) throws(E) {
        let required = OverlayDevice(over: base)
        var at = 0
        for state in states.sorted(by: { $0.epoch.index < $1.epoch.index }) {
            while at < state.epoch.index {
                // What is required from the next epoch on was open in this one.
                let open = EpochChoices(self, epochs[at]).units
                EpochChoices(self, epochs[at + 1]).put(open.map { ($0, 0) }, onto: required)
                at += 1
            }
            let choices = state.choices, disk = required.fork()
            let chosen = choices.units.map { ($0, state.picks.value(of: choices.variable(of: $0), choices)) }
            choices.put(chosen.filter { $0.1 != 0 }, onto: disk)
            try body(state, disk)
        }
    }
}

extension EpochChoices {
    /// Writes units as they are when their variables have these values.
    fileprivate func put(_ values: [(unit: UInt64, value: Int)], onto disk: OverlayDevice) {
        let size = model.disk.unitByteCount
        let buffer = AlignedBuffer(byteCount: size)
        do throws(Ext4Error) {
            for (unit, value) in values {
                try buffer.withMutableBytes { bytes throws(Ext4Error) in
                    try copy(unit, value: value, into: &bytes, at: 0)
                }
                let offset = unit * UInt64(size)
                // The last unit of the disk may be short.
                let count = Int(min(UInt64(size), disk.byteCount - offset))
                try buffer.withBytes { bytes throws(Ext4Error) in
                    try disk.write(bytes.extracting(0..<count), at: offset, mode: .cached)
                }
            }
        } catch {
            preconditionFailure("the disk before the trace cannot be read: \(error)")
        }
    }
}
