/// A little-endian integer at a fixed byte offset: all of ext4 but its journal.
@frozen @usableFromInline package struct LE<Value: FixedWidthInteger & BitwiseCopyable>: Sendable {
    @usableFromInline package let offset: Int
    @inlinable package init(_ offset: Int) { self.offset = offset }
}

/// A big-endian integer at a fixed byte offset: jbd2 is big-endian, the rest of ext4 is not.
@frozen @usableFromInline package struct BE<Value: FixedWidthInteger & BitwiseCopyable>: Sendable {
    @usableFromInline package let offset: Int
    @inlinable package init(_ offset: Int) { self.offset = offset }
}

/// An integer in the byte order of the machine at a fixed byte offset: what is spoken with the kernel.
@frozen @usableFromInline package struct Host<Value: FixedWidthInteger & BitwiseCopyable>: Sendable {
    @usableFromInline package let offset: Int
    @inlinable package init(_ offset: Int) { self.offset = offset }
}

// The only raw loads and stores of the project. Both are bounds-checked in every build.

extension RawSpan {
    @inlinable package subscript<Value>(_ field: LE<Value>) -> Value {
        unsafe Value(littleEndian: unsafeLoadUnaligned(fromByteOffset: field.offset, as: Value.self))
    }
    @inlinable package subscript<Value>(_ field: BE<Value>) -> Value {
        unsafe Value(bigEndian: unsafeLoadUnaligned(fromByteOffset: field.offset, as: Value.self))
    }
    @inlinable package subscript<Value>(_ field: Host<Value>) -> Value {
        unsafe unsafeLoadUnaligned(fromByteOffset: field.offset, as: Value.self)
    }
    /// Traps when `range` does not lie within the span: check lengths that come from an image first.
    @inlinable package func array(_ range: Range<Int>) -> [UInt8] {
        let part = extracting(range)
        return unsafe part.withUnsafeBytes { unsafe [UInt8]($0) }
    }
}

extension MutableRawSpan {
    @inlinable package subscript<Value>(_ field: LE<Value>) -> Value {
        get { unsafe Value(littleEndian: unsafeLoadUnaligned(fromByteOffset: field.offset, as: Value.self)) }
        set { storeBytes(of: newValue.littleEndian, toByteOffset: field.offset, as: Value.self) }
    }
    @inlinable package subscript<Value>(_ field: BE<Value>) -> Value {
        get { unsafe Value(bigEndian: unsafeLoadUnaligned(fromByteOffset: field.offset, as: Value.self)) }
        set { storeBytes(of: newValue.bigEndian, toByteOffset: field.offset, as: Value.self) }
    }
    @inlinable package subscript<Value>(_ field: Host<Value>) -> Value {
        get { unsafe unsafeLoadUnaligned(fromByteOffset: field.offset, as: Value.self) }
        set { storeBytes(of: newValue, toByteOffset: field.offset, as: Value.self) }
    }
    /// Copies all of `source` to `offset`. Traps when it does not fit.
    @inlinable package mutating func copy(_ source: RawSpan, at offset: Int) {
        precondition(offset >= 0 && offset + source.byteCount <= byteCount)
        unsafe withUnsafeMutableBytes { to in
            unsafe source.withUnsafeBytes { from in
                guard from.count > 0 else { return }
                unsafe UnsafeMutableRawBufferPointer(rebasing: to[offset...]).copyMemory(from: from)
            }
        }
    }
    @inlinable package mutating func copy(_ source: [UInt8], at offset: Int) {
        copy(unsafe source.span.bytes, at: offset)
    }
    /// Moves `count` bytes inside the span; the ranges may overlap. Traps out of bounds.
    @inlinable package mutating func move(from: Int, to: Int, count: Int) {
        precondition(from >= 0 && to >= 0 && count >= 0 && from + count <= byteCount && to + count <= byteCount)
        guard count > 0 else { return }
        unsafe withUnsafeMutableBytes { bytes in
            unsafe bytes.baseAddress.unsafelyUnwrapped.advanced(by: to)
                .copyMemory(from: bytes.baseAddress.unsafelyUnwrapped.advanced(by: from), byteCount: count)
        }
    }
    @inlinable package mutating func fill(_ range: Range<Int>, with byte: UInt8) {
        precondition(range.lowerBound >= 0 && range.upperBound <= byteCount)
        unsafe withUnsafeMutableBytes { bytes in
            for index in range { unsafe bytes[index] = byte }
        }
    }
}
