internal import Glibc

/// Runs a program on every disk that a power cut in one epoch may leave, as often as it can tell them apart.
package struct LazyExploration {
    package private(set) var pathCount = 0
    /// The part of all states that the runs so far stand for: 1 when the exploration is complete.
    package private(set) var share = 0.0
    /// Whether every path has been run.
    package private(set) var isComplete = false
    private let device: LazyDevice
    private var planned: [Int] = []

    package init(_ choices: EpochChoices) { device = LazyDevice(choices) }

    /// Depth first: each run goes the way of the last one up to its last decision with another alternative. False when
    /// there is no further path; then `body` was not called.
    package mutating func next<E: Error>(_ body: (LazyDevice) throws(E) -> Void) throws(E) -> Bool {
        guard !isComplete else { return false }
        device.restart(planned)
        try body(device)
        pathCount += 1
        share += exp2(device.log2Share)
        var decisions = device.decisions
        precondition(decisions.count >= planned.count, "the program under test is not deterministic")
        while let last = decisions.last, last.taken == last.count - 1 { decisions.removeLast() }
        planned = decisions.map(\.taken)
        if planned.isEmpty { isComplete = true } else { planned[planned.count - 1] += 1 }
        return true
    }
}
