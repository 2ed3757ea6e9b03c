/// Numbers at offsets of a message, in the byte order of the machine: what the tables of the protocol give.
struct Message {
    var bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }
    init(count: Int) { bytes = [UInt8](repeating: 0, count: count) }

    mutating func put<Value: FixedWidthInteger>(_ value: Value, _ offset: Int) {
        withUnsafeBytes(of: value) { bytes.replaceSubrange(offset..<offset + $0.count, with: $0) }
    }

    func get<Value: FixedWidthInteger>(_ offset: Int, as type: Value.Type = Value.self) -> Value {
        precondition(offset + MemoryLayout<Value>.size <= bytes.count, "a message is too short")
        return bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
    }

    func part(_ range: Range<Int>) -> Message { Message(Array(bytes[range])) }
}
