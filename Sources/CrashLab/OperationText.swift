package import Ext4Format

// A history as text, so that a failure can be judged again elsewhere: a line for each operation, names and values in
// hexadecimal digits.

extension ModelHistory {
    /// The first line says how large a block is, and where overwrites go.
    package var text: String {
        ([tree.line] + steps.dropFirst().map(\.operation.line)).joined(separator: "\n") + "\n"
    }

    /// What `text` wrote of a history that began with an empty tree. `.corrupt` when it is no such text.
    package init(text: String) throws(Ext4Error) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: true)
        guard let first = lines.first, let tree = ModelTree(line: first) else {
            throw .corrupt("history", where: "line 1")
        }
        self.init(tree)
        for (index, line) in lines.enumerated().dropFirst() {
            guard let operation = Operation(line: line) else { throw .corrupt("history", where: "line \(index + 1)") }
            append(operation)
        }
    }
}

extension ModelTree {
    private static let outOfPlaceWord = "outofplace"

    fileprivate var line: String { "\(blockByteCount)" + (placement == .outOfPlace ? " \(Self.outOfPlaceWord)" : "") }

    fileprivate init?(line: Substring) {
        let words = line.split(separator: " ")
        guard let first = words.first, let size = Int(first), size > 0, size <= 1 << 16,
            words.dropFirst().allSatisfy({ $0 == Self.outOfPlaceWord })
        else { return nil }
        self.init(blockByteCount: size, placement: words.count > 1 ? .outOfPlace : .inPlace)
    }
}

extension Operation {
    private static let digits = Array("0123456789abcdef".utf8)

    fileprivate var line: String {
        func hex(_ bytes: [UInt8]) -> String {
            "x"
                + String(
                    decoding: bytes.flatMap { [Self.digits[Int($0 >> 4)], Self.digits[Int($0 & 15)]] }, as: UTF8.self)
        }
        func line(_ name: String, _ node: ModelNodeID? = nil, _ words: CustomStringConvertible...) -> String {
            ([name] + [node].compactMap { $0.map { "\($0.rawValue)" } } + words.map(\.description))
                .joined(separator: " ")
        }
        switch self {
        case .mount: return line("mount")
        case .create(let parent, let name, let mode): return line("create", parent, hex(name), mode)
        case .makeNode(let parent, let name, let mode, let major, let minor):
            return line("mknod", parent, hex(name), mode, major, minor)
        case .makeDirectory(let parent, let name, let mode): return line("mkdir", parent, hex(name), mode)
        case .makeSymlink(let parent, let name, let target): return line("symlink", parent, hex(name), hex(target))
        case .link(let id, let name, let parent): return line("link", id, hex(name), parent.rawValue)
        case .unlink(let parent, let name): return line("unlink", parent, hex(name))
        case .removeDirectory(let parent, let name): return line("rmdir", parent, hex(name))
        case .rename(let parent, let name, let to, let new):
            return line("rename", parent, hex(name), to.rawValue, hex(new))
        case .exchange(let parent, let name, let to, let other):
            return line("exchange", parent, hex(name), to.rawValue, hex(other))
        case .whiteout(let parent, let name, let to, let new):
            return line("whiteout", parent, hex(name), to.rawValue, hex(new))
        case .write(let id, let offset, let count, let stamp): return line("write", id, offset, count, stamp)
        case .batch(let id, let ranges, let stamp):
            let words = ranges.map { "\($0.lowerBound) \($0.count)" }
            return line("batch", id, ([String(stamp)] + words).joined(separator: " "))
        case .truncate(let id, let size): return line("truncate", id, size)
        case .allocate(let id, let offset, let count, let keepsSize):
            return line("fallocate", id, offset, count, keepsSize ? 1 : 0)
        case .punch(let id, let offset, let count): return line("punch", id, offset, count)
        case .shift(let id, let offset, let distance):
            return line(distance > 0 ? "insert" : "collapse", id, offset, abs(distance))
        case .changeMode(let id, let mode): return line("chmod", id, mode)
        case .setAttribute(let id, let name, let value): return line("setxattr", id, hex(name), hex(value))
        case .removeAttribute(let id, let name): return line("removexattr", id, hex(name))
        case .hold(let id): return line("open", id)
        case .release(let id): return line("close", id)
        case .forget(let id): return line("forget", id)
        case .sync(let id, let dataOnly): return line(dataOnly ? "fdatasync" : "fsync", id)
        case .syncAll: return line("syncfs")
        case .remount: return line("remount")
        case .unmount: return line("unmount")
        }
    }

