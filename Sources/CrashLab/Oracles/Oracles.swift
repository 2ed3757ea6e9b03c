package import BlockIO
package import Ext4Format

/// All oracles that work in the process, by their cost.
package enum Oracles {
    /// About the tree that the recovery showed.
    package static func ofTree(_ history: ModelHistory) -> [any Oracle] {
        [PrefixOracle(history), DurabilityOracle(history)]
    }

    /// Those that recover again. `base` is the volume as it was made.
    package static func thatRecover(_ base: any BlockDevice) throws(Ext4Error) -> [any Oracle] {
        [
            IdempotenceOracle(), RecoveryCutOracle(statesPerLevel: 2), StaleDataOracle(), UsabilityOracle(),
            try SpaceOracle(fresh: base, .deterministic()),
        ]
    }
}
