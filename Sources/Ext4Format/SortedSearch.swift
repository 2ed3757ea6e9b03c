extension Array {
    /// The index of the first element for which `belongsInSecond` holds; the elements for which it does not come first.
    @inlinable package func partitioningIndex(where belongsInSecond: (Element) -> Bool) -> Int {
        var low = 0, high = count
        while low < high {
            let middle = (low + high) / 2
            if belongsInSecond(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
