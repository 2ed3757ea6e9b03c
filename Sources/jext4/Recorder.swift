internal import BlockIO
internal import CrashLab
internal import Ext4Format
internal import Server

/// `-o record=LOG`: every change of the device goes to a dm-log-writes log as well.
@Sendable func startRecording(_ device: any BlockDevice, _ file: String) throws(Ext4Error) -> Recording {
    let writer = try WriteLogWriter(path: file, sectorByteCount: device.sectorByteCount)
    return Recording(device: RecordingDevice(device, recorder: writer)) { () throws(Ext4Error) in try writer.close() }
}
