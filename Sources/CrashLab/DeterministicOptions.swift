internal import Ext4Format
package import FileSystem

extension MountOptions {
    /// Everything that could differ from run to run is fixed: the clock stands still, and with `manual` the journal has
    /// no threads.
    package static func deterministic(manual: Bool = true) -> MountOptions {
        var options = MountOptions()
        options.manualJournal = manual
        options.clock = { Timestamp(seconds: 1_700_000_000, nanoseconds: 0) }
        options.firstGeneration = 1
        return options
    }

    /// The same, with overwrites where the model of a volume has them.
    func placing(_ placement: ModelTree.Placement) -> MountOptions {
        var options = self
        options.outOfPlace = placement == .outOfPlace
        return options
    }
}
