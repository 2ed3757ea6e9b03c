import BlockIO
import CrashLab
import Ext4Format
import FileSystem
import Testing

/// A linter that finds nothing proves nothing: each rule has a log that breaks it, made of a good one.
@Suite struct BrokenProtocolTests {
    /// A trace whose requests were made one after the other, so that they can be moved.
    struct Story {
        enum Step {
            case request(DeviceRequest, fails: Bool = false)
            case mark(String)
        }
        var steps: [Step]
        let base: [UInt8]
        let blockByteCount: Int
        let acknowledgement: (String) -> ProtocolLinter.Acknowledgement?

        init(_ outcome: CrashCampaign.Outcome, _ volume: TestVolume) {
            steps = outcome.events.compactMap { event in
                switch event {
                case .submitted(_, let request): .request(request)
                case .completed: nil
                case .mark(let label): .mark(label)
                }
            }
            base = outcome.base
            blockByteCount = volume.blockByteCount
            acknowledgement = acknowledgements(outcome.history)
        }

        var events: [Trace.Event] {
            steps.enumerated().flatMap { index, step -> [Trace.Event] in
                switch step {
                case .mark(let label): [.mark(label)]
                case .request(let request, let fails):
                    [
                        .submitted(ticket: UInt64(index), request),
                        .completed(ticket: UInt64(index), succeeded: !fails),
                    ]
                }
            }
        }

        func lint() throws -> [ProtocolViolation] {
            try ProtocolLinter.lint(events, base: MemoryDevice(base), acknowledgement: acknowledgement)
        }

        func rules() throws -> Set<ProtocolRule> { Set(try lint().map(\.rule)) }

        func bytes(_ index: Int) -> (offset: UInt64, bytes: [UInt8], mode: WriteMode)? {
            guard case .request(.write(let offset, let bytes, let mode), _) = steps[index] else { return nil }
            return (offset, bytes, mode)
        }

        /// The type of a block of the journal's own that a write begins with: 1 descriptor, 2 commit, 4 super block, 5
        /// revoke.
        func type(_ index: Int) -> UInt8? {
            guard let write = bytes(index), write.bytes.starts(with: [0xC0, 0x3B, 0x39, 0x98]) else { return nil }
            return write.bytes[7]
        }

        func isFlush(_ index: Int) -> Bool {
            if case .request(.flush, _) = steps[index] { true } else { false }
        }

        /// Cached writes outside of the log.
        func isHome(_ index: Int) -> Bool {
            guard let write = bytes(index), write.mode == .cached, type(index) == nil else { return false }
            return true
        }

        mutating func set(_ index: Int, _ body: (inout [UInt8]) -> Void) {
            guard case .request(.write(let offset, var bytes, let mode), let fails) = steps[index] else { return }
            body(&bytes)
            steps[index] = .request(.write(offset: offset, bytes: bytes, mode: mode), fails: fails)
        }
    }

    private static func story(_ volume: TestVolume = .small) throws -> Story {
        let campaign = CrashCampaign(seed: 11, volume: volume, profile: .mixed(200))
        let story = Story(try campaign.record(), volume)
        #expect(try story.lint() == [])
        return story
    }

    @Test func aCommitWithoutItsFlushIsI1() throws {
        var story = try Self.story()
        let commit = try #require(story.steps.indices.first { story.type($0) == 2 })
        let flush = try #require(story.steps[..<commit].indices.last { story.isFlush($0) })
        story.steps.remove(at: flush)
        #expect(try story.rules() == [.commitAfterFlush])
    }

    @Test func aCommitBeforeItsBlocksIsI1() throws {
        var story = try Self.story()
        let commit = try #require(story.steps.indices.first { story.type($0) == 2 })
        let body = try #require(story.steps[..<commit].indices.last { [1, 5].contains(story.type($0)) })
        story.steps.insert(story.steps.remove(at: commit), at: body)
        #expect(try story.rules().contains(.commitAfterFlush))
    }

    /// The first home write, and the write of the log that holds the same block.
    private static func homeAndBody(_ story: Story) throws -> (home: Int, body: Int) {
        let size = story.blockByteCount
        for home in story.steps.indices where story.isHome(home) {
            guard let write = story.bytes(home), write.bytes.count == size else { continue }
            let body = story.steps[..<home].indices.last { index in
                guard story.type(index) == 1, let log = story.bytes(index) else { return false }
                return stride(from: 0, to: log.bytes.count, by: size).contains {
                    log.bytes[$0..<$0 + size].elementsEqual(write.bytes)
                }
            }
            if let body { return (home, body) }
        }
        throw Ext4Error.refused("no home write is as the log has it")
    }

