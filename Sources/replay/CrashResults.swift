internal import CrashLab
internal import FileSystem

/// What an exploration found: one line for it, one for each epoch, one for each failure. Several of the same log, each
/// of a part of the states, make one of the whole.
struct CrashResults {
    /// What must be the same in all parts.
    struct Campaign: Equatable {
        var log: String
        var digest: String
        var disk: String
        var seed: Int
        /// The command, or nothing: then jext4's own recovery and checker.
        var check: String?
        var eventCount: Int
    }
    struct Epoch {
        var index: Int
        /// Power is cut behind this event.
        var event: Int
        var units = 0
        var log2States = 0.0
        /// States that a command saw, or runs of recovery by lazy choice.
        var runs = 0
        /// Where these were too many: states that were drawn and recovered besides.
        var sampled = 0
        var images = 0
        /// The part of all states that the runs stand for.
        var share = 0.0
        var failures = 0
        /// Between this epoch and the one before.
        var marks: [String] = []
        /// Where on the disk it left something open: for each of `mapWidth` parts a digit, the more the higher.
        var map = ""
    }
    struct Failure {
        var name: String
        var epoch: Int
        var problems: [String]
    }
    static let mapWidth = 64

    var campaign: Campaign
    var epochs: [Int: Epoch] = [:]
    var failures: [Failure] = []
    var seconds = 0.0

    var sortedEpochs: [Epoch] { epochs.values.sorted { $0.index < $1.index } }
    var runs: Int { epochs.values.reduce(0) { $0 + $1.runs } }
    var sampled: Int { epochs.values.reduce(0) { $0 + $1.sampled } }
    var images: Int { epochs.values.reduce(0) { $0 + $1.images } }
    /// Whether the runs stand for every state.
    var isComplete: Bool { epochs.values.allSatisfy { $0.share > 1 - 1e-9 } }
    /// Of the widest epoch.
    var log2States: Double { epochs.values.map(\.log2States).max() ?? 0 }

    // MARK: - As JSON Lines

    var text: String {
        var text = head
        for epoch in sortedEpochs { text += Self.line(epoch) }
        for failure in failures { text += Self.line(failure) }
        return text + tail
    }

    private var head: String {
        var line = JSONLine(type: "campaign")
        line.add("schema", 1)
        line.add("log", campaign.log)
        line.add("trace", campaign.digest)
        line.add("disk", campaign.disk)
        line.add("seed", campaign.seed)
        line.add("check", campaign.check)
        line.add("events", campaign.eventCount)
        return line.text
    }

    private static func line(_ epoch: Epoch) -> String {
        var line = JSONLine(type: "epoch")
        line.add("epoch", epoch.index)
        line.add("event", epoch.event)
        line.add("units", epoch.units)
        line.add("log2_states", "\(epoch.log2States)")
        line.add("runs", epoch.runs)
        line.add("sampled", epoch.sampled)
        line.add("images", epoch.images)
        line.add("share", "\(epoch.share)")
        line.add("failures", epoch.failures)
        line.add("marks", epoch.marks)
        line.add("map", epoch.map)
        return line.text
    }

    static func line(_ failure: Failure, type: String = "failure") -> String {
        var line = JSONLine(type: type)
        line.add("state", failure.name)
        line.add("epoch", failure.epoch)
        line.add("problems", failure.problems)
        return line.text
    }

    private var tail: String {
        var line = JSONLine(type: "explored")
        line.add("epochs", epochs.count)
        line.add("runs", runs)
        line.add("sampled", sampled)
        line.add("images", images)
        line.add("log2_states", "\(log2States)")
        line.add("complete", isComplete)
        line.add("failures", failures.count)
        line.add("milliseconds", Int(seconds * 1000))
        return line.text
    }

    /// What another part found, added. False: it is not of the same campaign.
    mutating func merge(_ other: CrashResults) -> Bool {
        guard other.campaign == campaign else { return false }
        for (index, theirs) in other.epochs {
            guard var ours = epochs[index] else {
                epochs[index] = theirs
                continue
            }
            ours.runs += theirs.runs
            ours.sampled += theirs.sampled
            ours.images += theirs.images
            ours.share = min(1, ours.share + theirs.share)
            ours.failures += theirs.failures
            epochs[index] = ours
        }
        let known = Set(failures.map(\.name))
        failures += other.failures.filter { !known.contains($0.name) }
        failures.sort { ($0.epoch, $0.name) < ($1.epoch, $1.name) }
        seconds += other.seconds
        return true
    }
}

extension CrashResults {
    /// Reads what `text` wrote. Nil, and the number of the line, when it is not that.
    static func parse(_ text: String) -> (results: CrashResults?, badLine: Int) {
        var results: CrashResults?
        var isWhole = false
        for (number, line) in text.split(separator: "\n").enumerated() {
            guard let fields = JSONFields(line), !isWhole else { return (nil, number + 1) }
            switch fields.text("type") {
            case "campaign" where results == nil:
                results = campaign(fields).map { CrashResults(campaign: $0) }
            case "epoch":
                guard let epoch = epoch(fields) else { return (nil, number + 1) }
                results?.epochs[epoch.index] = epoch
            case "failure":
                guard let name = fields.text("state"), let epoch = fields.number("epoch"),
                    let problems = fields.list("problems")
                else { return (nil, number + 1) }
                results?.failures.append(Failure(name: name, epoch: epoch, problems: problems))
            case "explored":
                results?.seconds = Double(fields.number("milliseconds") ?? 0) / 1000
                isWhole = true
            default: return (nil, number + 1)
            }
            guard results != nil else { return (nil, number + 1) }
        }
        // A part that was cut off says less than it found.
        return (isWhole ? results : nil, text.split(separator: "\n").count)
    }

    private static func campaign(_ fields: JSONFields) -> Campaign? {
        guard fields.number("schema") == 1, let log = fields.text("log"), let digest = fields.text("trace"),
            let disk = fields.text("disk"), let seed = fields.number("seed"), let events = fields.number("events")
        else { return nil }
        return Campaign(
            log: log, digest: digest, disk: disk, seed: seed, check: fields.text("check"), eventCount: events)
    }

    private static func epoch(_ fields: JSONFields) -> Epoch? {
        guard let index = fields.number("epoch"), let event = fields.number("event"),
            let units = fields.number("units"), let states = fields.text("log2_states").flatMap(Double.init),
            let runs = fields.number("runs"), let sampled = fields.number("sampled"),
            let images = fields.number("images"),
            let share = fields.text("share").flatMap(Double.init), let failures = fields.number("failures"),
            let marks = fields.list("marks"), let map = fields.text("map")
        else { return nil }
        return Epoch(
            index: index, event: event, units: units, log2States: states, runs: runs, sampled: sampled, images: images,
            share: share, failures: failures, marks: marks, map: map)
    }
}
