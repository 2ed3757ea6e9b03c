internal import Ext4Format
internal import Synchronization

/// Where blocks of an inode lie that holds metadata, as its map last said: a name is looked up through two or three of
/// them. Changed with the mapping lock held, for reading by who remembers and for writing by who forgets. Who asks
/// holds what keeps these blocks mapped: the inode lock of a directory, a reference to a symlink; or is alone.
final class KnownPlaces: Sendable {
    /// Sorted. What an indirect map gives begins where it was asked, so that they may overlap.
    private let extents = Mutex<[Extent]>([])
    /// More are looked up again: they would cost as much to keep in order.
    private static let limit = 64

    /// Nil where nothing is known.
    func start(of block: FileBlock) -> FSBlock? {
        extents.withLock { extents in
            let after = extents.partitioningIndex { $0.first > block }
            guard after > 0, extents[after - 1].end > UInt64(block.rawValue) else { return nil }
            return extents[after - 1].start + UInt64(block.rawValue - extents[after - 1].first.rawValue)
        }
    }

    /// `extent` is what the map says now.
    func remember(_ extent: Extent) {
        extents.withLock { extents in
            if extents.count >= Self.limit { extents.removeAll(keepingCapacity: true) }
            let place = extents.partitioningIndex { $0.first >= extent.first }
            if place < extents.count, extents[place].first == extent.first { return }
            extents.insert(extent, at: place)
        }
    }

    /// The map is about to change.
    func forget() { extents.withLock { if !$0.isEmpty { $0.removeAll(keepingCapacity: true) } } }
}
