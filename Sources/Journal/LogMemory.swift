internal import BlockIO
internal import Ext4Format
internal import Synchronization

/// The memory that a log is read into, in pieces that are used again when nobody needs them any more.
///
/// A piece stays as it was read for as long as replay is to write one of its blocks home: so nothing is copied, and
/// nothing is read twice. What does not fit the bound is read again: it decides about time alone.
final class LogMemory: Sendable {
    /// Room for `pieceBlockCount` blocks, until it is closed.
    struct Piece {
        fileprivate let number: Int
        let buffer: AlignedBuffer
    }
    private struct State {
        var buffers: [AlignedBuffer] = []
        /// By piece: how many of its blocks are kept, and whether it is open.
        var keptBlockCounts: [Int] = []
        var isOpen: [Bool] = []
        var free: [Int] = []
        var keptPieceCount = 0
    }
    let pieceBlockCount: Int
    /// Whether the device has something to do while what it gave is being used.
    let isWorthReadingAhead: Bool
    private let blockByteCount: Int
    private let keptPieceLimit: Int
    private let state = Mutex(State())

    private static let largestPieceByteCount = 2 << 20
    /// Of a device of the laboratory much is decided and little is read: a piece that stays in the processor's cache.
    private static let undecidedPieceByteCount = 64 << 10
    /// Of what is copied from memory too.
    private static let copiedPieceByteCount = 256 << 10
    private static let leastPieces = 8

    /// Stands for a block that is not kept.
    static let none = UInt32.max

    /// For blocks of `ring`. `byteCount` bounds what is kept; the pieces that are being read come on top of it.
    /// `isAtHand`: the page cache holds the log.
    init(for log: LogArea, ring: Range<UInt32>, keeping byteCount: Int, isAtHand: Bool = false) {
        blockByteCount = log.blockByteCount
        isWorthReadingAhead = log.undecided == nil && !isAtHand
        let useful = min(ring.count * log.blockByteCount, byteCount == 0 ? .max : byteCount)
        let largest =
            if log.undecided != nil {
                Self.undecidedPieceByteCount
            } else {
                isAtHand ? Self.copiedPieceByteCount : Self.largestPieceByteCount
            }
        let most = min(largest, useful / Self.leastPieces) / log.blockByteCount
        pieceBlockCount = max(1, most)
        keptPieceLimit = byteCount / (pieceBlockCount * log.blockByteCount)
    }

    func open() -> Piece {
        state.withLock { state in
            let number = state.free.popLast() ?? addPiece(to: &state)
            state.isOpen[number] = true
            return Piece(number: number, buffer: state.buffers[number])
        }
    }

    private func addPiece(to state: inout State) -> Int {
        state.buffers.append(AlignedBuffer(byteCount: pieceBlockCount * blockByteCount))
        state.keptBlockCounts.append(0)
        state.isOpen.append(false)
        return state.buffers.count - 1
    }

    /// Only kept blocks are of interest from now on.
    func close(_ piece: Piece) {
        state.withLock { state in
            state.isOpen[piece.number] = false
            if state.keptBlockCounts[piece.number] == 0 { state.free.append(piece.number) }
        }
    }

    /// Keeps a block of an open piece, and answers its place; `none` when the bound is reached.
    func keep(_ index: Int, of piece: Piece) -> UInt32 {
        state.withLock { state in
            if state.keptBlockCounts[piece.number] == 0 {
                guard state.keptPieceCount < keptPieceLimit else { return Self.none }
                state.keptPieceCount += 1
            }
            state.keptBlockCounts[piece.number] += 1
            return UInt32(piece.number * pieceBlockCount + index)
        }
    }

    /// The place may hold another block from now on.
    func release(_ place: UInt32) {
        guard place != Self.none else { return }
        let number = Int(place) / pieceBlockCount
        state.withLock { state in
            state.keptBlockCounts[number] -= 1
            guard state.keptBlockCounts[number] == 0 else { return }
            state.keptPieceCount -= 1
            if !state.isOpen[number] { state.free.append(number) }
        }
    }

    /// Where a kept block lies.
    func part(at place: UInt32) -> BufferPart {
        let start = Int(place) % pieceBlockCount * blockByteCount
        return BufferPart(
            state.withLock { $0.buffers[Int(place) / pieceBlockCount] }, start..<start + blockByteCount)
    }
}
