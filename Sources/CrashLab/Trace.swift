package import BlockIO
internal import Synchronization

/// What a device was asked for, in memory, in the order in which requests were submitted and completed.
///
/// Richer than a write log: it knows what was in flight, and what failed.
package final class Trace: DeviceRecorder {
    /// Tickets ascend in the order of submission.
    package enum Event: Sendable {
        case submitted(ticket: UInt64, DeviceRequest)
        case completed(ticket: UInt64, succeeded: Bool)
        case mark(String)
    }
    private struct State {
        var events: [Event] = []
        var nextTicket: UInt64 = 0
    }
    private let state = Mutex(State())

    package init() {}

    package var events: [Event] { state.withLock { $0.events } }

    package func submitted(_ request: DeviceRequest) -> UInt64 {
        state.withLock { state in
            let ticket = state.nextTicket
            state.nextTicket += 1
            state.events.append(.submitted(ticket: ticket, request))
            return ticket
        }
    }

    package func completed(_ ticket: UInt64, succeeded: Bool) {
        state.withLock { $0.events.append(.completed(ticket: ticket, succeeded: succeeded)) }
    }

    package func marked(_ label: String) {
        state.withLock { $0.events.append(.mark(label)) }
    }

    /// Tells `recorder` the same story: how a trace becomes a write log.
    package static func replay(_ events: [Event], into recorder: any DeviceRecorder) {
        var tickets: [UInt64: UInt64] = [:]
        for event in events {
            switch event {
            case .submitted(let ticket, let request): tickets[ticket] = recorder.submitted(request)
            case .completed(let ticket, let succeeded):
                guard let theirs = tickets.removeValue(forKey: ticket) else { continue }
                recorder.completed(theirs, succeeded: succeeded)
            case .mark(let label): recorder.marked(label)
            }
        }
    }
}
