package import Ext4Format

/// The tree is that of some prefix of the operations, as `TreeComparison` has it.
package struct PrefixOracle: Oracle {
    package init() {}

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        let comparison = TreeComparison(
            state.tree, with: state.history, begun: state.begun, returned: state.returned)
        guard case .impossible(let reasons) = comparison.verdict() else { return [] }
        let floor = state.history.steps[state.returned].floor
        return ["no prefix: floor \(floor), returned \(state.returned), begun \(state.begun)"] + reasons
    }
}