    fileprivate init?(line: Substring) {
        var words = OperationWords(line)
        guard let name = words.next(), let operation = Self.read(name, &words) ?? Self.readName(name, &words),
            words.isSound
        else { return nil }
        self = operation
    }

    private static func read(_ name: Substring, _ words: inout OperationWords) -> Self? {
        switch name {
        case "mount": .mount
        case "write":
            .write(words.node(), at: words.count(), count: words.count(), stamp: words.number())
        case "batch": .batch(words.node(), stampFirst: words.number(), words.ranges())
        case "truncate": .truncate(words.node(), to: words.count())
        case "fallocate":
            .allocate(words.node(), at: words.count(), count: words.count(), keepsSize: words.count() == 1)
        case "punch": .punch(words.node(), at: words.count(), count: words.count())
        case "insert": .shift(words.node(), at: words.count(), by: words.count())
        case "collapse": .shift(words.node(), at: words.count(), by: -words.count())
        case "chmod": .changeMode(words.node(), mode: words.number())
        case "setxattr": .setAttribute(words.node(), words.bytes(), words.bytes())
        case "removexattr": .removeAttribute(words.node(), words.bytes())
        case "open": .hold(words.node())
        case "close": .release(words.node())
        case "forget": .forget(words.node())
        case "fsync": .sync(words.node(), dataOnly: false)
        case "fdatasync": .sync(words.node(), dataOnly: true)
        case "syncfs": .syncAll
        case "remount": .remount
        case "unmount": .unmount
        default: nil
        }
    }

    /// The stamp comes first in a line: the ranges go on to its end.
    private static func batch(_ id: ModelNodeID, stampFirst stamp: UInt64, _ ranges: [Range<Int>]) -> Self {
        .batch(id, ranges, stamp: stamp)
    }

    private static func readName(_ name: Substring, _ words: inout OperationWords) -> Self? {
        switch name {
        case "create": .create(words.node(), words.bytes(), mode: words.number())
        case "mknod":
            .makeNode(
                words.node(), words.bytes(), mode: words.number(), major: words.number(), minor: words.number())
        case "mkdir": .makeDirectory(words.node(), words.bytes(), mode: words.number())
        case "symlink": .makeSymlink(words.node(), words.bytes(), target: words.bytes())
        case "link": .link(words.node(), as: words.bytes(), in: words.node())
        case "unlink": .unlink(words.node(), words.bytes())
        case "rmdir": .removeDirectory(words.node(), words.bytes())
        case "rename": .rename(words.node(), words.bytes(), to: words.node(), words.bytes())
        case "exchange": .exchange(words.node(), words.bytes(), with: words.node(), words.bytes())
        case "whiteout": .whiteout(words.node(), words.bytes(), to: words.node(), words.bytes())
        default: nil
        }
    }
}

/// The words of a line, taken one by one. What is not as it should be makes all of it unsound.
private struct OperationWords {
    /// A file of a workload has no more bytes.
    private static let countLimit = 1 << 30
    private var words: ArraySlice<Substring>
    private var isGood = true

    init(_ line: Substring) { words = line.split(separator: " ")[...] }

    /// Whether all words were as wanted, and none is left.
    var isSound: Bool { isGood && words.isEmpty }

    mutating func next() -> Substring? { words.popFirst() }

    mutating func number<T: FixedWidthInteger>() -> T { take(next().flatMap { T($0) }, 0) }

    mutating func count() -> Int {
        let value: Int = number()
        return take((0...Self.countLimit).contains(value) ? value : nil, 0)
    }

    /// All that is left.
    mutating func ranges() -> [Range<Int>] {
        var ranges: [Range<Int>] = []
        while !words.isEmpty {
            let start = count()
            ranges.append(start..<start + count())
        }
        return ranges
    }

    mutating func node() -> ModelNodeID { ModelNodeID(count()) }

    mutating func bytes() -> [UInt8] {
        guard let word = next(), word.first == "x", word.utf8.count % 2 == 1 else { return take(nil, []) }
        let digits = Array(word.utf8.dropFirst())
        let bytes = stride(from: 0, to: digits.count, by: 2).map { index in
            UInt8(String(decoding: digits[index..<index + 2], as: UTF8.self), radix: 16)
        }
        return bytes.contains(nil) ? take(nil, []) : bytes.compactMap { $0 }
    }

    private mutating func take<T>(_ value: T?, _ other: T) -> T {
        if value == nil { isGood = false }
        return value ?? other
    }
}
