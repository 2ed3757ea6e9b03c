internal import Glibc

exit(ReplayCommand.start(Array(CommandLine.arguments.dropFirst())))