    @Test func aHomeWriteBeforeItsCommitIsI2() throws {
        var story = try Self.story()
        let (home, body) = try Self.homeAndBody(story)
        story.steps.insert(story.steps.remove(at: home), at: body + 1)
        #expect(try story.rules().contains(.homeAfterCommit))
    }

    @Test func aTailBeforeTheFlushOfItsHomesIsI3() throws {
        var story = try Self.story()
        let (home, _) = try Self.homeAndBody(story)
        let flush = try #require(story.steps.indices.first { $0 > home && story.isFlush($0) })
        story.steps.remove(at: flush)
        #expect(try story.rules() == [.tailAfterCheckpoint])
    }

    @Test func aTailWithoutFUAIsI3() throws {
        var story = try Self.story()
        let (home, _) = try Self.homeAndBody(story)
        let tail = try #require(story.steps.indices.first { $0 > home && story.type($0) == 4 })
        let write = try #require(story.bytes(tail))
        story.steps[tail] = .request(.write(offset: write.offset, bytes: write.bytes, mode: .cached))
        #expect(try story.rules().contains(.tailAfterCheckpoint))
    }

    @Test func aCommitThatTheSuperBlockDoesNotLeadToIsI4() throws {
        var story = try Self.story()
        let commit = try #require(story.steps.indices.first { story.type($0) == 2 })
        let mark = try #require(story.steps[..<commit].indices.last { story.type($0) == 4 })
        story.steps.remove(at: mark)
        #expect(try story.rules().contains(.logReuseAfterTail))
    }

    /// The log is overwritten from its first block on while its super block says that it begins there.
    @Test func aLogThatIsReusedBehindItsTailIsI4() throws {
        var story = try Self.story()
        let bodies = story.steps.indices.filter { [1, 5].contains(story.type($0)) }
        let first = try #require(bodies.first), again = try #require(story.steps.indices.first { story.type($0) == 2 })
        story.steps.insert(story.steps[first], at: again + 1)
        let found = try story.lint()
        #expect(found.contains { $0.rule == .logReuseAfterTail && $0.event == (again + 1) * 2 - marks(story, again) })
    }

    /// How many events fewer than two per step there are before the step behind `index`.
    private func marks(_ story: Story, _ index: Int) -> Int {
        story.steps[...index].count { if case .mark = $0 { true } else { false } }
    }

