internal import Ext4Format
internal import FileSystem
internal import Server

/// The program as mount(8) runs it: `mount.jext4 IMAGE DIR [-sfnv] [-N namespace] [-o options] [-t type]`.
struct MountHelper {
    private var operands: [String] = []
    private var lists: [String] = []
    private var isPretence = false

    private static let usage = "usage: mount.jext4 IMAGE DIR [-sfnv] [-o OPTIONS] [-t TYPE]"

    /// The exit status, as mount(8) passes it on.
    static func run(_ arguments: [String]) -> CInt {
        switch arguments.first {
        case "-h", "--help":
            print(usage)
            return 0
        case "-V", "--version":
            print("mount.jext4 \(Product.version)")
            return 0
        default: break
        }
        do throws(Ext4Error) {
            var helper = Self()
            try helper.parse(arguments)
            try helper.mount()
            return 0
        } catch {
            return Failure.say(error, Failure.mount)
        }
    }

    private mutating func parse(_ arguments: [String]) throws(Ext4Error) {
        var rest = arguments[...]
        while let word = rest.popFirst() {
            guard word.hasPrefix("-"), word.count > 1 else {
                operands.append(word)
                continue
            }
            var letters = word.dropFirst()
            while let letter = letters.popFirst() {
                switch letter {
                case "f": isPretence = true
                // Sloppy, no mtab, verbose: nothing to do for any of them.
                case "s", "n", "v": break
                case "o", "t", "N":
                    let attached = String(letters)
                    letters = ""
                    guard let value = attached.isEmpty ? rest.popFirst() : attached else {
                        throw .refused("-\(letter) needs a value")
                    }
                    if letter == "o" { lists.append(value) }
                    if letter == "N" { throw .refused("-N is not supported: run mount in the namespace instead") }
                default: throw .refused("unknown option -\(letter)")
                }
            }
        }
        guard operands.count == 2 else {
            throw .refused(Self.usage)
        }
    }

    private func mount() throws(Ext4Error) {
        let words = try MountWords(parsing: lists)
        if isPretence { return }
        try Launcher.mount(
            MountPlan(
                image: operands[0], directory: operands[1], words: words, isForeground: false,
                recorder: startRecording))
    }
}
