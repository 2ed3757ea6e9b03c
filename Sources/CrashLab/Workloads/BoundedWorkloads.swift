/// Every workload of one, two or three operations over a small tree, with a call after each that makes something
/// durable: the bounds of ACE (Mohan et al., OSDI 2018), in which all crash bugs known to its authors were found.
///
/// A workload has a number, which is all that it takes to make it again. What an operation needs and is not there is
/// made before it.
package struct BoundedWorkloads: Sendable {
    package let length: Int
    private let tree: ModelTree

    /// `length` is 1...3.
    package init(length: Int, blockByteCount: Int) {
        precondition((1...3).contains(length))
        self.length = length
        tree = ModelTree(blockByteCount: blockByteCount)
    }

    private static let files = ["foo", "A/foo", "A/bar", "B/foo"], folders = ["A", "B", "A/C"]

    /// What is done, without what it needs and without the sync after it.
    enum Core: Hashable, Sendable {
        case create(String), makeDirectory(String), unlink(String), removeDirectory(String), symlink(String)
        case link(String, String), rename(String, String), renameDirectory(String, String)
        case append(String), overwrite(String), sparse(String), shrink(String), grow(String)
        case allocate(String), allocateBeyond(String), punch(String)
        case setAttribute(String), removeAttribute(String)

        /// The paths that it names; the first is the one that is synced.
        var paths: [String] {
            switch self {
            case .create(let path), .makeDirectory(let path), .unlink(let path), .removeDirectory(let path),
                .symlink(let path), .append(let path), .overwrite(let path), .sparse(let path), .shrink(let path),
                .grow(let path), .allocate(let path), .allocateBeyond(let path), .punch(let path),
                .setAttribute(let path), .removeAttribute(let path):
                [path]
            case .link(let path, let new), .rename(let path, let new), .renameDirectory(let path, let new): [new, path]
            }
        }
    }

    enum Persistence: CaseIterable, Sendable { case sync, dataSync, directorySync, syncAll }

    static let cores: [Core] = {
        let pairs = files.flatMap { file in files.filter { $0 != file }.map { (file, $0) } }
        var cores: [Core] = folders.flatMap { [.makeDirectory($0), .removeDirectory($0)] }
        cores += pairs.flatMap { [.link($0, $1), .rename($0, $1)] } + [.renameDirectory("A", "B"), .symlink("A/baz")]
        for file in files {
            cores += [
                .create(file), .unlink(file), .append(file), .overwrite(file), .sparse(file), .shrink(file),
                .grow(file), .allocate(file), .allocateBeyond(file), .punch(file), .setAttribute(file),
                .removeAttribute(file),
            ]
        }
        return cores
    }()

    private static var choices: Int { cores.count * Persistence.allCases.count }

    package var count: Int { (0..<length).reduce(1) { count, _ in count * Self.choices } }

    private func parts(_ number: Int) -> [(core: Core, persistence: Persistence)] {
        precondition((0..<count).contains(number))
        var rest = number
        return (0..<length).map { _ in
            let choice = rest % Self.choices
            rest /= Self.choices
            return (Self.cores[choice / Persistence.allCases.count], Persistence.allCases[choice % 4])
        }
    }

    /// Whether all operations have a path in common: the filter for three, which are too many otherwise.
    package func isConnected(_ number: Int) -> Bool {
        let paths = parts(number).map { Set($0.core.paths) }
        return !paths.dropFirst().reduce(paths[0]) { $0.intersection($1) }.isEmpty
    }

    package subscript(number: Int) -> [Operation] {
        var builder = WorkloadBuilder(tree)
        for (core, persistence) in parts(number) {
            builder.perform(core)
            builder.persist(core.paths[0], persistence)
        }
        return builder.operations
    }
}

extension WorkloadBuilder {
    /// More than a block, so that files have a block in the middle.
    private static var byteCount: Int { 9000 }

    private static func parent(_ path: String) -> String {
        path.split(separator: "/").dropLast().joined(separator: "/")
    }

    private mutating func ensureDirectory(_ path: String) {
        guard !path.isEmpty, !exists(path) else { return }
        ensureDirectory(Self.parent(path))
        makeDirectory(path)
    }

    private mutating func ensureFile(_ path: String) {
        if exists(path) { return }
        ensureDirectory(Self.parent(path))
        create(path)
        write(path, at: 0, count: Self.byteCount)
    }

    private mutating func ensureAbsent(_ path: String) {
        guard let node = node(path) else { return ensureDirectory(Self.parent(path)) }
        if node.isDirectory { ensureEmpty(path) }
        node.isDirectory ? removeDirectory(path) : unlink(path)
    }

    private mutating func ensureEmpty(_ path: String) {
        for name in (node(path)?.entries.keys.map { String(decoding: $0, as: UTF8.self) } ?? []).sorted() {
            ensureAbsent("\(path)/\(name)")
        }
    }

    mutating func perform(_ core: BoundedWorkloads.Core) {
        switch core {
        case .create(let path):
            ensureAbsent(path)
            create(path)
        case .makeDirectory(let path):
            ensureAbsent(path)
            makeDirectory(path)
        case .symlink(let path):
            ensureAbsent(path)
            makeSymlink(path, to: "foo")
        case .unlink(let path):
            ensureFile(path)
            unlink(path)
        case .removeDirectory(let path):
            ensureDirectory(path)
            ensureEmpty(path)
            removeDirectory(path)
        case .link(let path, let new):
            ensureFile(path)
            ensureAbsent(new)
            link(path, as: new)
        case .rename(let path, let new):
            ensureFile(path)
            ensureDirectory(Self.parent(new))
            rename(path, to: new)
        case .renameDirectory(let path, let new):
            ensureDirectory(path)
            ensureAbsent(new)
            rename(path, to: new)
        default: performOnData(core)
        }
    }

    private mutating func performOnData(_ core: BoundedWorkloads.Core) {
        let path = core.paths[0]
        ensureFile(path)
        let size = node(path)?.content.count ?? 0
        switch core {
        case .append: write(path, at: size, count: 5000)
        case .overwrite: write(path, at: 0, count: 3000)
        case .sparse: write(path, at: size + 20_000, count: 1000)
        case .shrink: truncate(path, to: size / 3)
        case .grow: truncate(path, to: size + 7000)
        case .allocate: allocate(path, at: size, count: 8192, keepsSize: false)
        case .allocateBeyond: allocate(path, at: size, count: 8192, keepsSize: true)
        case .punch: if size > 0 { punch(path, at: size / 4, count: max(1, size / 2)) }
        case .setAttribute: setAttribute(path, "user.a", count: 300)
        case .removeAttribute:
            if node(path)?.attributes.isEmpty ?? true { setAttribute(path, "user.a", count: 300) }
            removeAttribute(path, "user.a")
        default: break
        }
    }

    /// What is gone is synced by the directory that had it.
    mutating func persist(_ path: String, _ persistence: BoundedWorkloads.Persistence) {
        let isFile = node(path)?.isFile ?? false
        switch persistence {
        case .sync where isFile: sync(path)
        case .dataSync where isFile: sync(path, dataOnly: true)
        case .syncAll: syncAll()
        default:
            var parent = Self.parent(path)
            while !exists(parent) { parent = Self.parent(parent) }
            sync(parent)
        }
    }
}