    /// A directory is logged and removed, and its blocks are given to a file, while the log still holds all of that.
    private static func reuse() throws -> (story: Story, revoke: Int, data: Int) {
        let volume = TestVolume.noChecksums
        let base = try volume.make()
        let trace = Trace()
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(base)), recorder: trace)
        let tree = ModelTree(blockByteCount: volume.blockByteCount)
        let run = try WorkloadRun(on: device, tree: tree, options: .deterministic())
        try run.perform(.makeDirectory(.root, Array("dir".utf8), mode: 0o755))
        try run.perform(.syncAll)
        try run.perform(.removeDirectory(.root, Array("dir".utf8)))
        try run.perform(.syncAll)
        let file = run.history.tree.nextNode
        try run.perform(.create(.root, Array("file".utf8), mode: 0o644))
        for step in 0..<40 {
            guard try run.perform(.write(file, at: step << 18, count: 1 << 18, stamp: 7)) else { break }
        }
        try run.perform(.syncAll)
        let history = run.history
        let story = Story(CrashCampaign.Outcome(history: history, events: trace.events, base: base), volume)
        #expect(try story.lint() == [])
        let revoke = try #require(story.steps.indices.first { story.type($0) == 5 })
        let record = try #require(story.bytes(revoke)).bytes[16..<24]
        let block = record.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let byte = block * UInt64(volume.blockByteCount)
        let data = try #require(
            story.steps.indices.first { index in
                guard index > revoke, let write = story.bytes(index) else { return false }
                return write.offset <= byte && byte < write.offset + UInt64(write.bytes.count)
            })
        return (story, revoke, data)
    }

    @Test func aLoggedBlockThatIsReusedWithoutARevokeIsI5() throws {
        var (story, revoke, _) = try Self.reuse()
        // A revoke block of no records: only its header counts.
        story.set(revoke) { $0.replaceSubrange(12..<16, with: [0, 0, 0, 16]) }
        #expect(try story.rules() == [.revokeBeforeReuse])
    }

    @Test func aBlockThatIsReusedBeforeItsRevokeIsDurableIsI5() throws {
        var (story, revoke, data) = try Self.reuse()
        story.steps.insert(story.steps.remove(at: data), at: revoke)
        #expect(try story.rules() == [.revokeBeforeReuse])
    }

    @Test func aSyncThatReturnsBeforeTheCommitIsI6() throws {
        let good = try Self.story()
        let ends = good.steps.indices.filter { index in
            guard case .mark(let label) = good.steps[index] else { return false }
            return good.acknowledgement(label) == .everything
        }
        let (begin, end) = try #require(
            ends.lazy.map { end in
                (good.steps[..<end].lastIndex { if case .mark = $0 { true } else { false } } ?? 0, end)
            }.first { window in (window.0..<window.1).contains { good.type($0) == 2 } })
        var early = good
        let commit = try #require(good.steps[..<end].indices.last { good.type($0) == 2 })
        early.steps.insert(early.steps.remove(at: commit), at: end)
        #expect(try early.rules() == [.acknowledgement])
        var silent = good
        for index in (begin..<end).reversed() where good.isFlush(index) { silent.steps.remove(at: index) }
        #expect(try silent.rules().contains(.acknowledgement))
    }

    @Test func aTailThatGoesBackIsI7() throws {
        var story = try Self.story()
        let marks = story.steps.indices.filter { story.type($0) == 4 }
        let first = try #require(marks.first), commits = story.steps.indices.filter { story.type($0) == 2 }
        let last = try #require(commits.last)
        story.steps.insert(story.steps[first], at: last + 1)
        #expect(try story.rules().contains(.sequence))
    }

    @Test func aTransactionIDThatSkipsOneIsI7() throws {
        var story = try Self.story(.noChecksums)
        let commits = story.steps.indices.filter { story.type($0) == 2 }
        let (before, commit) = (commits[1], commits[2])
        for index in before + 1...commit where [1, 2, 5].contains(story.type(index)) {
            story.set(index) { $0[11] += 1 }
        }
        #expect(try story.rules().contains(.sequence))
    }

    @Test func aRecoveryThatEmptiesTheLogBeforeItsFlushIsI8() throws {
        let outcome = try CrashCampaign(seed: 11, volume: .small, profile: .mixed(60)).record()
        let good = Story(outcome, .small)
        let commit = try #require(good.steps.indices.filter { good.type($0) == 2 }.dropFirst(2).first)
        var cut = outcome
        cut.events = Array(good.events.prefix((commit + 1) * 2 - marks(good, commit)))
        let model = try CrashModel(base: MemoryDevice(outcome.base), events: cut.events)
        let end = EpochChoices(model, try #require(model.epochs.last))
        let crashed = try contents(LazyDevice(end, picks: .required))
        let trace = Trace()
        let device = RecordingDevice(OverlayDevice(over: MemoryDevice(crashed)), recorder: trace)
        try FileSystem.mount(on: device, options: .deterministic()).unmount()
        cut.events = trace.events
        cut.base = crashed
        var recovery = Story(cut, .small)
        #expect(try recovery.lint() == [])
        let flush = try #require(recovery.steps.indices.first { recovery.isFlush($0) })
        recovery.steps.remove(at: flush)
        #expect(try recovery.rules().contains(.recoveryOrder))
    }

    @Test func metadataThatNoTransactionHoldsIsI9() throws {
        var story = try Self.story()
        let (home, _) = try Self.homeAndBody(story)
        let write = try #require(story.bytes(home))
        let bytes = write.bytes.map { $0 ^ 0xFF }
        story.steps.insert(.request(.write(offset: write.offset, bytes: bytes, mode: .cached)), at: home)
        #expect(try story.rules() == [.justifiedHome])
    }

    @Test func aBlockThatChangesAfterItsChecksumIsI10() throws {
        var story = try Self.story()
        let body = try #require(story.steps.indices.first { story.type($0) == 1 })
        story.set(body) { $0[$0.count - 1] ^= 1 }
        #expect(try story.rules().contains(.stableContent))
    }

    @Test func overlappingWritesInFlightAreI11() throws {
        let write = DeviceRequest.write(offset: 0, bytes: [UInt8](repeating: 0, count: 512), mode: .cached)
        let other = DeviceRequest.write(offset: 0, bytes: [UInt8](repeating: 1, count: 1024), mode: .cached)
        let events: [Trace.Event] = [
            .submitted(ticket: 1 << 40, write), .submitted(ticket: 1 << 41, other),
            .completed(ticket: 1 << 40, succeeded: true), .completed(ticket: 1 << 41, succeeded: true),
        ]
        let found = try ProtocolLinter.lint(events, base: MemoryDevice(byteCount: 4096))
        #expect(found.map(\.rule) == [.noOverlap] && found.first?.event == 1)
    }

    @Test func aCommitOrATailAfterAFailedFlushIsI12() throws {
        let good = try Self.story()
        let commits = good.steps.indices.filter { good.type($0) == 2 }
        let flush = try #require(good.steps[..<commits[1]].indices.last { good.isFlush($0) })
        var story = good
        story.steps[flush] = .request(.flush, fails: true)
        #expect(try story.rules().contains(.stopAfterFailure))
    }
}
