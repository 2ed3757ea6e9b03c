package import FileSystem

/// What `jext4 status` tells of a mount. The names of the fields are a stable interface: none changes or goes away.
package struct StatusReport: Equatable, Sendable {
    package enum Value: Equatable, Sendable {
        case text(String)
        case number(UInt64)
        case truth(Bool)
    }
    package private(set) var fields: [(name: String, value: Value)] = []

    package static func == (a: Self, b: Self) -> Bool {
        a.fields.elementsEqual(b.fields) { $0.name == $1.name && $0.value == $1.value }
    }

    package init(fields: [(name: String, value: Value)]) { self.fields = fields }

    package init(_ fileSystem: FileSystem, image: String, directory: String, type: String, process: Int32) {
        let statistics = fileSystem.statistics()
        fields = [
            ("version", .text(Product.version)), ("process", .number(UInt64(process))), ("image", .text(image)),
            ("directory", .text(directory)), ("type", .text(type)), ("read_only", .truth(fileSystem.isReadOnly)),
            ("volume_name", .text(fileSystem.volumeName)), ("uuid", .text(Self.uuidText(fileSystem.uuid))),
            ("block_bytes", .number(UInt64(statistics.blockByteCount))), ("blocks", .number(statistics.blocks)),
            ("free_blocks", .number(statistics.freeBlocks)),
            ("available_blocks", .number(statistics.availableBlocks)), ("inodes", .number(statistics.inodes)),
            ("free_inodes", .number(statistics.freeInodes)),
        ]
    }

    private static func uuidText(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef")
        var text = ""
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text.append("-") }
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return text
    }

    /// One JSON object on one line (RFC 8259).
    package var json: String {
        let members = fields.map { field in
            switch field.value {
            case .text(let text): "\(Self.quote(field.name)):\(Self.quote(text))"
            case .number(let number): "\(Self.quote(field.name)):\(number)"
            case .truth(let truth): "\(Self.quote(field.name)):\(truth)"
            }
        }
        return "{\(members.joined(separator: ","))}"
    }

    private static func quote(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case _ where scalar.value < 0x20:
                let hexadecimal = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - hexadecimal.count) + hexadecimal
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }

    /// One field per line, for people.
    package var lines: [String] {
        fields.map { field in
            switch field.value {
            case .text(let text): "\(field.name): \(text)"
            case .number(let number): "\(field.name): \(number)"
            case .truth(let truth): "\(field.name): \(truth ? "yes" : "no")"
            }
        }
    }
}
