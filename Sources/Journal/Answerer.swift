internal import Ext4Format
internal import Synchronization

/// Gives answers on a thread of its own: who commits goes on with the next transaction meanwhile, and who aborts may
/// hold locks that an answer takes.
final class Answerer: Sendable {
    private struct Round {
        let failure: Ext4Error?
        let answers: [DurabilityAnswer]
    }
    private let rounds = Mutex<[Round]>([])
    private let thread = Worker()

    func start() { thread.start(name: "jext4-answer", intervalMilliseconds: nil) { [self] _ in giveAll() } }

    /// Does not wait. With any locks held.
    func give(_ failure: Ext4Error?, to answers: [DurabilityAnswer]) {
        guard !answers.isEmpty else { return }
        rounds.withLock { $0.append(Round(failure: failure, answers: answers)) }
        thread.wake()
    }

    /// Returns when every answer has been given. None is added any more.
    func stop() {
        thread.stop()
        giveAll()
    }

    private func giveAll() {
        let due = rounds.withLock { rounds in
            defer { rounds = [] }
            return rounds
        }
        for round in due {
            for answer in round.answers { answer(round.failure) }
        }
    }
}
