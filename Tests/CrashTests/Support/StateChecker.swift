import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Glibc

/// Judges crash states: recovers each in several ways, and says what is wrong.
struct StateChecker {
    let history: ModelHistory
    let progress: WorkloadProgress
    let image = TemporaryFile("state")

    /// Empty: the state is as it should be.
    func problems(_ point: CrashPoint, _ disk: OverlayDevice, deep: Bool) -> [String] {
        do {
            let (begun, returned) = progress.at(point.event)
            let ours = disk.fork()
            let tree = try Self.recover(ours)
            var problems: [String] = []
            let comparison = TreeComparison(tree, with: history, begun: begun, returned: returned)
            if case .impossible(let reasons) = comparison.verdict() {
                let floor = history.steps[returned].floor
                problems.append("floor \(floor), returned \(returned), begun \(begun)")
                problems += reasons
            }
            problems += try Structure.complaints(of: ours).map { "after our recovery: \($0)" }
            guard problems.isEmpty, deep else { return problems }
            return try foreignReplay(disk, tree) + again(disk, ours, tree) + use(ours)
        } catch {
            return ["\(error)"]
        }
    }

    /// Mounts, which replays the log, reads everything and unmounts.
    static func recover(_ disk: any BlockDevice) throws -> CapturedTree {
        let system = try FileSystem.mount(on: disk, options: TestVolume.options())
        let tree: CapturedTree
        do {
            tree = try CapturedTree(reading: system)
        } catch {
            try? system.unmount()
            throw error
        }
        try system.unmount()
        return tree
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
        return theirs == tree ? [] : ["e2fsck's replay gives another tree\n\(replay.output)"]
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
        return theirs == tree ? [] : ["the kernel's replay gives another tree"]
    }

    /// Recovery repeats itself, and a power cut during recovery changes nothing.
    private func again(_ disk: OverlayDevice, _ ours: OverlayDevice, _ tree: CapturedTree) throws -> [String] {
        var problems: [String] = []
        let trace = Trace()
        let second = disk.fork()
        _ = try Self.recover(RecordingDevice(second, recorder: trace))
        let first = try contents(ours), repeated = try contents(second)
        if first != repeated {
            let sectors = stride(from: 0, to: first.count, by: 512).filter {
                first[$0..<$0 + 512] != repeated[$0..<$0 + 512]
            }
            problems.append("a second recovery leaves other bytes, in sectors \(sectors.prefix(8).map { $0 / 512 })")
        }
        let states = CrashStates(base: disk, events: trace.events)
        let points = states.points(seed: 1, prefixes: 2, inFlight: 2, subsets: 3)
        var random = SeededRandom(seed: 1)
        try states.forEach(random.sample(points, count: 4)) { point, torn in
            if try Self.recover(torn) != tree { problems.append("recovery cut at \(point) gives another tree") }
        }
        return problems
    }

    /// What was recovered can be used: and a file that grows shows zeros, not what a lost operation left behind.
    private func use(_ recovered: OverlayDevice) throws -> [String] {
        let disk = recovered.fork()
        var problems: [String] = []
        let system = try FileSystem.mount(on: disk, options: TestVolume.options())
        let caller = Caller(uid: 0, gid: 0, umask: 0)
        let tree = try CapturedTree(reading: system)
        for (number, node) in tree.nodes where node.mode >> 12 == 8 && node.size < 1 << 22 {
            var changes = AttributeChanges()
            changes.size = node.size + 6000
            _ = try system.setAttributes(of: number, changes)
            let buffer = AlignedBuffer(byteCount: Int(node.size) + 6000)
            _ = try buffer.withMutableBytes { try system.read(number, at: 0, into: &$0) }
            let tail = buffer.withBytes { $0.array(Int(node.size)..<buffer.byteCount) }
            if tail.contains(where: { $0 != 0 }) {
                problems.append("inode \(number.rawValue) of \(node.size) bytes grows and shows stale bytes")
            }
        }
        let name = try FileName(Array("used after recovery".utf8))
        let file = try system.createFile(name, in: .root, mode: 0o100600, caller: caller)
        let bytes = [UInt8](repeating: 0x55, count: 5000)
        _ = try system.write(file.inode, at: 0, bytes.span.bytes)
        try system.sync(file.inode, dataOnly: false)
        try system.unlink(name, in: .root)
        system.forget(file.inode, count: 1)
        try system.unmount()
        return try problems + Structure.complaints(of: disk).map { "after use: \($0)" }
    }
}
