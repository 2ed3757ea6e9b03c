package import Ext4Format

/// The tree is that of some prefix of the operations, as `TreeComparison` has it.
package struct PrefixOracle: Oracle {
    private let history: ModelHistory

    package init(_ history: ModelHistory) { self.history = history }

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        Self.complaints(
            about: state.tree, history, begun: state.begun, returned: state.returned,
            admitsGarbage: state.admitsGarbage)
    }

    static func complaints(
        about tree: CapturedTree, _ history: ModelHistory, begun: Int, returned: Int, admitsGarbage: Bool
    ) -> [String] {
        let comparison = TreeComparison(
            tree, with: history, begun: begun, returned: returned, admitsGarbage: admitsGarbage)
        guard case .impossible(let reasons) = comparison.verdict() else { return [] }
        let floor = history.steps[returned].floor
        return ["no prefix: floor \(floor), returned \(returned), begun \(begun)"] + reasons
    }
}
