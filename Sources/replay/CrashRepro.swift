internal import ArgumentParser
internal import BlockIO
internal import CrashLab
internal import Ext4Format

struct CrashRepro: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repro", abstract: "Make one state again by its name, and check it.")
    @Argument(help: ArgumentHelp("As crash explore has printed it.", valueName: "state"))
    var state: String
    @OptionGroup var crash: CrashOptions
    @Option(
        help: ArgumentHelp("Write the disk here, as the power cut left it.", valueName: "file"), completion: .file())
    var output: String?

    func run() throws {
        let name = try CrashStateName(state)
        let logged = try crash.open()
        guard logged.digest == name.digest else {
            throw Ext4Error.refused("the state is one of another log: this one has the digest \(logged.digest)")
        }
        let model = try CrashModel(base: logged.device, events: logged.events, disk: name.disk)
        guard name.epoch < model.epochs.count else {
            throw Ext4Error.refused("the log has \(model.epochs.count) epochs and no epoch \(name.epoch)")
        }
        let choices = EpochChoices(model, model.epochs[name.epoch])
        if let output {
            try logged.check.make(output) { target throws(Ext4Error) in
                try LoggedDisk.put(choices, name.picks, onto: target)
                try target.flush()
            }
        }
        let problems: [String]
        if crash.check != nil {
            problems = try logged.run(choices, name.picks)
        } else {
            let disk = LazyDevice(choices, picks: name.picks)
            problems = StructureJudge().verdict(disk, in: choices.epoch)
        }
        if crash.options.json {
            Output.write(CrashResults.line(.init(name: state, epoch: name.epoch, problems: problems)))
        } else {
            Output.write(problems.isEmpty ? "the state is as it should be\n" : problems.map { $0 + "\n" }.joined())
        }
        if !problems.isEmpty { throw Status(Status.damaged) }
    }
}
