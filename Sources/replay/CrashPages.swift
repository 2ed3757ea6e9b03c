internal import BlockIO
internal import Ext4Format
internal import Glibc

/// What was found, for people and for the programs that show test results.
enum CrashPages {
    static func summary(_ results: CrashResults) -> String {
        var text = ""
        for failure in results.failures {
            text += "\(failure.name)\n"
            for problem in failure.problems { text += "    \(problem)\n" }
        }
        let what = results.campaign.check == nil ? "runs of recovery" : "checks"
        text += "\(results.epochs.count) epochs, up to 2^\(digits(results.log2States)) states in one, \(results.runs) "
        text += "\(what) (\(results.isComplete ? "stand for all states" : "a sample")), "
        if results.sampled > 0 { text += "\(results.sampled) states drawn besides, " }
        text += "\(results.images) different "
        text += "disks, \(results.failures.count) failures, \(digits(results.seconds)) s\n"
        return text
    }

    /// With one digit behind the point.
    private static func digits(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }

    static func write(_ results: CrashResults, junit: String?, html: String?) throws(Ext4Error) {
        if let junit { try write(xml(results), to: junit) }
        if let html { try write(page(results), to: html) }
    }

    private static func write(_ text: String, to path: String) throws(Ext4Error) {
        guard let file = unsafe fopen(path, "w") else {
            throw .refused("cannot write \(path): \(systemText(errno))")
        }
        let isWritten = unsafe fputs(text, file) >= 0
        guard unsafe fclose(file) == 0, isWritten else { throw .refused("cannot write \(path): \(systemText(errno))") }
    }

    private static func escaped(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            case _ where scalar.value < 0x20 && scalar != "\n" && scalar != "\t": result += "?"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    // MARK: - JUnit

    /// A suite with a case for each epoch; its failures name the states.
    private static func xml(_ results: CrashResults) -> String {
        let byEpoch = Dictionary(grouping: results.failures, by: \.epoch)
        let suite = escaped("\(results.campaign.log) (\(results.campaign.digest), \(results.campaign.disk))")
        var text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        text += "<testsuite name=\"\(suite)\" tests=\"\(results.epochs.count)\" failures=\"\(byEpoch.count)\" "
        text += "time=\"\(results.seconds)\">\n"
        for epoch in results.sortedEpochs {
            text += "  <testcase classname=\"crash\" name=\"epoch \(epoch.index), event \(epoch.event)\""
            guard let failures = byEpoch[epoch.index] else {
                text += "/>\n"
                continue
            }
            text += ">\n    <failure message=\"\(failures.count) states\">"
            for failure in failures {
                text += escaped(([failure.name] + failure.problems.map { "    " + $0 }).joined(separator: "\n")) + "\n"
            }
            text += "</failure>\n  </testcase>\n"
        }
        return text + "</testsuite>\n"
    }

    // MARK: - The page

    private static let style = """
        body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:110em}table{border-collapse:collapse}
        td,th{padding:.1em .6em;text-align:right;white-space:nowrap}th{border-bottom:1px solid #888}
        td.l,th.l{text-align:left;white-space:normal}tr.bad td{background:#fdd}svg{display:block;background:#f4f4f4}
        tr:target td{outline:1px solid #c00}pre{background:#f8f8f8;padding:.5em;overflow:auto}.bad{color:#b00}
        .good{color:#070}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}svg,pre{background:#222}
        tr.bad td{background:#511}a{color:#8bf}.bad{color:#f88}.good{color:#8d8}}
        """

    /// One file without anything from elsewhere: the timeline of the trace, its epochs, and the failures.
    private static func page(_ results: CrashResults) -> String {
        let campaign = results.campaign
        let verdict = results.failures.isEmpty ? "no failure" : "\(results.failures.count) failures"
        var text = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Power cuts: \(verdict)</title>"
        text += "<style>\(style)</style><h1>Power cuts: <span class=\"\(results.failures.isEmpty ? "good" : "bad")\">"
        text +=
            "\(verdict)</span></h1><p>\(escaped(summary(results).split(separator: "\n").last.map(String.init) ?? ""))"
        text += "</p><p>Log <code>\(escaped(campaign.log))</code>, digest <code>\(campaign.digest)</code>, "
        text += "\(campaign.eventCount) events, disk <code>\(campaign.disk)</code>, seed \(campaign.seed), checked by "
        text += campaign.check.map { "<code>\(escaped($0))</code>" } ?? "jext4's own recovery and checker"
        text +=
            ".</p><h2>Timeline</h2><p>From left to right the epochs, from top to bottom the disk: where something was "
        text += "open when power was cut. Red at the foot: failures.</p>\(timeline(results))<h2>Epochs</h2>"
        text += table(results)
        guard !results.failures.isEmpty else { return text + "</html>\n" }
        text += "<h2>Failures</h2>"
        for failure in results.failures {
            text += "<h3><a href=\"#e\(failure.epoch)\">Epoch \(failure.epoch)</a></h3><pre>\(escaped(failure.name))\n"
            text += failure.problems.map { escaped("    " + $0) }.joined(separator: "\n") + "</pre>"
        }
        return text + "</html>\n"
    }

    private static func timeline(_ results: CrashResults) -> String {
        let epochs = results.sortedEpochs
        let column = max(1, min(16, 1200 / max(1, epochs.count))), row = 4
        let height = CrashResults.mapWidth * row
        var text = "<svg width=\"\(epochs.count * column)\" height=\"\(height + 12)\">"
        for (place, epoch) in epochs.enumerated() {
            let title = "epoch \(epoch.index): 2^\(digits(epoch.log2States)) states, \(epoch.failures) failures"
            text += "<a href=\"#e\(epoch.index)\"><title>\(title)</title>"
            for (part, digit) in epoch.map.utf8.enumerated() where digit > 48 && digit < 58 {
                text += "<rect x=\"\(place * column)\" y=\"\(part * row)\" width=\"\(column)\" height=\"\(row)\" "
                text += "fill=\"#36c\" opacity=\"\(digits(min(1, 0.2 + Double(digit - 48) / 10)))\"/>"
            }
            let isBad = epoch.failures > 0
            text += "<rect x=\"\(place * column)\" y=\"\(height + 2)\" width=\"\(column)\" height=\"10\" "
            text += "fill=\"\(isBad ? "#c00" : epoch.share > 1 - 1e-9 ? "#7b7" : "#cc9")\"/></a>"
        }
        return text + "</svg><p>Green: every state was covered. Yellow: a sample.</p>"
    }

    private static func covered(_ epoch: CrashResults.Epoch) -> String {
        if epoch.share > 1 - 1e-9 { return "all" }
        return "\(digits(epoch.share * 100)) %" + (epoch.sampled > 0 ? " and \(epoch.sampled) drawn" : "")
    }

    private static func table(_ results: CrashResults) -> String {
        var text = "<table><tr><th>epoch<th>event<th>open units<th>states<th>runs<th>disks<th>covered<th>failures"
        text += "<th class=\"l\">marks</tr>"
        for epoch in results.sortedEpochs {
            text += "<tr id=\"e\(epoch.index)\"\(epoch.failures > 0 ? " class=\"bad\"" : "")><td>\(epoch.index)"
            text += "<td>\(epoch.event)<td>\(epoch.units)<td>2^\(digits(epoch.log2States))<td>\(epoch.runs)"
            text += "<td>\(epoch.images)<td>\(covered(epoch))"
            text += "<td>\(epoch.failures)<td class=\"l\">\(escaped(epoch.marks.joined(separator: ", ")))</tr>"
        }
        return text + "</table>"
    }
}
