/// What an image says, for a terminal.
package enum PrintableText {
    /// A name as it can be shown on a terminal: control characters, backslashes and what is no UTF-8 as `\xNN`.
    package static func of(_ bytes: [UInt8]) -> String {
        func escaped(_ byte: UInt8) -> String { "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16) }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            return bytes.map { (0x20..<0x7F).contains($0) && $0 != 0x5C ? String(UnicodeScalar($0)) : escaped($0) }
                .joined()
        }
        return text.unicodeScalars.map { scalar in
            let isControl = scalar.properties.generalCategory == .control || scalar == "\\"
            return isControl ? String(scalar).utf8.map(escaped).joined() : String(scalar)
        }.joined()
    }
}
