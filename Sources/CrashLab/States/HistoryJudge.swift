package import BlockIO
package import Ext4Format
internal import FileSystem

/// Besides being whole, the recovered volume holds the tree of some prefix of the operations: at least what had been
/// acknowledged as durable before the power cut, and at most the operation under way. Where threads work together, that
/// of a moment of some order of their calls.
package struct HistoryJudge: CrashJudge {
    private let progress: WorkloadProgress
    private let complaints: @Sendable (_ tree: CapturedTree, _ begun: Int, _ returned: Int) -> [String]
    private let structure = StructureJudge()

    /// `admitsGarbage`: in data that was being overwritten in place, and that no sync covers.
    package init(history: ModelHistory, progress: WorkloadProgress, admitsGarbage: Bool = false) {
        self.progress = progress
        complaints = { tree, begun, returned in
            PrefixOracle.complaints(
                about: tree, history, begun: begun, returned: returned, admitsGarbage: admitsGarbage)
        }
    }

    package init(_ history: ConcurrentHistory, progress: WorkloadProgress) {
        self.progress = progress
        let oracle = LinearizationOracle(history)
        complaints = { oracle.complaints(about: $0, begun: $1, returned: $2) }
    }

    package func recover(_ disk: any BlockDevice) throws(Ext4Error) { try structure.recover(disk) }

    package enum Finding: Sendable {
        case broken([String])
        case tree(CapturedTree)
    }

    package func examine(_ disk: any BlockDevice) -> Finding {
        let found = structure.examine(disk)
        guard found.isEmpty else { return .broken(found) }
        do throws(Ext4Error) {
            var options = MountOptions.deterministic()
            options.readOnly = true
            return .tree(try CapturedTree(reading: FileSystem.mount(on: disk, options: options)))
        } catch { return .broken(["\(error)"]) }
    }

    package func problems(of finding: Finding, in epoch: CrashModel.Epoch) -> [String] {
        switch finding {
        case .broken(let problems): return problems
        case .tree(let tree):
            let (begun, returned) = progress.at(epoch.event)
            return complaints(tree, begun, returned)
        }
    }

    package func unread(of base: any BlockDevice) -> [Range<UInt64>] { structure.unread(of: base) }
}
