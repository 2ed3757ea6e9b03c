/// A workload that once broke ext4, jbd2 or a file system beside them, by the number that the crash testing notes give
/// it: those that a writer of full commits can meet. What they did is told in the words of the calls.
package struct RegressionScenario: Sendable {
    package let id: String
    package let operations: [Operation]
    /// What the next transaction of the journal is called; nil: as mke2fs has it.
    package let sequence: UInt32?

    private init(
        _ id: String, sequence: UInt32? = nil, _ tree: ModelTree, _ body: (inout WorkloadBuilder) -> Void
    ) {
        var builder = WorkloadBuilder(tree)
        body(&builder)
        self.id = id
        self.sequence = sequence
        operations = builder.operations
    }

    /// All of them, for a fresh volume with blocks of `blockByteCount`.
    package static func all(blockByteCount: Int) -> [RegressionScenario] {
        let tree = ModelTree(blockByteCount: blockByteCount)
        return journal(tree) + data(tree) + orphans(tree) + names(tree) + renames(tree)
    }

    // MARK: - The journal

    private static func journal(_ tree: ModelTree) -> [RegressionScenario] {
        let wraps: [(String, UInt32)] = [("J14 at 2^32", 0xFFFF_FFF8), ("J14 at 2^31", 0x7FFF_FFF8)]
        return [
            // An unmount left an old sequence: the next log, cut short, was continued by a transaction of the last one.
            RegressionScenario("J3", tree) { work in
                for round in 0..<4 {
                    work.create("kept\(round)")
                    work.write("kept\(round)", at: 0, count: 3000)
                    work.sync("kept\(round)")
                    work.remount()
                    work.create("lost\(round)")
                }
            },
            // A log that had been replayed was not marked empty: what came next was not replayed after a second cut.
            RegressionScenario("J6", tree) { work in
                work.create("first")
                work.sync("first")
                work.remount()
                work.create("second")
                work.sync("second")
                work.makeDirectory("third")
                work.syncAll()
            },
            // Blocks of directories are freed and become data; a replay must not write over that.
            RegressionScenario("J7", tree) { work in
                for name in ["a", "b", "c", "d"] {
                    work.makeDirectory(name)
                    work.create("\(name)/x")
                }
                work.syncAll()
                for name in ["a", "b", "c", "d"] {
                    work.unlink("\(name)/x")
                    work.removeDirectory(name)
                }
                work.syncAll()
                work.create("data")
                work.write("data", at: 0, count: 60_000)
                work.sync("data")
                work.write("data", at: 0, count: 60_000)
                work.sync("data", dataOnly: true)
            },
        ]
            + wraps.map { id, sequence in
                RegressionScenario(id, sequence: sequence, tree) { work in
                    for round in 0..<20 {
                        work.create("f\(round)")
                        work.sync("f\(round)")
                        if round == 10 { work.remount() }
                    }
                }
            }
    }

    // MARK: - Data

    private static func data(_ tree: ModelTree) -> [RegressionScenario] {
        [
            // An append that was not synced and a write below the old size: the size was 0 after the cut.
            RegressionScenario("E1", tree) { work in
                work.create("f")
                work.write("f", at: 0, count: 20_000)
                work.write("f", at: 4096, count: 4096)
                work.sync("f", dataOnly: true)
                work.write("f", at: 20_000, count: 9000)
                work.write("f", at: 8192, count: 4096)
                work.sync("f", dataOnly: true)
            },
            // Blocks beyond the end of the file, which fdatasync must keep.
            RegressionScenario("E2", tree) { work in
                work.create("f")
                work.write("f", at: 0, count: 5000)
                work.sync("f")
                work.allocate("f", at: 8192, count: 16_384, keepsSize: true)
                work.sync("f", dataOnly: true)
                work.write("f", at: 8192, count: 4000)
                work.sync("f", dataOnly: true)
            },
            // A file is replaced by a rename that nobody syncs: the name leads to the old data or to the new, whole.
            RegressionScenario("E4", tree) { work in
                work.create("f")
                work.write("f", at: 0, count: 9000)
                work.syncAll()
                for round in 0..<3 {
                    work.create("new\(round)")
                    work.write("new\(round)", at: 0, count: 9000)
                    work.rename("new\(round)", to: "f")
                }
            },
            // Blocks that are allocated before they are written show nothing but zeros.
            RegressionScenario("E5", tree) { work in
                work.create("f")
                work.allocate("f", at: 0, count: 40_000, keepsSize: false)
                work.sync("f")
                work.write("f", at: 10_000, count: 5000)
                work.punch("f", at: 2000, count: 20_000)
                work.sync("f")
                work.truncate("f", to: 3000)
                work.truncate("f", to: 30_000)
                work.sync("f", dataOnly: true)
            },
        ]
    }

    private static func orphans(_ tree: ModelTree) -> [RegressionScenario] {
        [
            // fsync of a file without a name: the volume can be mounted, and the file is gone.
            RegressionScenario("E7", tree) { work in
                work.create("f")
                work.write("f", at: 0, count: 9000)
                let file = work.hold("f")
                work.unlink("f")
                work.sync(file)
                work.create("g")
                work.sync("g")
                work.release(file)
                work.syncAll()
            },
            // Files without names, and one that is being cut, when the power goes.
            RegressionScenario("E8", tree) { work in
                var held: [ModelNodeID] = []
                for name in ["a", "b", "c"] {
                    work.create(name)
                    work.write(name, at: 0, count: 30_000)
                    held.append(work.hold(name))
                }
                work.syncAll()
                work.unlink("a")
                work.unlink("b")
                work.truncate("c", to: 100)
                work.syncAll()
                for file in held { work.release(file) }
            },
        ]
    }

    // MARK: - Names

    // E9: what the bounded black-box tests of others found in other file systems, where it can be said in these calls.

    private static func names(_ tree: ModelTree) -> [RegressionScenario] {
        [
            RegressionScenario("E9 rename over a synced file", tree) { work in
                work.makeDirectory("A")
                work.create("A/foo")
                work.write("A/foo", at: 0, count: 9000)
                work.sync("A/foo")
                work.create("A/bar")
                work.write("A/bar", at: 0, count: 4000)
                work.rename("A/bar", to: "A/foo")
                work.sync("A/foo")
            },
            RegressionScenario("E9 two names of one inode", tree) { work in
                work.create("foo")
                work.link("foo", as: "bar")
                work.sync("foo")
                work.unlink("bar")
                work.create("bar")
                work.sync("bar")
            },
            RegressionScenario("E9 the sync of a directory with links", tree) { work in
                work.makeDirectory("A")
                work.create("A/foo")
                work.link("A/foo", as: "A/bar")
                work.sync("A")
                work.link("A/foo", as: "A/baz")
                work.unlink("A/foo")
                work.sync("A")
            },
        ]
    }

    private static func renames(_ tree: ModelTree) -> [RegressionScenario] {
        [
            RegressionScenario("E9 a directory takes the name of another", tree) { work in
                work.makeDirectory("A")
                work.makeDirectory("B")
                work.create("A/foo")
                work.sync("A/foo")
                work.rename("A", to: "C")
                work.rename("B", to: "A")
                work.create("A/foo")
                work.sync("A/foo")
            },
            RegressionScenario("E9 a name is used again", tree) { work in
                work.create("foo")
                work.write("foo", at: 0, count: 5000)
                work.sync("foo")
                work.rename("foo", to: "bar")
                work.create("foo")
                work.sync("bar")
            },
            RegressionScenario("E9 exchange and sync", tree) { work in
                work.makeDirectory("A")
                work.create("A/foo")
                work.create("bar")
                work.setAttribute("bar", "user.a", count: 400)
                work.exchange("A/foo", with: "bar")
                work.sync("A")
                work.removeAttribute("A/foo", "user.a")
                work.sync("A/foo")
            },
            RegressionScenario("E9 a hole and a sync of the data alone", tree) { work in
                work.create("foo")
                work.write("foo", at: 40_000, count: 5000)
                work.sync("foo", dataOnly: true)
                work.punch("foo", at: 41_000, count: 3000)
                work.sync("foo", dataOnly: true)
                work.truncate("foo", to: 60_000)
                work.sync("foo", dataOnly: true)
            },
        ]
    }
}
