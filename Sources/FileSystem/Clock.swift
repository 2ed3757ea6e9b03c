package import Ext4Format
internal import Glibc

/// The time of day of the machine, in nanoseconds.
@Sendable package func systemClock() -> Timestamp {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return Timestamp(seconds: Int64(time.tv_sec), nanoseconds: UInt32(time.tv_nsec))
}
