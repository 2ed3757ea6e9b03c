internal import Glibc

Output.ignoreBrokenPipes()
exit(ReplayCommand.start(Array(CommandLine.arguments.dropFirst())))
