package import Ext4Format

/// A device of which some bytes are not decided until they matter: the crash laboratory's disk after a power cut.
///
/// A read decides every byte that it returns. Whoever needs to know less about a range asks, so that only what the
/// answer needs is decided.
package protocol UndecidedDevice: BlockDevice {
    /// What `question` finds in the range. Where different contents give different answers, one of the answers becomes
    /// the truth, and all contents that give it stay possible. `question` has no side effects: it is called for many
    /// contents. Errors are those of a read.
    func ask<Answer: Hashable & Sendable>(
        at offset: UInt64, count: Int, _ question: (RawSpan) -> Answer
    ) throws(Ext4Error) -> Answer

    /// How many bytes from `offset` on are decided already, `limit` at the most: to read them decides nothing.
    func decidedByteCount(at offset: UInt64, limit: Int) -> Int
}
