package import BlockIO
package import Ext4Format
package import FileSystem

/// A disk that a power cut left, and what a recovery made of it.
package struct RecoveredState: Sendable {
    /// As the power cut left it. Nobody writes it.
    package let crashed: any BlockDevice
    /// After a mount, which recovers, and an unmount. Oracles write to forks of it.
    package let recovered: OverlayDevice
    /// What the mount showed.
    package private(set) var tree: CapturedTree
    /// How many operations had begun, and had returned, when the power went.
    package let begun: Int, returned: Int
    package let options: MountOptions
    /// The disk leaves garbage where a write in place was on its way.
    package let admitsGarbage: Bool

    /// Mounts an overlay of `crashed`, reads everything and unmounts. `options` drive the journal by hand and fix what
    /// could differ from run to run.
    package init(
        recovering crashed: any BlockDevice, begun: Int, returned: Int, options: MountOptions = .deterministic(),
        admitsGarbage: Bool = false
    ) throws(Ext4Error) {
        self.crashed = crashed
        self.begun = begun
        self.returned = returned
        self.options = options
        self.admitsGarbage = admitsGarbage
        recovered = OverlayDevice(over: crashed)
        tree = try Self.recover(recovered, options)
    }

    /// The same, as if the mount had shown another tree: how an oracle is tested.
    package func showing(_ tree: CapturedTree) -> Self {
        var state = self
        state.tree = tree
        return state
    }

    /// Mounts, which replays the log and finishes the orphans, reads everything and unmounts.
    package static func recover(
        _ disk: any BlockDevice, _ options: MountOptions
    ) throws(Ext4Error) -> CapturedTree {
        let system = try FileSystem.mount(on: disk, options: options)
        do throws(Ext4Error) {
            let tree = try CapturedTree(reading: system)
            try system.unmount()
            return tree
        } catch {
            try? system.unmount()
            throw error
        }
    }
}

/// One question to a crash state that has been recovered.
package protocol Oracle: Sendable {
    /// What is wrong; empty: nothing. An error is wrong too.
    func complaints(about state: RecoveredState) throws(Ext4Error) -> [String]
}
