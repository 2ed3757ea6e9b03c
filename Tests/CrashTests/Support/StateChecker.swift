import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Glibc

/// Judges crash states: recovers each, and asks the oracles.
struct StateChecker {
    let progress: WorkloadProgress
    private let always: [any Oracle], sometimes: [any Oracle]
    private let image = TemporaryFile("state")

    /// `base` is the volume as it was made.
    init(history: ModelHistory, progress: WorkloadProgress, base: [UInt8]) throws {
        try self.init(Oracles.ofTree(history), progress: progress, base: base)
    }

    /// `always`: what judges the tree of every state.
    init(_ always: [any Oracle], progress: WorkloadProgress, base: [UInt8]) throws {
        self.progress = progress
        self.always = always
        sometimes = try Oracles.thatRecover(MemoryDevice(base))
    }

    /// Empty: the state is as it should be. `deep` asks those oracles too that recover again.
    func problems(_ cut: CrashState, _ disk: OverlayDevice, deep: Bool) -> [String] {
        do {
            let (begun, returned) = progress.at(cut.epoch.event)
            let state = try RecoveredState(recovering: disk, begun: begun, returned: returned)
            var problems = try always.flatMap { try $0.complaints(about: state) }
            problems += try Structure.complaints(of: state.recovered).map { "after our recovery: \($0)" }
            guard problems.isEmpty, deep else { return problems }
            return try sometimes.flatMap { try $0.complaints(about: state) } + foreignReplay(disk, state.tree)
        } catch {
            return ["\(error)"]
        }
    }

    /// What is wrong, state by state, until `limit` states are, and how many were looked at. Every `deepEvery`-th is
    /// asked everything. `story` gives the lines about the operations around the last that had begun.
    func failures(
        of model: CrashModel, at states: [CrashState], deepEvery: Int?, stopAfter limit: Int, _ kept: KeptTrace,
        story: (_ begun: Int) -> [String]
    ) -> (failures: [String], stateCount: Int) {
        var failures: [String] = []
        var count = 0
        model.forEach(states) { state, image in
            guard failures.count < limit else { return }
            count += 1
            let problems = problems(state, image, deep: deepEvery.map { count % $0 == 1 } ?? false)
            if problems.isEmpty { return }
            let lines = problems + story(progress.at(state.epoch.event).begun) + [kept.note(state)]
            failures.append("\(state):\n\(lines.joined(separator: "\n"))")
        }
        return (failures, count)
    }

    /// Mounts, which replays the log, reads everything and unmounts.
    static func recover(_ disk: any BlockDevice) throws -> CapturedTree {
        try RecoveredState.recover(disk, .deterministic())
    }

    /// P4: e2fsck replays the same log, and the same tree comes out.
    private func foreignReplay(_ disk: OverlayDevice, _ tree: CapturedTree) throws -> [String] {
        let state = try contents(disk)
        image.write(state)
        // A super block torn between its sectors is more than e2fsck can mend on a volume of one group.
        if Tools.run("dumpe2fs", "-h", image.path).status != 0 { return [] }
        let replay = Tools.run("e2fsck", "-fy", image.path)
        guard replay.status <= 1 else { return ["e2fsck replays with exit \(replay.status)\n\(replay.output)"] }
        let replayed = MemoryDevice(image.contents)
        let complaints = try Structure.complaints(of: replayed)
        guard complaints.isEmpty else { return complaints.map { "after e2fsck's replay: \($0)" } }
        let theirs = try Self.recover(replayed)
        return theirs.withoutAllocation == tree.withoutAllocation
            ? [] : ["\(Structure.disagreement): e2fsck's replay gives another tree\n\(replay.output)"]
    }

    /// P4: the kernel's ext4 mounts the state, and the same tree comes out. Needs root and loop devices.
    static func kernelReplay(_ disk: OverlayDevice) throws -> [String] {
        let image = TemporaryFile("state")
        let tree = try recover(disk.fork())
        image.write(try contents(disk))
        let folder = TemporaryFile.newPath("mount")
        guard mkdir(folder, 0o700) == 0 else { return ["mkdir \(folder): errno \(errno)"] }
        defer { rmdir(folder) }
        let mount = Tools.run("mount", "-t", "ext4", "-o", "loop", image.path, folder)
        guard mount.status == 0 else { return ["the kernel does not mount it: \(mount.output)"] }
        let unmount = Tools.run("umount", folder)
        guard unmount.status == 0 else { return ["umount: \(unmount.output)"] }
        let replayed = MemoryDevice(image.contents)
        let complaints = try Structure.complaints(of: replayed)
        guard complaints.isEmpty else { return complaints.map { "after the kernel's replay: \($0)" } }
        let theirs = try recover(replayed)
        return theirs.withoutAllocation == tree.withoutAllocation
            ? [] : ["\(Structure.disagreement): the kernel's replay gives another tree"]
    }
}

extension TraceSample {
    /// At most `boundaries` of the boundaries, and so many others of each kind.
    func states(seed: UInt64, boundaries: Int, prefixes: Int, inFlight: Int, subsets: Int) -> [CrashState] {
        var random = SeededRandom(seed: seed)
        return random.sample(self.boundaries, count: boundaries)
            + inner(seed: seed, prefixes: prefixes, inFlight: inFlight, subsets: subsets)
    }
}
