internal import CXXHash
internal import Ext4Format

/// 128 bits that stand for what an image holds beyond a base that all share. The order of the parts does not matter.
package struct ImageHash: Hashable, Sendable {
    package private(set) var low: UInt64 = 0
    package private(set) var high: UInt64 = 0

    package init() {}

    /// Of one part alone.
    init(_ bytes: RawSpan, at place: UInt64) { add(bytes, at: place) }

    /// Whole sectors, each for itself: so the cuts between reads or writes do not matter.
    mutating func add(sectors bytes: RawSpan, at offset: UInt64) {
        for start in stride(from: 0, to: bytes.byteCount, by: 512) {
            add(bytes.extracting(start..<start + 512), at: offset + UInt64(start))
        }
    }

    /// A part that is there twice is not there.
    mutating func add(_ other: ImageHash) {
        low ^= other.low
        high ^= other.high
    }

    /// The same bytes at another place are something else.
    mutating func add(_ bytes: RawSpan, at place: UInt64) {
        let hash = unsafe bytes.withUnsafeBytes {
            unsafe XXH3_128bits_withSeed($0.baseAddress, $0.count, place)
        }
        low ^= hash.low64
        high ^= hash.high64
    }

    package var text: String { Self.digits(high) + Self.digits(low) }

    private static func digits(_ value: UInt64) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: 16 - text.count) + text
    }
}
