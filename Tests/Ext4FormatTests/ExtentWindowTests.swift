import Ext4Format
import Testing

@Suite("The window onto a leaf of extents")
struct ExtentWindowTests {
    private static func leaf(_ extents: [Extent]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 1024)
        bytes.change { ExtentNode(depth: 0, capacity: 84, entries: .leaf(extents)).encode(into: &$0) }
        return bytes
    }
    private static func extent(_ first: UInt32, _ count: UInt32) -> Extent {
        Extent(first: FileBlock(first), count: count, start: FSBlock(1000 + UInt64(first)))
    }

    /// P6: a leaf that was whole when it was read may be so no more, where another file has its block too.
    @Test func anEntryThatCannotBeIsCorrupt() throws {
        let good = Self.leaf([Self.extent(0, 9000), Self.extent(9000, 10), Self.extent(9100, 10)])
        let window = try ExtentWindow(good.span.bytes, around: 9005..<9006)
        #expect(window.extents.map(\.count) == [9000, 10, 10])
        for (offset, value) in [(16, 0), (17, 0xFF), (24, 0)] {
            var bad = good
            bad[offset] = UInt8(value)
            if offset == 16 { bad[17] = 0 }
            #expect(throws: Ext4Error.self) { try ExtentWindow(bad.span.bytes, around: 9005..<9006) }
        }
    }

    /// P6: whatever is in the leaf, what the window takes can be put back.
    @Test func noLeafTrapsTheWindow() {
        var generator = SystemRandomNumberGenerator()
        let good = Self.leaf((0..<40).map { Self.extent($0 * 20, 15) })
        var taken = 0
        for _ in 0..<5000 {
            var bytes = good
            for _ in 0..<Int.random(in: 0...4, using: &generator) {
                bytes[Int.random(in: 0..<500, using: &generator)] = .random(in: 0...255, using: &generator)
            }
            let start = UInt64.random(in: 0..<800, using: &generator)
            guard let window = try? ExtentWindow(bytes.span.bytes, around: start..<start + 5) else { continue }
            taken += 1
            if window.admits(window.extents) { bytes.change { window.replace(with: window.extents, in: &$0) } }
        }
        #expect(taken > 500)
    }
}
