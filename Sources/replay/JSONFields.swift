/// The members of one JSON object without objects in it: what `JSONLine` writes.
struct JSONFields {
    private enum Value {
        case text(String)
        case number(Int)
        case flag(Bool)
        case list([String])
        case null
    }
    private var members: [String: Value] = [:]

    /// Nil when it is not such an object.
    init?(_ line: Substring) {
        var rest = Substring(line)[...]
        guard Self.take("{", &rest) else { return nil }
        while !Self.take("}", &rest) {
            if !members.isEmpty, !Self.take(",", &rest) { return nil }
            guard let key = Self.string(&rest), Self.take(":", &rest), let value = Self.value(&rest) else { return nil }
            members[key] = value
        }
        guard rest.isEmpty else { return nil }
    }

    func text(_ key: String) -> String? { if case .text(let text) = members[key] { text } else { nil } }
    func number(_ key: String) -> Int? { if case .number(let number) = members[key] { number } else { nil } }
    func list(_ key: String) -> [String]? { if case .list(let list) = members[key] { list } else { nil } }

    private static func take(_ prefix: String, _ rest: inout Substring) -> Bool {
        guard rest.hasPrefix(prefix) else { return false }
        rest = rest.dropFirst(prefix.count)
        return true
    }

    private static func value(_ rest: inout Substring) -> Value? {
        if take("null", &rest) { return .null }
        if take("true", &rest) { return .flag(true) }
        if take("false", &rest) { return .flag(false) }
        if rest.first == "\"" { return string(&rest).map { .text($0) } }
        guard take("[", &rest) else {
            let digits = rest.prefix { $0.isNumber || $0 == "-" }
            rest = rest.dropFirst(digits.count)
            return Int(digits).map { .number($0) }
        }
        var list: [String] = []
        while !take("]", &rest) {
            if !list.isEmpty, !take(",", &rest) { return nil }
            guard let text = string(&rest) else { return nil }
            list.append(text)
        }
        return .list(list)
    }

    private static func string(_ rest: inout Substring) -> String? {
        guard take("\"", &rest) else { return nil }
        var text = ""
        while let character = rest.popFirst() {
            switch character {
            case "\"": return text
            case "\\":
                guard let escaped = rest.popFirst() else { return nil }
                if escaped == "u" {
                    guard let code = UInt32(rest.prefix(4), radix: 16), let scalar = Unicode.Scalar(code) else {
                        return nil
                    }
                    text.unicodeScalars.append(scalar)
                    rest = rest.dropFirst(4)
                } else {
                    text.append(escaped)
                }
            default: text.append(character)
            }
        }
        return nil
    }
}
