import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// Random calls whose data an emulated kernel writes to the recorded device, with the model beside them. What the page
/// cache holds is no operation yet: each report of writeback is one, as it is there whole or not at all.
struct IomapWorkload {
    let image: TestImage
    let placement: ModelTree.Placement
    var seed: UInt64
    var count = 60
    var liesAboutWrites = false

    struct Outcome {
        var history: ModelHistory
        var events: [Trace.Event]
        var base: [UInt8]
    }

    func record() throws -> Outcome {
        let base = try image.make()
        let trace = Trace()
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(base)), recorder: trace)
        var options = MountOptions.deterministic()
        options.outOfPlace = placement == .outOfPlace
        device.mark("begin 0")
        let mount = try TestMount(on: device, unit: image.blockByteCount, options: options)
        device.mark("end 0")
        let run = Run(self, mount)
        for _ in 0..<count { try run.step() }
        if !liesAboutWrites { try run.compare() }
        try run.perform(.unmount) { try mount.connection.close() }
        return Outcome(history: run.history, events: trace.events, base: base)
    }

    private final class Run {
        private let mount: TestMount
        private let workload: IomapWorkload
        private var random: SeededRandom
        private(set) var history: ModelHistory
        private var files: [(id: ModelNodeID, name: String, file: KernelFile)] = []
        private var nameCount = 0, stamp: UInt64 = 0

        init(_ workload: IomapWorkload, _ mount: TestMount) {
            (self.workload, self.mount) = (workload, mount)
            random = SeededRandom(seed: workload.seed)
            history = ModelHistory(
                ModelTree(blockByteCount: workload.image.blockByteCount, placement: workload.placement))
        }

        private var unit: Int { mount.unit }
        private func next(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &random) }

        func perform(_ operation: Operation, _ body: () throws -> Void) throws {
            mount.device.mark("begin \(history.steps.count)")
            try body()
            let step = history.steps.count
            history.append(operation)
            mount.device.mark("end \(step)")
        }

        func step() throws {
            let choice = next(20)
            if files.isEmpty || choice == 0 && files.count < 3 { return try create() }
            let (id, name, file) = files[next(files.count)]
            file.tellsSectors = next(2) == 0
            switch choice {
            case 1:
                try perform(.unlink(.root, Array(name.utf8))) {
                    try mount.connection.unlink(name)
                    mount.connection.forget(file.node)
                }
                files.removeAll { $0.id == id }
            case 2..<8: try writeDirect(id, file)
            case 8..<13: try writeBuffered(id, file)
            case 13:
                let size = next(Int(file.size) / unit + 4) * unit
                try perform(.truncate(id, to: size)) { try file.truncate(to: UInt64(size)) }
            case 14:
                let range = blocks(file)
                let keepsSize = next(2) == 0
                try perform(.allocate(id, at: range.lowerBound, count: range.count, keepsSize: keepsSize)) {
                    let range = UInt64(range.lowerBound)..<UInt64(range.upperBound)
                    try file.allocate(range, mode: keepsSize ? 1 : 0)
                }
            case 15:
                let range = blocks(file)
                try perform(.punch(id, at: range.lowerBound, count: range.count)) {
                    try file.allocate(UInt64(range.lowerBound)..<UInt64(range.upperBound), mode: 3)
                }
            case 16: try perform(.syncAll) { try mount.connection.syncAll() }
            default:
                let dataOnly = next(2) == 0
                try perform(.sync(id, dataOnly: dataOnly)) { try file.fsync(dataOnly: dataOnly) }
            }
        }

        private func create() throws {
            nameCount += 1
            let name = "file \(nameCount)"
            let id = history.tree.nextNode
            try perform(.create(.root, Array(name.utf8), mode: 0o644)) {
                let file = try mount.create(name)
                file.liesAboutWrites = workload.liesAboutWrites
                files.append((id, name, file))
            }
        }

        /// Whole blocks, which may lie behind the end.
        private func blocks(_ file: KernelFile) -> Range<Int> {
            let start = next(min(Int(file.size) / unit, 40) + 6)
            return start * unit..<(start + 1 + next(8)) * unit
        }

        private func writeDirect(_ id: ModelNodeID, _ file: KernelFile) throws {
            let range = blocks(file)
            stamp += 1
            let bytes = Operation.pattern(stamp: stamp, at: range.lowerBound, count: range.count)
            try perform(.write(id, at: range.lowerBound, count: range.count, stamp: stamp)) {
                try file.writeDirect(bytes, at: UInt64(range.lowerBound))
            }
        }

        /// Any bytes; what writeback reports of them is an operation each. A write behind the end zeros the last block,
        /// which nobody can see.
        private func writeBuffered(_ id: ModelNodeID, _ file: KernelFile) throws {
            let start = next(min(Int(file.size), 40 * unit) + 3 * unit), count = 1 + next(6 * unit)
            stamp += 1
            try file.write(Operation.pattern(stamp: stamp, at: start, count: count), at: UInt64(start))
            for block in start / unit...(start + count - 1) / unit {
                let bytes = (block * unit..<(block + 1) * unit).clamped(to: start..<start + count)
                try perform(.write(id, at: bytes.lowerBound, count: bytes.count, stamp: stamp)) {
                    try file.writeBack(UInt64(bytes.lowerBound)..<UInt64(bytes.upperBound))
                }
            }
            try file.writeBack()
        }

        func compare() throws {
            let step = history.steps.count - 1
            let tree = try CapturedTree(reading: mount.fileSystem)
            let found = TreeComparison(tree, with: history, begun: step, returned: step).mismatch(step)
            try #require(found == nil, "seed \(workload.seed)")
        }
    }
}
