package import Ext4Format

/// The image keeps the rules of its format.
package struct StructureOracle: Oracle {
    package init() {}

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        StructureJudge().examine(state.recovered)
    }
}
