internal import Ext4Format

/// What several threads have called and been answered, and all orders in which the calls may have taken effect.
///
/// Each call takes effect at one moment between its beginning and its return, or fails (linearizability). The history
/// follows every order of calls that overlap in time, and drops one as soon as it would have answered a call otherwise.
package struct ConcurrentHistory: Sendable {
    package struct Call: Sendable {
        package let thread: Int
        package let operation: Operation
        /// What it makes is called this.
        let node: ModelNodeID
        /// So many calls had returned when it began.
        let returnedBefore: Int
        /// It was the n-th to return, from 1; nil while it is under way. An error of the device leaves a call there for
        /// ever: whether it has taken effect is open.
        package fileprivate(set) var rank: Int?
        /// nil: it has succeeded.
        package fileprivate(set) var failure: Int32?
    }
    /// The volume between two calls of some order.
    struct Moment: Sendable {
        let tree: ModelTree
        /// Of each thread, how many of its calls have taken effect.
        let done: [Int]
        /// Of each thread, how the last of these may have failed; empty: it has succeeded.
        let failures: [Set<Int32>]
        /// The moments from which a call leads here.
        var earlier: [Int] = []
        /// What these calls wrote in place.
        var inPlace: [(node: ModelNodeID, range: Range<Int>)] = []
    }

    /// In the order in which they began.
    package private(set) var calls: [Call] = []
    private(set) var moments: [Moment]
    /// The moments at which all calls that have returned have taken effect.
    private var latest = [0]
    private var byDone: [[Int]: [Int]]
    private var callsByThread: [[Int]]
    private var closed: Set<ModelNodeID> = []
    package private(set) var returnedCount = 0

    /// `tree` is what the volume holds.
    package init(_ tree: ModelTree, threadCount: Int) {
        var tree = tree
        // The model keeps every node: threads may use one that has lost its names.
        for id in tree.nodes.keys { tree.note(id) { $0.isHeld = true } }
        let none = [Int](repeating: 0, count: threadCount)
        moments = [Moment(tree: tree, done: none, failures: none.map { _ in [] })]
        byDone = [none: [0]]
        callsByThread = none.map { _ in [] }
    }

    /// How many different volumes the calls may have left.
    var possibleCount: Int { latest.count }

    /// The volume as it may be now.
    package var tree: ModelTree { moments[latest[0]].tree }

    /// Whether nobody sees a name of the node any more.
    func isGone(_ id: ModelNodeID) -> Bool { latest.allSatisfy { moments[$0].tree.isGone(id) } }

    /// The node is gone and nobody has it open any more: orders in which only its content differs are one from now on.
    /// Until then it counts: what was written in place may be seen after a cut that leaves the node its name.
    mutating func close(_ id: ModelNodeID) { closed.insert(id) }

    /// A call begins. The thread has none under way. Answers its index.
    package mutating func begin(_ operation: Operation, thread: Int) -> Int {
        let index = calls.count
        // Apart from those of a fresh volume.
        let node = ModelNodeID(index + 100)
        calls.append(Call(thread: thread, operation: operation, node: node, returnedBefore: returnedCount))
        callsByThread[thread].append(index)
        return index
    }

    /// A call returns; `failure` is nil or its errno. False: no order of the calls explains that.
    package mutating func finish(_ index: Int, failure: Int32?) -> Bool {
        let thread = calls[index].thread
        let isLacking = failure == Errno.noSpace
        let before = latest
        if !isLacking { followAll() }
        returnedCount += 1
        calls[index].rank = returnedCount
        calls[index].failure = failure
        let done = callsByThread[thread].count
        if isLacking {
            // Whether there is room the model does not know: nothing has happened.
            latest = before.filter { moments[$0].done[thread] < done }.map { follow($0, index, lacking: true) }
        } else {
            latest = latest.filter { number in
                let moment = moments[number]
                guard moment.done[thread] == done else { return false }
                return failure.map(moment.failures[thread].contains) ?? moment.failures[thread].isEmpty
            }
        }
        return !latest.isEmpty
    }

    /// Lets calls that are under way take effect, in every order.
    private mutating func followAll() {
        let underWay = callsByThread.compactMap(\.last).filter { calls[$0].rank == nil }
        var known = Set(latest), next = 0
        while next < latest.count {
            let number = latest[next]
            next += 1
            for index in underWay {
                let thread = calls[index].thread
                guard moments[number].done[thread] < callsByThread[thread].count else { continue }
                let later = follow(number, index, lacking: false)
                if known.insert(later).inserted { latest.append(later) }
            }
        }
    }

    /// The moment after a call.
    private mutating func follow(_ number: Int, _ index: Int, lacking: Bool) -> Int {
        let call = calls[index], moment = moments[number]
        var tree = moment.tree, done = moment.done, failures = moment.failures
        var inPlace: [(node: ModelNodeID, range: Range<Int>)] = []
        failures[call.thread] = lacking ? [Errno.noSpace] : tree.failures(of: call.operation)
        done[call.thread] += 1
        if failures[call.thread].isEmpty {
            let fresh = tree.nextNode
            tree.nextNode = call.node
            // Without numbers, so that two orders that come to the same are the same.
            inPlace = ModelHistory.apply(call.operation, 0, to: &tree)
            if call.operation.madeNode != nil { tree.note(call.node) { $0.isHeld = true } }
            tree.nextNode = fresh
        }
        for id in closed { tree.note(id) { $0.dropContent() } }
        for known in byDone[done] ?? [] where moments[known].failures == failures && moments[known].tree == tree {
            moments[known].earlier.append(number)
            moments[known].inPlace += inPlace
            return known
        }
        moments.append(Moment(tree: tree, done: done, failures: failures, earlier: [number], inPlace: inPlace))
        byDone[done, default: []].append(moments.count - 1)
        return moments.count - 1
    }

    // MARK: - What is known

    /// The moments of those orders that explain every answer, the newest first.
    var possibleMoments: [Moment] {
        // What nobody has answered may have taken effect all the same.
        var whole = self
        whole.followAll()
        var isPossible = [Bool](repeating: false, count: whole.moments.count)
        var queue = whole.latest
        while let number = queue.popLast() {
            guard !isPossible[number] else { continue }
            isPossible[number] = true
            queue += whole.moments[number].earlier
        }
        let possible = whole.moments.indices.filter { isPossible[$0] }.map { whole.moments[$0] }
        return possible.sorted { $0.done.reduce(0, +) > $1.done.reduce(0, +) }
    }

    /// No call is under way, and the mounted volume shows this: drops the orders that leave it otherwise. Answers what
    /// is different where none is left, else nil.
    mutating func narrow(to captured: CapturedTree) -> String? {
        let match = TreeMatch(captured)
        var difference: String?
        latest = latest.filter { number in
            let found = match.mismatch(with: moments[number].tree) { node, _, found in
                TreeMatch.wrongSector(found, node.content) { _ in false }
                    .map { "wrong data at byte \($0.startIndex) of \(found.count)" }
            }
            difference = difference ?? found
            return found == nil
        }
        return latest.isEmpty ? difference : nil
    }
}
