internal import ArgumentParser
internal import Glibc

// mount(8) runs this program as mount.jext4, with arguments of its own form.
let words = CommandLine.arguments
if let program = words.first, program.split(separator: "/").last?.hasPrefix("mount.") == true {
    exit(MountHelper.run(Array(words.dropFirst())))
}
Command.main()
