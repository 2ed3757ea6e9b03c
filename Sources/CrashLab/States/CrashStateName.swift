package import Ext4Format

/// Names one crash state for good: with the trace and the disk before it, it is all that reproduces the state.
///
/// As text: the digest of the trace, the model of the disk, the epoch and the picks, as in `5c1e09ab77d2f310-any512-12-
/// 0x57.1x8`. Picks are runs of values in the order of the variables (`0x57`: 57 times 0; what is left out behind the
/// end is 0), or `required`, `newest`, `seed77`.
package struct CrashStateName: Hashable, Sendable, CustomStringConvertible {
    /// Of the trace: 16 hexadecimal digits.
    package let digest: String
    package let disk: DiskModel
    package let epoch: Int
    package let picks: Picks

    package init(digest: String, disk: DiskModel, epoch: Int, picks: Picks) {
        self.digest = digest
        self.disk = disk
        self.epoch = epoch
        self.picks = picks
    }

    /// `.refused` when the text is no such name.
    package init(_ text: String) throws(Ext4Error) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 4, parts[0].count == 16, let disk = DiskModel(parts[1]), let epoch = Int(parts[2]),
            epoch >= 0, let picks = Picks(text: parts[3])
        else { throw .refused("\(text) is not the name of a crash state") }
        self.init(digest: parts[0], disk: disk, epoch: epoch, picks: picks)
    }

    package var description: String { "\(digest)-\(disk.name)-\(epoch)-\(picks.text)" }
}

extension DiskModel {
    /// `any512`, `completion4096`, with `+nocache`, `+noflush`, `+nofua` and `+garbage` behind it where the disk is so.
    package var name: String {
        "\(order.rawValue)\(unitByteCount)" + (hasCache ? "" : "+nocache") + (honoursFlush ? "" : "+noflush")
            + (honoursFUA ? "" : "+nofua") + (leavesGarbage ? "+garbage" : "")
    }

    package init?(_ name: String) {
        for order in Order.allCases {
            for unit in [512, 4096] {
                for bits in 0..<(order == .any ? 16 : 8) {
                    var disk = DiskModel()
                    disk.order = order
                    disk.unitByteCount = unit
                    disk.hasCache = bits & 1 == 0
                    disk.honoursFlush = bits & 2 == 0
                    disk.honoursFUA = bits & 4 == 0
                    disk.leavesGarbage = bits & 8 != 0
                    if disk.name == name {
                        self = disk
                        return
                    }
                }
            }
        }
        return nil
    }
}

extension Picks {
    /// The most values that a text may stand for, so that a short one costs no memory without end.
    private static let valueLimit = 1 << 24

    var text: String {
        switch self {
        case .required: return "required"
        case .newest: return "newest"
        case .random(let seed): return "seed\(seed)"
        case .chosen(let values):
            var runs: [(value: Int, count: Int)] = []
            for value in values {
                if runs.last?.value == value { runs[runs.count - 1].count += 1 } else { runs.append((value, 1)) }
            }
            if runs.last?.value == 0 { runs.removeLast() }
            return runs.isEmpty ? "required" : runs.map { "\($0.value)x\($0.count)" }.joined(separator: ".")
        }
    }

    init?(text: String) {
        if text == "required" || text == "newest" {
            self = text == "newest" ? .newest : .required
        } else if text.hasPrefix("seed") {
            guard let seed = UInt64(text.dropFirst(4)) else { return nil }
            self = .random(seed: seed)
        } else {
            var values: [Int] = []
            for run in text.split(separator: ".", omittingEmptySubsequences: false) {
                let words = run.split(separator: "x").map { Int($0) }
                guard words.count == 2, let value = words[0], let count = words[1], value >= 0, count > 0,
                    count <= Self.valueLimit - values.count
                else { return nil }
                values += [Int](repeating: value, count: count)
            }
            self = .chosen(values)
        }
    }
}
