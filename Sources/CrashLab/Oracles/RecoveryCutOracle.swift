internal import BlockIO
package import Ext4Format

/// A power cut during the recovery, and one during the recovery after it, change nothing.
package struct RecoveryCutOracle: Oracle {
    private let depth: Int, statesPerLevel: Int, seed: UInt64

    /// At each of `depth` levels it looks at `statesPerLevel` states, chosen by `seed`.
    package init(depth: Int = 2, statesPerLevel: Int = 3, seed: UInt64 = 1) {
        self.depth = depth
        self.statesPerLevel = statesPerLevel
        self.seed = seed
    }

    package func complaints(about state: RecoveredState) throws(Ext4Error) -> [String] {
        try complaints(state.crashed, state, depth, "")
    }

    private func complaints(
        _ disk: any BlockDevice, _ state: RecoveredState, _ depth: Int, _ path: String
    ) throws(Ext4Error) -> [String] {
        guard depth > 0 else { return [] }
        let trace = Trace()
        let recorded = RecordingDevice(OverlayDevice(over: disk), recorder: trace)
        _ = try RecoveredState.recover(recorded, state.options)
        let model = try CrashModel(base: disk, events: trace.events)
        var random = SeededRandom(seed: seed)
        let states = TraceSample(model).states(seed: seed, prefixes: 2, inFlight: 2, subsets: 3)
        var result: [String] = []
        try model.forEach(random.sample(states, count: statesPerLevel)) { cut, torn throws(Ext4Error) in
            let place = path + (path.isEmpty ? "" : ", then at ") + "\(cut)"
            if try RecoveredState.recover(torn.fork(), state.options) != state.tree {
                result.append("a recovery cut at \(place) gives another tree")
            }
            result += try complaints(torn, state, depth - 1, place)
        }
        return result
    }
}
