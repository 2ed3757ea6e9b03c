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
        help: ArgumentHelp(
            "What was asked of the volume, as a failed test has kept it: then the tree is judged as well.",
            valueName: "file"), completion: .file())
    var history: String?
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
        let problems = try problems(logged, CrashState(choices, name.picks))
        if crash.options.json {
            let found = CrashResults.Failure(name: state, epoch: name.epoch, problems: problems)
            Output.write(CrashResults.line(found, type: problems.isEmpty ? "state" : "failure"))
        } else {
            Output.write(problems.isEmpty ? "the state is as it should be\n" : problems.map { $0 + "\n" }.joined())
        }
        if !problems.isEmpty { throw Status(Status.damaged) }
    }

    func validate() throws {
        guard history == nil || crash.check == nil else { throw ValidationError("either --check or --history") }
    }

    private func problems(_ logged: LoggedDisk, _ state: CrashState) throws(Ext4Error) -> [String] {
        if crash.check != nil { return try logged.run(state.choices, state.picks) }
        let disk = LazyDevice(state.choices, picks: state.picks)
        guard let history else { return StructureJudge().verdict(disk, in: state.epoch) }
        guard let text = readText(history) else { throw .refused("cannot read \(history)") }
        let told = try ModelHistory(text: text)
        let (begun, returned) = WorkloadProgress(logged.events).at(state.epoch.event)
        guard begun < told.steps.count else { throw .refused("\(history) is not of this log") }
        do throws(Ext4Error) {
            let recovered = try RecoveredState(
                recovering: disk, begun: begun, returned: returned,
                admitsGarbage: state.choices.model.disk.leavesGarbage)
            var found = try StructureOracle().complaints(about: recovered)
            for oracle in Oracles.ofTree(told) { found += try oracle.complaints(about: recovered) }
            guard found.isEmpty else { return found }
            for oracle in try Oracles.thatRecover(logged.device) { found += try oracle.complaints(about: recovered) }
            return found
        } catch { return ["\(error)"] }
    }
}
