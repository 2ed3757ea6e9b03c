internal import Glibc

enum Output {
    /// Writes all of `text`; a reader that has gone away (head, less) is no error of ours.
    static func write(_ text: String, toErrors: Bool = false) { write([UInt8](text.utf8), toErrors: toErrors) }

    static func write(_ bytes: [UInt8], toErrors: Bool = false) {
        var done = 0
        while done < bytes.count {
            let descriptor = toErrors ? STDERR_FILENO : STDOUT_FILENO
            let count = unsafe bytes.withUnsafeBytes { memory in
                guard let base = memory.baseAddress else { return 0 }
                return unsafe Glibc.write(descriptor, base + done, memory.count - done)
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return }
            done += count
        }
    }
}

/// One object of JSON Lines, fields in the order in which they are added.
struct JSONLine {
    private var fields: [String] = []

    init(type: String) { add("type", type) }

    mutating func add(_ key: String, _ value: String?) {
        fields.append("\"\(key)\":\(value.map(Self.quote) ?? "null")")
    }
    mutating func add(_ key: String, _ value: (some BinaryInteger)?) {
        fields.append("\"\(key)\":\(value.map { "\($0)" } ?? "null")")
    }
    mutating func add(_ key: String, _ value: Bool) { fields.append("\"\(key)\":\(value)") }
    mutating func add(_ key: String, _ values: [String]) {
        fields.append("\"\(key)\":[\(values.map(Self.quote).joined(separator: ","))]")
    }

    var text: String { "{\(fields.joined(separator: ","))}\n" }

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
