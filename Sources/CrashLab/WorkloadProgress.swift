/// Which operations had begun and returned at each event of a trace, from the marks of `WorkloadRun`.
package struct WorkloadProgress: Sendable {
    private var begun: [Int] = [], returned: [Int] = []

    package init(_ events: [Trace.Event]) {
        var latest = (begun: 0, returned: 0)
        for event in events {
            if case .mark(let label) = event {
                let words = label.split(separator: " ")
                if words.count == 2, let step = Int(words[1]) {
                    if words[0] == "begin" { latest.begun = max(latest.begun, step) }
                    if words[0] == "end" { latest.returned = max(latest.returned, step) }
                }
            }
            begun.append(latest.begun)
            returned.append(latest.returned)
        }
    }

    package func at(_ event: Int) -> (begun: Int, returned: Int) { (begun[event], returned[event]) }
}
