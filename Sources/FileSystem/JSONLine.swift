/// One JSON object on a line of its own (RFC 8259, JSON Lines), its members in the order in which they are added.
package struct JSONLine: Sendable {
    private var members: [String] = []

    package init() {}
    package init(type: String) { add("type", type) }

    package mutating func add(_ key: String, _ value: String?) {
        members.append("\"\(key)\":\(value.map(Self.quote) ?? "null")")
    }
    package mutating func add(_ key: String, _ value: (some BinaryInteger)?) {
        members.append("\"\(key)\":\(value.map { "\($0)" } ?? "null")")
    }
    package mutating func add(_ key: String, _ value: Bool) { members.append("\"\(key)\":\(value)") }
    package mutating func add(_ key: String, _ values: [String]) {
        members.append("\"\(key)\":[\(values.map(Self.quote).joined(separator: ","))]")
    }

    /// With the newline.
    package var text: String { "{\(members.joined(separator: ","))}\n" }

    private static func quote(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
